"""The run folder: what identifies a run, what it measured, and how its files come to exist.

    manifest.json      identity: recipe, seed, inputs, environment; no clock times, no host names, no absolute paths
    timing.json        clocks, throughput, peak memory, machine: what may differ between equal runs
    metrics.jsonl      one line an optimiser step
    iteration-<t>/     the iterate: selfplay.parquet, policy/, scores.json, and training state while unfinished
    results.json       scores per iteration; weights_sha256 of the last iterate
    verdict.json       what verification said
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError


@dataclass(frozen=True)
class Score:
    """One measured number."""

    task: str  # "gold", "mini_arc", "arc_challenge", …
    metric: str  # "reward", "acc_norm", "mc2", …
    value: float
    stderr: float | None
    n: int  # items behind the value
    version: str = ""  # the task's version as the harness states it; empty for our own metrics
    higher_is_better: bool = True
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
