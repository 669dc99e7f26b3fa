"""Suggest the name that the user probably meant."""

import difflib
from collections.abc import Iterable

MAX_NAME_LENGTH = 100  # longer names get no suggestion: the comparison's cost grows with the square of the length


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean NAME?)` for the known name that is closest to `name`, or an empty text.

    The last parts of dotted keys are compared too, because a key may be right but for its group.
    """
    if len(name) > MAX_NAME_LENGTH:
        return ""
    known = list(known)
    completions = [each for each in known if each.startswith(name)]
    if len(completions) == 1:
        return f" (did you mean {completions[0]}?)"
    last_parts = {each.rsplit(".", 1)[-1]: each for each in known}
    close = difflib.get_close_matches(name, known, n=1) or [
        last_parts[part] for part in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last_parts), n=1)
    ]
    return f" (did you mean {close[0]}?)" if close else ""
