"""What must be known of a tokenizer, in one place: its special tokens, a text's own tokens, its identity; and the built-in world's.

Others ask here, and read no attribute of a tokenizer's for it.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from spac_repro.data import world
from spac_repro.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast


WORLD_VOCABULARY = ("<pad>", "<s>", "</s>", *world.TASKS, *world.CHARACTERS)  # the vocabulary of the built-in world


def bos_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that begins a text.

    Raises:
        UserError: there is none.
    """
    return _special(tokenizer.bos_token_id, "begins a text (bos_token), which a supervised start needs")


def eos_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends a response.

    Raises:
        UserError: there is none.
    """
    return _special(tokenizer.eos_token_id, "ends a response (eos_token)")


def pad_token_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that fills up rows; it is masked everywhere, so the one that ends a response serves where there is none."""
    return int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else eos_token_id(tokenizer)


def _special(token: int | None, what: str) -> int:
    if token is None:
        raise UserError(f"the policy's tokenizer has no token that {what}; choose a policy with one")
    return int(token)


def special_token_ids(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """The special tokens as a model's configuration names them."""
    return {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": pad_token_id(tokenizer)}


def has_chat_template(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether it knows how a conversation is written."""
    return bool(tokenizer.chat_template)


def token_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """A text's own tokens, no special one before or after them."""
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def identity(tokenizer: "PreTrainedTokenizerBase") -> dict[str, str | None]:
    """Hashes of what turns text into tokens: the tokenizer, and the chat template (None where there is none)."""
    content = json.loads(tokenizer.backend_tokenizer.to_str())  # all are fast ones here
    content |= {"padding": None, "truncation": None}  # how it was called last
    template = tokenizer.chat_template
    texts = {
        "tokenizer_sha256": json.dumps(content, sort_keys=True),
        "chat_template_sha256": json.dumps(template, sort_keys=True) if isinstance(template, dict) else template,
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() if text else None for name, text in texts.items()}


def world_tokenizer() -> "PreTrainedTokenizerFast":
    """The built-in world's tokens: the words for its tasks, and single characters."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORLD_VOCABULARY)}, unk_token="<pad>"))
    # A task's name is one token before its colon only: "add" also stands in words, and there it is three letters.
    pattern = Regex(f"(?:{'|'.join(world.TASKS)})(?=:)|[\\s\\S]")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pattern, behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", clean_up_tokenization_spaces=False
    )
