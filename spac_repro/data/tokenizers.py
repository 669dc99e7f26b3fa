"""Tokenizers: special tokens, token ids without them, identity; and the tokenizer of the built-in world.

Other modules ask here instead of reading a tokenizer's attributes, so that missing special tokens are handled in one place.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from spac_repro.data import world
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


WORLD_VOCABULARY = ("<pad>", "<s>", "</s>", *world.TASKS, *world.CHARACTERS)


def bos_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the beginning-of-sequence token.

    Raises:
        UserError: the tokenizer has none.
    """
    return _required(tokenizer.bos_token_id, "begins a text (bos_token), which a supervised start needs")


def eos_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the end-of-sequence token, which ends a response.

    Raises:
        UserError: the tokenizer has none.
    """
    return _required(tokenizer.eos_token_id, "ends a response (eos_token)")


def pad_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the padding token; a tokenizer without one uses end-of-sequence, because padding is masked everywhere.

    Raises:
        UserError: the tokenizer has neither.
    """
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else eos_token_id(tokenizer)


def unknown_token_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """Return the token that stands for text that the tokenizer cannot encode; None where it can encode every text."""
    token = tokenizer.unk_token or getattr(tokenizer.backend_tokenizer.model, "unk_token", None)
    return int(tokenizer.convert_tokens_to_ids(str(token))) if token else None  # type: ignore[arg-type]


def _required(token: int | None, purpose: str) -> int:
    if token is None:
        raise UserError(f"the policy's tokenizer has no token that {purpose}; choose a policy that has one")
    return int(token)


def special_token_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return the special tokens under their names in a model's configuration.

    Raises:
        UserError: the tokenizer has no end-of-sequence token.
    """
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": pad_token_id(tokenizer)}


def has_chat_template(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer has a chat template."""
    return bool(tokenizer.chat_template)


def token_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Return a text's token ids without special tokens."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def identity(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str | None]:
    """Return hashes of the tokenizer and of its chat template (None if it has none)."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())  # every tokenizer here is a fast one
    content |= {"padding": None, "truncation": None}  # these depend on the last call
    template = tokenizer.chat_template
    texts = {
        "tokenizer_sha256": json.dumps(content, sort_keys=True),
        "chat_template_sha256": json.dumps(template, sort_keys=True) if isinstance(template, dict) else template,
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() if text else None for name, text in texts.items()}


def world_tokenizer() -> "PreTrainedTokenizerFast":
    """Build the tokenizer of the built-in world: one token per task name and per character."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORLD_VOCABULARY)}, unk_token="<pad>"))
    # A task's name is one token only before a colon: the letters "add" also occur within words.
    pattern = Regex(f"(?:{'|'.join(world.TASKS)})(?=:)|[\\s\\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
