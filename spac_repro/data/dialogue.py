"""Dialogues as data sets write them: lists of messages, ShareGPT's `from` and `value`, and HH-RLHF's text with speakers."""

import re
from itertools import groupby

from spac_repro.data.columns import is_empty
from spac_repro.documents import strict_json
from spac_repro.documents.errors import one_line
from spac_repro.documents.strict_json import json_type
from spac_repro.errors import UserError

Message = dict[str, str]
Messages = tuple[Message, ...]

_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant"}  # ShareGPT's names
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*\{")
_LIST_OF_MESSAGES = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:""")


def text(value: object, where: str) -> str:
    """Return a value that must be Unicode text.

    Raises:
        UserError: it is not.
    """
    if not isinstance(value, str):
        raise UserError(f"{where}: must be text, found {json_type(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: an unpaired surrogate at character {error.start}; it is no Unicode text") from error
    return value


def is_text_dialogue(value: object) -> bool:
    """Whether a value is a dialogue in HH-RLHF's form: turns that begin with "Human:" or "Assistant:" after an empty line."""
    return isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value


def asks_for_turn(value: object) -> bool:
    """Whether a text dialogue ends in "Assistant:", so that a response is the text of that turn."""
    return is_text_dialogue(value) and str(value).rstrip().endswith("\n\nAssistant:")


def text_turns(value: str, where: str) -> Messages:
    """Return the turns of a text dialogue, without the white space around them. Adjacent turns of one speaker become one."""
    parts = _TURN.split(text(value, where).strip())[1:]
    turns = groupby(zip(parts[::2], parts[1::2], strict=True), key=lambda turn: turn[0])
    return tuple(
        {"role": _SPEAKERS[speaker], "content": "\n\n".join(content.strip() for _, content in same).strip()}
        for speaker, same in turns
    )


def parsed(value: object, where: str) -> object:
    """Return a list of messages that a table holds as its JSON text; any other value as it is.

    Raises:
        UserError: the text looks like a list of messages and is not JSON, as Python's own notation is not.
    """
    if not isinstance(value, str) or not _LIST_OF_OBJECTS.match(value):
        return value
    try:
        found = strict_json.parse(value, where)
        return found if _LIST_OF_MESSAGES.match(value) or all(map(_is_message, found)) else value
    except UserError:
        if not _LIST_OF_MESSAGES.match(value):
            return value
        raise UserError(f"{where}: the text of a list of messages, but not as JSON; write it with json.dumps") from None


def messages(value: object, where: str) -> Messages:
    """Read a list of messages; one message alone is a list of one.

    Raises:
        UserError: the value is something else, a message lacks role or content, or it calls a tool.
    """
    listed = [value] if isinstance(value, dict) else value
    if not isinstance(listed, list):
        raise UserError(f"{where}: must be text or a list of messages, found {json_type(value)}")
    return tuple(_message(each, f"{where}, message {number}") for number, each in enumerate(listed, start=1))


def check_roles(prompt: Messages, where: str) -> None:
    """Check the roles of a prompt: an optional system message, then user and assistant in turn.

    Where the assistant is last, the response goes on with that message.

    Raises:
        UserError: the roles are others.
    """
    roles = [message["role"] for message in prompt]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or turns != (["user", "assistant"] * len(turns))[: len(turns)]:
        shown = ", ".join(one_line(role, 20) for role in roles[:8]) or "none"
        raise UserError(f"{where}: roles must be user, assistant, … in turn (system may lead); found {shown}")


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys())


def _message(value: object, where: str) -> Message:
    if not isinstance(value, dict):
        raise UserError(f"{where}: must be an object with role and content, found {json_type(value)}")
    for name in ("tool_calls", "function_call"):
        if not is_empty(value.get(name)):
            raise UserError(f"{where}: has {name}, and tools are not rendered; remove the row")
    role = text(_first(value, "role", "from"), f"{where}: role")
    if "content" not in value and "value" not in value:
        raise UserError(f"{where}: content: must be text, found nothing")
    return {"role": _ROLES.get(role, role), "content": _content(_first(value, "content", "value"), f"{where}: content")}


def _first(message: dict[str, object], *names: str) -> object:
    """The first of these members that is not null: a Parquet column may have the members of several formats."""
    return next((message[name] for name in names if message.get(name) is not None), None)


def _content(value: object, where: str) -> str:
    """The text of a message. Null is an empty text; a list of parts is their text."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return text(value, where)
    parts = []
    for number, part in enumerate(value, start=1):
        if not isinstance(part, dict) or part.get("type") != "text":
            found = one_line(part.get("type"), 40) if isinstance(part, dict) else json_type(part)
            raise UserError(f"{where}, part {number}: must be an object of type text, found {found}; remove the row")
        parts.append(text(part.get("text"), f"{where}, part {number}"))
    return "".join(parts)
