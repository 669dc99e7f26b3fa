"""The one form of an error about what somebody wrote: `WHERE, line N: KEY: problem; remedy`."""

from spac_repro.errors import UserError

MAX_MESSAGE_LENGTH = 300  # characters of a whole message


def user_error(where: str, problem: str, *, line: int | None = None, key: str = "", remedy: str = "") -> UserError:
    """An error in one line of at most 300 characters, without control characters. The longest of its parts are cut first."""
    place = f", line {line}" if line else ""
    signs = len(place) + len(": : ; ")
    where, key, problem, remedy = _fit([one_line(part) for part in (where, key, problem, remedy)], MAX_MESSAGE_LENGTH - signs)
    return UserError(f"{where}{place}: {f'{key}: ' if key else ''}{problem}{f'; {remedy}' if remedy else ''}")


def one_line(text: object, limit: int = MAX_MESSAGE_LENGTH) -> str:
    """A text in one line of printable characters, cut in its middle to `limit` characters."""
    shown = " ".join(str(text).split())
    return _cut("".join(character for character in shown if character.isprintable()), limit)


def _fit(parts: list[str], total: int) -> list[str]:
    most = total
    while sum(min(len(part), most) for part in parts) > total:
        most -= 1
    return [_cut(part, most) for part in parts]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - (most - most // 2 - 1) :]}"
