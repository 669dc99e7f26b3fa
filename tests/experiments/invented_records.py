"""Invented records: three methods, some seeds, the scores of three iterates, and of what could be returned."""

import random

import records
from records import Row

SCORES = {
    "gold reward": (500, ""),
    "heldout accuracy": (500, ""),
    "heldout margin": (500, ""),
    "heldout divergence": (500, ""),
    "average mean": (600, ""),
}
SEEDS = {"spac": range(1, 11), "dpo": range(1, 11), "sft": range(1, 6)}
POLICIES = ("mixture", "mixture with the start", "average", "average with the start")


def records_of(groups: dict[str, dict[str, range]]) -> tuple[Row, ...]:
    """Rows of the named groups, methods and seeds."""
    draw = random.Random(1)
    rows = []
    for group, of_methods in groups.items():
        for place, (method, seeds) in enumerate(of_methods.items()):
            for seed in seeds:
                for policy in ("0", "1", "2", *POLICIES):
                    for name in SCORES:
                        value = 0.1 * seed + 0.05 * place + 0.01 * draw.random() + (0.1 * int(policy) if policy.isdigit() else 0.0)
                        rows.append(Row(group, method, seed, policy, *name.split(), value))
    return tuple(rows)


def records_with(groups: dict[str, dict[str, range]]) -> records.Records:
    """Records of the named groups, methods and seeds."""
    about = {
        "recipe": "tiny",
        "command": "invented",
        "commit": "c" * 40,
        "lock_sha256": "d" * 64,
        "hardware": "none",
        "harness": "lm_eval 0.4.13",
        "date": "2026-11-26",
        "settings_sha256": dict.fromkeys(SEEDS, "a" * 64),
        "scores": {name: list(value) for name, value in SCORES.items()},
    }
    return records.Records("invented", about, records_of(groups))


def invented() -> records.Records:
    """Records of all methods with their own settings, and of one variant."""
    return records_with({"": SEEDS, "preference_weight=1": {"spac": range(1, 4)}})
