"""The one form of an error about a document: `WHERE, line N: KEY: problem; remedy`."""

from spac_repro.errors import UserError

MAX_MESSAGE_LENGTH = 300  # characters


def user_error(where: str, problem: str, *, line: int | None = None, key: str = "", remedy: str = "") -> UserError:
    """Make an error of one line of at most 300 printable characters. The longest parts are cut first.

    Args:
        where: The document's name, for example its path.
        problem: What is wrong.
        line: The line of the document, from 1.
        key: The dotted key that the error is about.
        remedy: What to do about it.
    """
    place = f", line {line}" if line else ""
    separators = len(place) + len(": : ; ")
    where, key, problem, remedy = _fit([one_line(part) for part in (where, key, problem, remedy)], MAX_MESSAGE_LENGTH - separators)
    return UserError(f"{where}{place}: {f'{key}: ' if key else ''}{problem}{f'; {remedy}' if remedy else ''}")


def one_line(text: object, limit: int = MAX_MESSAGE_LENGTH) -> str:
    """Return a text as one line of printable characters. Its middle is cut where it exceeds `limit` characters."""
    shown = " ".join(str(text).split())
    return _cut_middle("".join(character for character in shown if character.isprintable()), limit)


def _fit(parts: list[str], total: int) -> list[str]:
    """Cut the longest parts until all of them together have at most `total` characters."""
    limit = total
    while sum(min(len(part), limit) for part in parts) > total:
        limit -= 1
    return [_cut_middle(part, limit) for part in parts]


def _cut_middle(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit // 2]}…{text[len(text) - (limit - limit // 2 - 1) :]}"
