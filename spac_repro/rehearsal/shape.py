"""The shape of a recipe's policy, and random weights with its widths and any number of layers."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, MistralConfig, PreTrainedModel, PreTrainedTokenizerBase

from spac_repro.data import tokenizers
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.model import architectures, policy, policy_tokenizer
from spac_repro.policy_settings import PolicySettings


@dataclass(frozen=True)
class Shape:
    """The configuration of a policy, and its tokenizer."""

    settings: PolicySettings
    config: Any  # transformers' configuration of the whole model
    tokenizer: PreTrainedTokenizerBase
    stand_in: bool  # whether the tokenizer is one of bytes, because the model's own is not at hand
    source: str  # where the configuration comes from, in words

    @property
    def layers(self) -> int:
        """The layers of the whole model."""
        return int(self.config.num_hidden_layers)

    @cached_property
    def parameters_of_a_layer(self) -> int:
        """Parameters of one layer."""
        return _parameters(self.with_layers(2)) - _parameters(self.with_layers(1))

    def parameters(self, layers: int) -> int:
        """Parameters of a model of so many layers. All layers of the architectures that are trained here have equally many."""
        return _parameters(self.with_layers(1)) + (layers - 1) * self.parameters_of_a_layer

    @property
    def untouched(self) -> int:
        """Parameters that take part in no product: the input embeddings, unless they are the output layer, too."""
        return 0 if self.config.tie_word_embeddings else int(self.config.vocab_size * self.config.hidden_size)

    def with_layers(self, layers: int) -> Any:
        """The configuration with another number of layers, the first of the whole model's."""
        config = copy.deepcopy(self.config)
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        return config


def of_policy(settings: PolicySettings) -> Shape:
    """Read the shape of a recipe's policy from what is on this machine; no weights are read.

    Raises:
        UnfitEnvironmentError: neither the model's configuration nor its published shape is at hand.
        UserError: the model's files are damaged.
    """
    if settings.source == "random":
        assert settings.architecture is not None  # the recipe was checked for it
        one = settings.architecture.model_copy(update={"num_hidden_layers": 1})
        model, tokenizer = policy.create_initial(settings.model_copy(update={"architecture": one}), seed=0)
        model.config.num_hidden_layers = settings.architecture.num_hidden_layers
        return Shape(settings, model.config, tokenizer, False, "the recipe's architecture")
    if settings.source == "package":
        file = policy_tokenizer.gguf_file(settings)
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        return Shape(settings, config, policy_tokenizer.load(settings), False, f"the package {settings.name}")
    try:
        folder = policy_tokenizer.folder(settings, local_files_only=True)
    except UnfitEnvironmentError:
        return _published(settings)
    tokenizer = policy_tokenizer.load(settings)  # refuses a folder that is not to be trusted
    where = "the model's folder" if settings.source == "folder" else "the hub's cache"
    return Shape(settings, AutoConfig.from_pretrained(folder), tokenizer, False, where)


def _published(settings: PolicySettings) -> Shape:
    """The published shape of Mistral 7B, which is transformers' default, if the recipe's model has its number of parameters.

    Raises:
        UnfitEnvironmentError: it has another number, so the shape is not known here.
    """
    shape = Shape(settings, MistralConfig(), byte_tokenizer(), True, "the published shape of Mistral 7B, which has its parameters")
    if shape.parameters(shape.layers) != settings.num_parameters:
        raise UnfitEnvironmentError(
            f"the shape of {settings.name} is not known here: it is not in the hub's cache; run `spac-repro prefetch` where there "
            "is a network, or rehearse there"
        )
    return shape


def _parameters(config: Any) -> int:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return sum(parameter.numel() for parameter in model.parameters())


def create(shape: Shape, layers: int, seed: int, stops: Sequence[int]) -> PreTrainedModel:
    """Create random weights with the widths of a shape, in the recipe's dtype and with its attention.

    Args:
        shape: the whole model's shape.
        layers: the number of layers.
        seed: of the weights.
        stops: tokens at which generation stops, besides the tokenizer's own.
    """
    settings, config = shape.settings, shape.with_layers(layers)
    attention = architectures.attention_to_load(config.model_type, settings.attn_implementation)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options = {"dtype": getattr(torch, settings.dtype), "attn_implementation": attention}
        model = AutoModelForCausalLM.from_config(config, **options)  # type: ignore[no-untyped-call]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=[int(shape.tokenizer.eos_token_id), *stops]
    )
    prepared: PreTrainedModel = policy.prepare(model, settings.attn_implementation)
    return prepared


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Build a tokenizer with one token a byte and a plain chat template: it stands in for one that is not at hand."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ("<unk>", "<s>", "</s>")
    vocabulary = {token: i for i, token in enumerate((*special, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.chat_template = (
        "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}{{ '</s>' if m['role'] == 'assistant' else '' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    return made


def stops_for(shape: Shape, used: set[int], mean: float) -> list[int]:
    """Choose stop tokens with which a model of random weights ends a response after `mean` tokens in the mean.

    Random weights give all tokens nearly the same probability. So a response ends at each token with the probability that the
    stop tokens have among all, and lengths are geometric.

    Args:
        shape: the whole model's shape.
        used: tokens that occur in the rows, which cannot be stop tokens.
        mean: mean length of a response, in tokens.
    """
    free = [token for token in range(int(shape.config.vocab_size)) if token not in used]
    special = set(tokenizers.special_token_ids(shape.tokenizer).values())
    free = [token for token in free if token not in special and token not in set(shape.tokenizer.all_special_ids)]
    number = min(len(free), max(0, round(shape.config.vocab_size / max(mean, 1)) - 1))
    return [free[(i * len(free)) // number] for i in range(number)] if number else []
