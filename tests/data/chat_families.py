"""Chat models of known families: their templates and stop tokens, with a small tokenizer and random weights."""

from typing import Any, NamedTuple

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


class Family(NamedTuple):
    """A chat template, and what ends what."""

    template: str
    eos: str  # the tokenizer's end-of-sequence
    of_model: tuple[str, ...]  # the end-of-sequence tokens that generation_config.json names
    end: str  # what the data's responses end with
    stops: int  # how many stop tokens there are


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim"
    " + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n'"
    " + m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
OPEN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n\\n' }}{% endfor %}{{ 'assistant:' }}"
FAMILIES = {
    "smollm2 with another eos": Family(CHATML, "<|endoftext|>", ("<|endoftext|>", "<|im_end|>"), "<|im_end|>", 2),
    "llama 3": Family(LLAMA_3, "<|end_of_text|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), "<|eot_id|>", 3),
    "gemma": Family(GEMMA, "<eos>", ("<eos>", "<end_of_turn>"), "<end_of_turn>", 2),
    "gemma, its turn end in the template only": Family(GEMMA, "<eos>", ("<eos>",), "<end_of_turn>", 2),
    "phi 3": Family(PHI_3, "<|endoftext|>", ("<|endoftext|>",), "<|end|>", 2),
    "llama 2": Family(LLAMA_2, "</s>", ("</s>",), "</s>", 1),
    "text before the end of a turn": Family(CHATML.replace("<|im_end|>", "</a><|im_end|>"), "</s>", (), "<|im_end|>", 2),
    "no token ends a turn": Family(OPEN, "</s>", (), "</s>", 1),
    "a token that begins with another": Family(CHATML.replace("<|im_end|>", "<|end|>more"), "</s>", (), "<|end|>more", 2),
}
SPECIAL = sorted(
    {"<s>", "<|im_start|>", "<|start_header_id|>", "<|end_header_id|>", "<start_of_turn>", "<|user|>", "<|assistant|>"}
    | {token for family in FAMILIES.values() for token in (family.eos, *family.of_model, family.end)}
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789:+=() \n"
VOCABULARY = ["?", *SPECIAL, *LETTERS]


def make_tokenizer(chat_template: str | None, eos: str) -> PreTrainedTokenizerFast:
    """A token for each letter; other characters are unknown."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split("", behavior="isolated")
    backend.decoder = decoders.Fuse()
    extra = [token for token in SPECIAL if token not in ("<s>", eos)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token=eos,
        unk_token="?",
        additional_special_tokens=extra,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(family: Family, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> Any:
    """Random weights, with the generation_config of the family."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=512,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
    with torch.no_grad():  # larger logits, up and down, so that greedy decoding meets them too
        model.lm_head.weight[tokenizer.convert_tokens_to_ids([family.eos, *family.of_model, family.end])] *= 2
    stops = tokenizer.convert_tokens_to_ids(list(family.of_model))
    model.generation_config = GenerationConfig(
        eos_token_id=stops or None, do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.05
    )
    return model
