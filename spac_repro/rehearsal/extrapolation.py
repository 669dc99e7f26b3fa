"""From a rehearsal to the whole run: linear in tokens and in layers, stage by stage.

Time and memory of a stage are a + b x + L (c + d x), for x tokens and L layers, as long as a layer costs the same as the next and
batches do not change: two sizes and two depths give the four numbers.

A difference of depths is extrapolated with its noise: from 2 and 4 of 30 layers, 13 times. So where the time in the layers was
measured, it and that of the optimizer's update are lines through the depths, each with its own small noise, and the rest of the
stage, which has no layers in it, is the mean of the depths. On a GPU only the whole time is known, and it is a line.

Each round of a rehearsal gives a whole run of its own. The
rounds are alike and independent but for the machine's load, so the median of the distribution that they come from lies between the
least and the greatest of n rounds with the probability 1 − 2^(1−n), whatever that distribution is (David and Nagaraja 2003, "Order
Statistics", 7.1). That is the interval that is printed. It holds the noise of the measurement, and not what is not linear.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from spac_repro.rehearsal.document import Measured, Rehearsal, Visit, Work

STEP = "step"


@dataclass(frozen=True)
class Interval:
    """A median over rounds, between the least and the greatest of them."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """The interval of some values."""
        return cls(min(values), median(values), max(values))

    @property
    def half_width(self) -> float:
        """The larger of its two parts, as a share of the median."""
        return max(self.high - self.middle, self.middle - self.low) / self.middle if self.middle else 0.0

    def as_json(self) -> dict[str, float]:
        """Return the three numbers."""
        return {"low": self.low, "median": self.middle, "high": self.high}


@dataclass(frozen=True)
class Stage:
    """A stage of the whole run.

    Attributes:
        name: its name.
        count: how often the whole run does it.
        seconds: of one time, with all layers and the recipe's tokens.
        host: peak bytes of a process.
        device: peak bytes allocated on a device; None without a GPU.
        tokens_per_second: measured, at the deeper depth and size 1.
        share_of_matmul: the operations of the policy's products per second, as a share of the measured rate; measured likewise.
    """

    name: str
    count: float
    seconds: Interval
    host: Interval
    device: Interval | None
    tokens_per_second: float | None
    share_of_matmul: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the stage for `--json`."""
        intervals = {"seconds": self.seconds, "host": self.host, "device": self.device}
        plain = {name: None if value is None else value.as_json() for name, value in intervals.items()}
        rates = {"tokens_per_second": self.tokens_per_second, "share_of_matmul": self.share_of_matmul}
        return {"stage": self.name, "count": self.count, **plain, **rates}


def stages(rehearsal: Rehearsal) -> list[Stage]:
    """Extrapolate every stage that was rehearsed and that the whole run does."""
    names = dict.fromkeys(name for visit in rehearsal.visits for name in visit.stages)
    return [_stage(rehearsal, name, rehearsal.work.get(name, Work(count=0))) for name in names]


def total_seconds(rehearsal: Rehearsal) -> Interval:
    """The seconds of the whole run, a round at a time."""
    every = [_Round(rehearsal, number) for number in range(rehearsal.rounds)]
    return Interval.of(
        [sum(work.count * each.seconds(name, work) for name, work in rehearsal.work.items() if each.has(name)) for each in every]
    )


def coverage(rounds: int) -> float:
    """The probability with which the least and the greatest of so many values enclose the median of their distribution."""
    return float(1 - 2 ** (1 - rounds))


def _stage(rehearsal: Rehearsal, name: str, work: Work) -> Stage:
    every = [each for number in range(rehearsal.rounds) if (each := _Round(rehearsal, number)).has(name)]
    has_device = rehearsal.machine.device is not None
    deepest = [each.at(name, rehearsal.depths[-1], 1.0) for each in every]
    rates = [found.tokens / found.seconds for found in deepest if found.seconds > 0]
    rate = median(rates) if rates and median(rates) > 0 else None
    factors = 2 * (rehearsal.passes if name.endswith(STEP) else 1)
    operations = factors * (rehearsal.parameters[rehearsal.depths[-1]] - rehearsal.untouched)
    return Stage(
        name,
        work.count,
        Interval.of([each.seconds(name, work) for each in every]),
        Interval.of([each.memory(name, work, lambda found: found.host) for each in every]),
        Interval.of([each.memory(name, work, lambda found: found.device or 0) for each in every]) if has_device else None,
        rate,
        None if rate is None else operations * rate / rehearsal.machine.flops,
    )


class _Round:
    """The visits of one round, and what follows from them alone."""

    def __init__(self, rehearsal: Rehearsal, number: int) -> None:
        self.depths, self.layers = rehearsal.depths, rehearsal.layers
        self.visits = {(visit.layers, visit.size): visit for visit in rehearsal.visits if visit.round == number}

    def has(self, name: str) -> bool:
        """Whether every visit has the stage."""
        return all(name in visit.stages for visit in self.visits.values())

    def at(self, name: str, layers: int, size: float) -> Measured:
        """The stage as it was measured."""
        visit: Visit = self.visits[layers, size]
        return visit.stages[name]

    def seconds(self, name: str, work: Work) -> float:
        """Seconds of one time the whole run's amount of the stage."""

        def along(seconds: Callable[[Measured], float]) -> float:
            return self._of_depths(lambda depth: self._of_sizes(name, work, depth, seconds))

        if not all(visit.stages[name].layer_seconds for visit in self.visits.values()):
            return along(lambda found: found.seconds)
        rest = fmean(self._of_sizes(name, work, depth, _outside_layers) for depth in self.depths)
        return rest + along(lambda found: found.layer_seconds) + along(lambda found: found.update_seconds)

    def _of_sizes(self, name: str, work: Work, depth: int, seconds: Callable[[Measured], float]) -> float:
        half, full = self.at(name, depth, 0.5), self.at(name, depth, 1.0)
        if not full.tokens:  # loading, saving and hashing know no rows
            return (seconds(half) + seconds(full)) / 2
        x = (0.5, 1.0) if work.by_rows else (half.tokens, full.tokens)
        return _along(x, (seconds(half), seconds(full)), x[1] * work.times)

    def memory(self, name: str, work: Work, value: Callable[[Measured], int]) -> float:
        """Peak bytes of the stage in the whole run."""

        def of_depth(depth: int) -> float:
            half, full = self.at(name, depth, 0.5), self.at(name, depth, 1.0)
            by_tokens = work.most_tokens is not None and full.most_tokens > half.most_tokens
            x = (half.most_tokens, full.most_tokens) if by_tokens else (0.5, 1.0)
            factor = work.most if work.most_tokens is None else work.most_tokens
            return _along(x, (value(half), value(full)), x[1] * factor)

        return self._of_depths(of_depth)

    def _of_depths(self, of_depth: Callable[[int], float]) -> float:
        found = [of_depth(depth) for depth in self.depths]
        return found[0] if len(found) == 1 else _along(self.depths, found, self.layers)


def _outside_layers(found: Measured) -> float:
    """Seconds of a stage that do not grow with the number of layers."""
    return max(0.0, found.seconds - found.layer_seconds - found.update_seconds)


def _along(x: Sequence[float], y: Sequence[float], target: float) -> float:
    """The line through two points, at `target`; it neither falls nor begins below zero, which only noise can make it do.

    So n times as many layers or tokens take at least as much as was measured, and at most n times as much.
    """
    if x[1] <= x[0]:
        return y[1]
    slope = min(max(0.0, (y[1] - y[0]) / (x[1] - x[0])), y[1] / x[1])
    return y[1] + slope * (target - x[1])
