"""A row as a prompt with a chosen and a rejected response, or the reason to leave the row out."""

from collections.abc import Mapping

from spac_repro.data import dialogue
from spac_repro.data.columns import Layout, is_empty
from spac_repro.data.dialogue import Messages
from spac_repro.documents.strict_json import json_type
from spac_repro.errors import UserError

EQUAL = "chosen and rejected are equal"
EQUAL_BUT_ENDS = "chosen and rejected differ only in white space at their ends"
EMPTY = "a response is empty"
PARTED = "chosen and rejected part before the last turn"


class DroppedRowError(Exception):
    """A row that states no preference between two responses to one prompt. `reason` is one of the constants above."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def as_object(row: object, where: str) -> Mapping[str, object]:
    """Return a row that must be an object.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(row, dict):
        remedy = "; name a file that holds one list .json" if isinstance(row, list) else ""
        raise UserError(f"{where}: a row must be an object with prompt, chosen, rejected; found {json_type(row)}{remedy}")
    return row


def pair(row: Mapping[str, object], layout: Layout, where: str) -> tuple[Messages, str, str]:
    """Read a row.

    Args:
        row: the values of its columns.
        layout: what the columns mean.
        where: location of the row, for errors.

    Returns:
        The prompt's messages, and the texts of the chosen and of the rejected response.

    Raises:
        UserError: the row is no pair of responses to one prompt.
        DroppedRowError: it is one, but states no preference.
    """
    layout.check_refused(row, where)
    implicit, chosen, rejected = _responses(row[layout.chosen], row[layout.rejected], layout, where)
    prompt = _prompt(row[layout.prompt] if layout.prompt else None, implicit, layout.prompt or "prompt", where)
    prompt = _with_system(prompt, row[layout.system] if layout.system else None, f"{where}: {layout.system}")
    dialogue.check_roles(prompt, f"{where}: prompt")
    if not chosen.strip() or not rejected.strip():
        raise DroppedRowError(EMPTY)
    if chosen.strip() == rejected.strip():
        raise DroppedRowError(EQUAL if chosen == rejected else EQUAL_BUT_ENDS)
    if layout.prompt and dialogue.asks_for_turn(row[layout.prompt]):  # the white space around a turn is no part of it
        return prompt, chosen.strip(), rejected.strip()
    return prompt, chosen, rejected


# Responses


def _responses(first: object, second: object, layout: Layout, where: str) -> tuple[Messages, str, str]:
    """The messages that both responses begin with (none, if they are no dialogues), and the text of both."""
    places = f"{where}: {layout.chosen}", f"{where}: {layout.rejected}"
    values = tuple(dialogue.parsed(value, place) for value, place in zip((first, second), places, strict=True))
    if any(value is None or value == [] for value in values):
        raise DroppedRowError(EMPTY)
    as_dialogues = all(map(dialogue.is_text_dialogue, values))
    (chosen_prompt, chosen), (rejected_prompt, rejected) = (
        _last_turn(value, as_dialogues, place) for value, place in zip(values, places, strict=True)
    )
    if chosen_prompt == rejected_prompt:
        return chosen_prompt, chosen, rejected
    shared = _shared_beginning(chosen_prompt, rejected_prompt)
    if any(message["role"] == "user" for message in shared):
        raise DroppedRowError(PARTED)
    raise UserError(
        f"{where}: {layout.chosen} and {layout.rejected} have different prompts: they share no beginning; both must answer the "
        "same prompt"
    )


def _last_turn(value: object, as_dialogue: bool, where: str) -> tuple[Messages, str]:
    """The messages before a response's last turn (none, if it is no dialogue), and that turn's text."""
    if isinstance(value, str) and not as_dialogue:
        return (), dialogue.text(value, where)
    turns = dialogue.text_turns(value, where) if isinstance(value, str) else dialogue.messages(value, where)
    if turns[-1]["role"] != "assistant":
        raise UserError(f"{where}: the last message must be the assistant's, found role {turns[-1]['role'][:40]!r}")
    if turns[-2:-1] and turns[-2]["role"] == "assistant":
        raise UserError(f"{where}: ends in two messages of the assistant; join them, or remove the row")
    return turns[:-1], turns[-1]["content"]


def _shared_beginning(first: Messages, second: Messages) -> Messages:
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    return first[:same]


# Prompts


def _prompt(value: object, implicit: Messages, column: str, where: str) -> Messages:
    """The prompt of a column, or the one that the responses begin with; where a row has both, they must agree."""
    value = dialogue.parsed(value, f"{where}: {column}")
    if isinstance(value, dict) and "messages" in value:  # OpenAI's preference format
        if not is_empty(value.get("tools")):
            raise UserError(f"{where}: {column}: has tools, which are not rendered; remove the row")
        value = value["messages"]
    if value is None:
        if not implicit:
            raise UserError(f"{where}: the field prompt is missing, and the responses are no dialogues that begin with one")
        return implicit
    if isinstance(value, str):
        return _text_prompt(value, implicit, f"{where}: {column}")
    prompt = dialogue.messages(value, f"{where}: {column}")
    if not prompt:
        raise UserError(f"{where}: {column}: has no message")
    if implicit and implicit != prompt:
        raise UserError(f"{where}: {column} and chosen have different prompts; they must be the same")
    return prompt


def _text_prompt(value: str, implicit: Messages, where: str) -> Messages:
    if dialogue.is_text_dialogue(value):
        turns = dialogue.text_turns(value, where)
        *earlier, last = turns
        if last == {"role": "assistant", "content": ""}:
            turns = tuple(earlier)
        elif last["role"] == "assistant":  # the response goes on behind the white space
            turns = (*earlier, {**last, "content": last["content"] + value[len(value.rstrip()) :]})
        if not implicit or implicit == turns:
            return turns
    content = dialogue.text(value, where)
    if not implicit:
        return ({"role": "user", "content": content},)
    # In published data sets the two differ in white space only, so only that is tolerated.
    if content.split() not in [message["content"].split() for message in implicit if message["role"] == "user"]:
        raise UserError(f"{where}: is not a user message of chosen; both must be the same prompt")
    return implicit


def _with_system(prompt: Messages, value: object, where: str) -> Messages:
    """The prompt led by a row's system message, if it has one."""
    content = "" if value is None else dialogue.text(value, where)
    if not content:
        return prompt
    if prompt[0]["role"] != "system":
        return ({"role": "system", "content": content}, *prompt)
    if prompt[0]["content"] != content:
        raise UserError(f"{where}: the prompt has another system message; keep one of them")
    return prompt
