"""The name that was probably meant."""

import difflib
from collections.abc import Iterable

MAX_NAME_LENGTH = 100  # characters of a name that others are compared with: the comparison takes the square of its length


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """` (did you mean NAME?)` for a name close to `given`, or nothing.

    A dotted key may be right but for its group, so last parts are compared too.
    """
    if len(given) > MAX_NAME_LENGTH:
        return ""
    known = list(known)
    longer = [name for name in known if name.startswith(given)]
    if len(longer) == 1:
        return f" (did you mean {longer[0]}?)"
    tails = {name.rsplit(".", 1)[-1]: name for name in known}
    close = difflib.get_close_matches(given, known, n=1) or [
        tails[tail] for tail in difflib.get_close_matches(given.rsplit(".", 1)[-1], list(tails), n=1)
    ]
    return f" (did you mean {close[0]}?)" if close else ""
