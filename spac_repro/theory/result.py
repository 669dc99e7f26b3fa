"""The result of one experiment as plain data for JSON: curves, slopes, paired tests, bounds, findings, values for verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from spac_repro.theory.instances import Array
from spac_repro.trust.paired_tests import holm


@dataclass
class ExperimentResult:
    """The result of one experiment. Values of curves are lists over x of lists over seeds."""

    name: str
    seeds: list[int]
    settings: dict[str, Any]
    curves: list[dict[str, Any]] = field(default_factory=list)
    slopes: list[dict[str, Any]] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)
    bounds: list[dict[str, Any]] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)

    def add_curve(
        self,
        method: str,
        panel: str,
        x: Sequence[float],
        values: Array,
        parameter: Sequence[Any] = (),
        away: Array | None = None,
    ) -> None:
        """Add a curve.

        Args:
            method: Name of the method.
            panel: Panel of the figure.
            x: The values of x.
            values: [x, seeds].
            parameter: The setting chosen at each x, where there was a choice.
            away: [x, seeds] where a parameter is a factor of ten from the chosen one; see `vectorized.away_from_best`.
        """
        self.curves.append(
            {"method": method, "panel": panel, "x": [float(v) for v in x], "values": np.asarray(values).tolist(),
             "parameter": list(parameter), "away": [] if away is None else away.tolist()}
        )  # fmt: skip

    def add_measurement(self, method: str, metric: str, values: Array, *, effect: float | None = None) -> None:
        """Add a value for verification, `values` [seeds].

        Args:
            method: Key of the row.
            metric: Key of the row.
            values: [seeds].
            effect: The deviation that verification must detect; it makes the row primary.
        """
        self.measured.append(
            {"method": method, "task": self.name, "metric": metric, "values": np.asarray(values).tolist(), "effect": effect}
        )

    def add_slope(self, method: str, panel: str, x: Sequence[float], values: Array, *, effect: float | None = None) -> None:
        """Add the log–log slope of the mean of `values` [x, seeds], its 95 % bootstrap interval, and each seed's own slope."""
        name = f"slope {panel} x={x[0]:g}…{x[-1]:g}"
        own = log_log_slope(x, values)
        random = np.random.default_rng(0)
        resampled = values[:, random.integers(values.shape[1], size=(2000, values.shape[1]))].mean(axis=2)
        low, high = np.quantile(log_log_slope(x, resampled), [0.025, 0.975])
        centre = float(log_log_slope(x, values.mean(axis=1, keepdims=True))[0])
        self.slopes.append({"method": method, "panel": panel, "range": [float(x[0]), float(x[-1])], "slope": centre,
                            "low": float(low), "high": float(high)})  # fmt: skip
        self.add_measurement(method, name, own, effect=effect)

    def add_paired_tests(self, panel: str, x: Sequence[float], ours: Array, rivals: dict[str, Array]) -> None:
        """Add two-sided paired tests over seeds at each x; p is the larger of the t test's and Wilcoxon's.

        `p_holm` is p corrected by Holm's method for the number of tests of the whole experiment.

        Args:
            panel: Panel of the figure.
            x: The values of x.
            ours: [x, seeds] SPAC-T's suboptimality.
            rivals: [x, seeds] each rival's suboptimality.
        """
        from scipy.stats import ttest_rel, wilcoxon

        for name, theirs in rivals.items():
            for at, a, b in zip(x, ours, theirs, strict=True):
                gain = b - a
                with np.errstate(all="ignore"):
                    p = 1.0 if len(gain) < 3 or np.abs(gain).max() < 1e-12 else max(ttest_rel(b, a).pvalue, wilcoxon(b, a).pvalue)
                self.tests.append({"panel": panel, "x": float(at), "rival": name, "gain": float(gain.mean()), "p": float(p)})
        for test, corrected in zip(self.tests, holm([test["p"] for test in self.tests]), strict=True):
            test["p_holm"] = corrected


def log_log_slope(x: Sequence[float], values: Array) -> Array:
    """Return the least-squares slope of log `values` [x, k] on log x: [k]. Values below 1e-12 count as 1e-12."""
    u = np.log(np.asarray(x, dtype=np.float64))
    u = u - u.mean()
    return np.asarray(u @ np.log(np.maximum(values, 1e-12)) / (u @ u))


def setting_text(setting: Any) -> str:
    """Return a rival's setting as text: one parameter, or RPO's η and β."""
    return f"{setting:g}" if isinstance(setting, int | float) else "η {:g}, β {:g}".format(*setting)
