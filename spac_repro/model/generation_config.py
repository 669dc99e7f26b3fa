"""The model's generation_config: the tokens at which it stops, kept with everything else when the model is saved."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import GENERATION_CONFIG_NAME

from spac_repro.data import tokenizers
from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line
from spac_repro.errors import UserError


def stop_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    """Return the end-of-sequence tokens in the model's generation_config; transformers' `generate` stops at each of them.

    A token without an embedding is left out, because it is never generated.

    Raises:
        UserError: they are not numbers of tokens.
    """
    embedding: Any = model.get_input_embeddings()
    listed = _as_list(getattr(model.generation_config, "eos_token_id", None), Path(model.name_or_path or ""))
    return tuple(token for token in listed if 0 <= token < embedding.weight.shape[0])


def stop_token_ids_in(folder: Path) -> tuple[int, ...]:
    """Return the same of a model folder whose weights are not loaded; tokens without an embedding are not left out.

    Raises:
        UserError: they are not numbers of tokens, or the file is damaged.
    """
    file = folder / GENERATION_CONFIG_NAME
    content = strict_json.read(file if file.exists() else folder / "config.json", dict)  # as transformers does
    return tuple(_as_list(content.get("eos_token_id"), folder))


def _as_list(tokens: Any, folder: Path) -> list[int]:
    listed = tokens if isinstance(tokens, list) else [] if tokens is None else [tokens]
    if not all(type(token) is int for token in listed):
        raise UserError(
            f"{folder / GENERATION_CONFIG_NAME}: eos_token_id is {one_line(repr(tokens), 60)}; "
            "give the number of a token, or a list of them"
        )
    return listed


def extended(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_tokens: Sequence[int]) -> GenerationConfig:
    """Return a copy of the model's generation_config that stops at further tokens, and names the tokenizer's special tokens.

    Args:
        model: the model.
        tokenizer: its tokenizer; its special tokens are named where the model's generation_config names none.
        stop_tokens: further stop tokens, behind the model's own.
    """
    config = copy.deepcopy(model.generation_config) or GenerationConfig()  # type: ignore[no-untyped-call]
    config._from_model_config = None  # noqa: SLF001  # it now has a file of its own
    for name, token in tokenizers.special_token_ids(tokenizer).items():
        if getattr(config, name) is None:
            setattr(config, name, token)
    stops = list(dict.fromkeys([*stop_token_ids(model), *stop_tokens])) or [tokenizers.eos_token_id(tokenizer)]
    config.eos_token_id = stops[0] if len(stops) == 1 else stops
    return config


def save(config: GenerationConfig, folder: Path) -> None:
    """Write generation_config.json. Its own `save_pretrained` refuses settings that published models have."""
    config.to_json_file(folder / GENERATION_CONFIG_NAME, keys_to_pop=["compile_config"])
