"""Text to tokens, with the difference between a template's special tokens and the same letters in what people wrote.

A tokenizer takes `<|im_end|>` for the special token wherever it finds these letters. Here only a template can write special
tokens: the encoder works on a copy of the tokenizer in which every special token has another name, a mark that no text holds. The
template's special tokens are replaced by their marks. Whatever people wrote stays letters, in the midst of the text around it.
"""

import json
import re
from collections.abc import Collection, Sequence
from typing import Any

from spac_repro.errors import UserError

# U+FDD0 to U+FDEF are noncharacters: Unicode reserves them for use within a program.
_MARK = "\ufdd0{}\ufdd1"
_MARKS = re.compile("\ufdd0\\d+\ufdd1")
_QUOTED = re.compile("\ufdd2([0-9a-f]+)\ufdd1")


class TextEncoder:
    """Encodes texts in which special tokens are marked.

    Attributes:
        prefix: the tokens that the tokenizer puts before every text, such as beginning-of-sequence.
        special: id of each special token by its name.
    """

    def __init__(self, tokenizer: Any, also_special: Collection[int] = ()) -> None:
        """Copy the tokenizer.

        Args:
            tokenizer: a fast Hugging Face tokenizer.
            also_special: added tokens that count as special although the tokenizer does not say so, such as stop tokens.

        Raises:
            UserError: the tokenizer is written in Python and cannot say which letters a token stands for.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(
                f"{type(tokenizer).__name__} does not say which letters a token stands for (offsets), so a response cannot be "
                "encoded behind its prompt; choose a policy with a tokenizer.json (a fast tokenizer)"
            )
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        # A letter, such as the `!` that some fill up rows with, is special nowhere in a text.
        self.special: dict[str, int] = {
            token["content"]: token["id"]
            for token in content["added_tokens"]
            if token["id"] in also_special or (token["special"] and len(token["content"]) > 1)
        }
        self.prefix = _prefix(tokenizer)
        self._encoder = _renamed(content, {name: self.mark(token) for name, token in self.special.items()})
        if wrong := [name for name, token in self.special.items() if self._encoder.token_to_id(self.mark(token)) != token]:
            raise UserError(f"the policy's tokenizer numbers the token {wrong[0]!r} in an unknown way; choose another policy")
        names = "|".join(re.escape(name) for name in sorted(self.special, key=len, reverse=True)) or "(?!)"
        self._names = re.compile(names)
        self._begins_name = re.compile(f"(?=(?:{names}|[\ufdd0-\ufdd2]))(.)", re.DOTALL)

    @staticmethod
    def mark(token: int) -> str:
        """Return the mark of a special token."""
        return _MARK.format(token)

    def names_special_token(self, text: str) -> bool:
        """Whether a text holds the name of a special token."""
        return self._names.search(text) is not None

    def quote(self, text: str) -> str:
        """Return a text, for use within a template, in which no name of a special token can be found."""
        return self._begins_name.sub(lambda found: f"\ufdd2{ord(found[1]):x}\ufdd1", text)

    def marked(self, rendered: str) -> str:
        """Mark the special tokens of a template, and undo `quote`."""
        return self.unquote(self._names.sub(lambda found: self.mark(self.special[found[0]]), rendered))

    def named(self, text: str) -> str:
        """Return a marked text with the names of its special tokens, for people."""
        for name, token in self.special.items():
            text = text.replace(self.mark(token), name)
        return text

    @staticmethod
    def unquote(text: str) -> str:
        """Undo `quote`."""
        return _QUOTED.sub(lambda found: chr(int(found[1], 16)), text) if "\ufdd2" in text else text

    def encode(self, text: str) -> Any:
        """Encode a marked text, without `prefix`: see `encode_batch`."""
        return self._encoder.encode(text, add_special_tokens=False)

    def encode_batch(self, texts: Sequence[str]) -> list[Any]:
        """Encode marked texts, without `prefix`.

        Returns:
            The tokens of each text (`ids`) and which of its characters each token stands for (`offsets`: begin and end).
        """
        encodings: list[Any] = self._encoder.encode_batch(list(texts), add_special_tokens=False)
        return encodings


def holds_mark(text: str) -> bool:
    """Whether a text that people wrote holds what this module keeps for itself."""
    return "\ufdd0" in text and _MARKS.search(text) is not None


def _prefix(tokenizer: Any) -> list[int]:
    """The tokens before a text; those behind it (`</s>`, `[SEP]`) would end a prompt."""
    bare, full = (list(tokenizer("a", add_special_tokens=special).input_ids) for special in (False, True))
    begin = next((i for i in range(len(full)) if bare and full[i : i + len(bare)] == bare), 0)
    return full[:begin]


def _renamed(content: dict[str, Any], marks: dict[str, str]) -> Any:
    """The tokenizer in which the special tokens have their marks for names, and which adds no token of its own."""
    from tokenizers import Tokenizer

    for token in content["added_tokens"]:
        if token["content"] in marks:
            # It is found next to letters as well: a response ends, whatever its last letter is.
            token |= {"content": marks[token["content"]], "special": True, "normalized": False, "single_word": False}
    model = content["model"]
    if model.get("dropout"):  # drops merges at random
        model["dropout"] = None
    if isinstance(model["vocab"], dict):
        model["vocab"] = {marks.get(name, name): token for name, token in model["vocab"].items()}
    else:  # Unigram: (piece, score) in the order of the ids; a piece found in the text would be a special token
        model["vocab"] = [[marks.get(piece, piece), score] for piece, score in model["vocab"]]
    if model.get("unk_token") in marks:
        model["unk_token"] = marks[model["unk_token"]]
    if merges := model.get("merges"):
        pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in merges)
        model["merges"] = [pair for pair in pairs if not marks.keys() & {*pair, "".join(pair)}]
    # A post-processor adds tokens, and may cut white space off the offsets.
    return Tokenizer.from_str(json.dumps({**content, "post_processor": None, "padding": None, "truncation": None}))
