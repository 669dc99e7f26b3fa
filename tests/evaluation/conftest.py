"""What the tests of evaluation share: a model whose tokenizer begins every text with BOS."""

from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast


@pytest.fixture
def tiny(one_thread: None) -> Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerFast]]:
    """Makes the model."""
    return _tiny


def _tiny() -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A model of one layer, whose tokenizer puts BOS before every text. Every byte is a token."""
    alphabet = ["<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=258, max_position_embeddings=16384, bos_token_id=0, eos_token_id=1, initializer_range=0.2, **shape
    )
    return LlamaForCausalLM(config).eval(), PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")
