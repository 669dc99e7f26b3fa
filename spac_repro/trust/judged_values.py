"""What a row expects of each fresh run, where it is not the same for all: its own start and a gain, or the nearest of some humps.

Runs of a seed share their start policy, and much of the spread of a later iterate's score is that of the start's. A row with a
*gain* expects the run's own start and the mean gain over it. A score may lie around one of two values, such as that of a start
policy that has or has not learned a format, and ten seeds may show only one of them. A row with *humps* states the others, and a
run is judged by the nearest. docs/decisions/17-secondary-rows.md says why, and what neither can do.
"""

from collections.abc import Sequence
from typing import NamedTuple

from spac_repro.trust.expected import ExpectedRow
from spac_repro.trust.expected_parts import Hump


class JudgedValues(NamedTuple):
    """A row as it is tested, and the fresh values in its terms."""

    row: ExpectedRow  # with the value and the spread that the test uses
    values: tuple[float, ...]  # one a run, to be compared with the row's value
    expected: float  # the mean over the runs of what the row expects, in the metric's unit
    note: str = ""


def judged_values(row: ExpectedRow, values: Sequence[float], starts: Sequence[float] | None = None) -> JudgedValues:
    """Put fresh values into the terms in which the row has a spread.

    Args:
        row: an expected row with a value.
        values: one a run.
        starts: the score of each run's own start; None where one is not known. A row with a gain is then compared by its value.
    """
    value = row.value
    assert value is not None
    if row.gain is not None and starts is not None:
        gained = row.model_copy(update={"value": row.gain.value, "sd": row.gain.sd})
        start = sum(starts) / len(starts)
        own = tuple(each - before for each, before in zip(values, starts, strict=True))
        return JudgedValues(gained, own, start + row.gain.value, f"from its own start, {start:.4f}")
    if row.humps is None:
        return JudgedValues(row, tuple(values), value)
    nearest = [_nearest(row, value, each) for each in values]
    used = tuple({hump.value: hump for hump in nearest if hump is not None}.values())
    centres = [value if hump is None else hump.value for hump in nearest]
    moved = tuple(each - centre + value for each, centre in zip(values, centres, strict=True))
    tested = row.model_copy(update={"humps": row.humps.model_copy(update={"others": used})})
    shown = ", ".join(f"{hump.value:.4f}" for hump in used)
    return JudgedValues(tested, moved, sum(centres) / len(centres), f"by the hump at {shown}" if used else "")


def _nearest(row: ExpectedRow, value: float, fresh: float) -> Hump | None:
    """The hump that is nearer to a fresh value than the row's own value is; None if there is none."""
    assert row.humps is not None
    hump = min(row.humps.others, key=lambda hump: abs(fresh - hump.value))
    return hump if abs(fresh - hump.value) < abs(fresh - value) else None
