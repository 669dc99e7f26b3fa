"""How much scores differ, in the unit of what two seeds differ by."""

import json
import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.trust.comparison import compare
from spac_repro.trust.noise import limit_in_spreads, noise_limit
from spac_repro.trust.terminal import render_comparison

Make = Callable[..., Path]


def test_noise_is_the_spread_over_neighbouring_seeds(make: Make, tmp_path: Path) -> None:
    for seed, value in enumerate((0.50, 0.52, 0.48, 0.51, 0.49, 0.50)):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: value}, n=1000)
    within = make(tmp_path / "elsewhere" / "b", scores={1: 0.53}, n=1000, settings_sha256="other")
    beyond = make(tmp_path / "elsewhere" / "c", scores={1: 0.90}, n=1000, settings_sha256="other")
    found = compare(tmp_path / "seed-0", within)
    assert (found.spread_runs, found.exit_code) == (5, 0)
    assert found.score_differences[0].in_words.startswith("within noise")
    found = compare(tmp_path / "seed-0", beyond)
    assert found.exit_code == 1
    assert "1 of them by more than two seeds would" in found.summary[2]


def test_no_spread_is_taken_from_a_damaged_neighbour(make: Make, tmp_path: Path) -> None:
    runs = [make(tmp_path / f"seed-{seed}", seed=seed, scores={1: 0.5}, written_files={}) for seed in range(5)]
    for run in map(RunFolder, runs):
        sealed = json.loads(run.manifest_file.read_text())
        kept = (run.results_file, run.iteration(1).scores_file)
        sealed["written_files"] = {file.relative_to(run.path).as_posix(): files.sha256_file(file) for file in kept}
        files.write_json(run.manifest_file, {**sealed, "sha256": files.sha256_json(sealed)})
    assert compare(runs[0], runs[1]).spread_runs == 3
    damaged = RunFolder(runs[3]).iteration(1).scores_file
    damaged.write_text(damaged.read_text().replace("0.5", "0.6"))
    found = compare(runs[0], runs[1])
    assert found.spread_runs == 0  # two are too few
    (line,) = found.as_json()["left_out"]
    assert line.startswith(f"{damaged}: it is not what the run wrote")
    shown = StringIO()
    Console(file=shown, width=1000).print(render_comparison(found))
    assert f"left out of the spread: {line}\n" in shown.getvalue()
    for pair in ((runs[3], runs[0]), (runs[0], runs[3])):
        with pytest.raises(UserError, match=f"{damaged}: it is not what the run wrote"):
            compare(*pair)
    with pytest.raises(UserError, match=f"{damaged}: it is not what the run wrote"):
        compare(runs[0], runs[1], [runs[3]])


@pytest.mark.parametrize("content", ["", "{}", "{", '{"schema": 99}', "[1]"])
@pytest.mark.parametrize("file", ["manifest.json", "results.json", "iteration-1/scores.json"])
def test_a_neighbour_that_cannot_be_read_is_left_out_and_named(make: Make, tmp_path: Path, file: str, content: str) -> None:
    runs = [make(tmp_path / f"seed-{seed}", seed=seed, scores={1: 0.5 + seed / 100}) for seed in range(6)]
    (runs[5] / file).write_text(content)
    found = compare(runs[0], runs[1])
    assert found.spread_runs == 3
    assert len(found.left_out) == 1
    assert str(runs[5]) in found.left_out[0]


def test_two_seeds_are_beyond_noise_as_seldom_as_promised() -> None:
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(4000):
        values = rng.normal(0.5, 0.1, 7)
        _, limit = noise_limit((float(np.std(values[:5], ddof=1)), 4), 10**6, 1)
        beyond += abs(values[5] - values[6]) > (limit or 0)
    assert 0.003 < beyond / 4000 < 0.02  # 0.01 is promised


@pytest.mark.parametrize("others", [3, 5, 10])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_run_is_left_out_of_the_spread_that_it_is_judged_by(make: Make, tmp_path: Path, others: int, swapped: bool) -> None:
    rng = np.random.default_rng(0)
    for seed, value in enumerate(rng.normal(0.5, 1e-3, others + 1)):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: float(value)}, n=0)
    suspect = make(tmp_path / "seed-99", seed=99, scores={1: 0.5 + 1e6 * 1e-3}, n=0)
    pair = (suspect, tmp_path / "seed-0") if swapped else (tmp_path / "seed-0", suspect)
    found = compare(*pair)
    assert found.spread_runs == others
    assert found.exit_code == 1
    assert found.score_differences[0].in_words.startswith("beyond noise")


def test_the_documented_thresholds_are_those_of_the_code() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reproducibility.md").read_text()
    rows = re.findall(r"\| (\d+) \| ([\d.]+) s \| ([\d.]+) s \|", page)
    assert [int(seeds) for seeds, _, _ in rows] == [3, 5, 10, 20]
    for seeds, one, many in rows:
        assert (one, many) == tuple(f"{limit_in_spreads(int(seeds) - 1, scores):.3g}" for scores in (1, 48))


def test_too_few_other_seeds_are_said_to_be_that_and_how_many_it_takes(make: Make, tmp_path: Path) -> None:
    """Three seeds in a folder leave one when two of them are compared."""
    for seed, value in enumerate((0.50, 0.51, 1e6)):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: value})
    found = compare(tmp_path / "seed-0", tmp_path / "seed-2")
    assert (found.spread_runs, found.exit_code, found.as_json()["beyond_noise"]) == (0, 0, None)
    assert "fewer than 3 other seeds nothing can be called beyond noise; with 3 from 14 ×, with 5 from 6.51 ×" in found.summary[2]


def test_another_run_of_the_seed_and_settings_of_a_compared_one_is_left_out_too(make: Make, tmp_path: Path) -> None:
    for seed in range(4):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: 0.5 + seed / 100})
    make(tmp_path / "seed-0-again", scores={1: 5.0})
    other = make(tmp_path / "elsewhere" / "b", scores={1: 5.0}, settings_sha256="other")
    found = compare(tmp_path / "seed-0", other)
    assert (found.spread_runs, found.exit_code) == (3, 1)


def test_only_runs_that_differ_in_the_seed_alone_measure_the_spread(make: Make, tmp_path: Path) -> None:
    a, b = make(tmp_path / "a", scores={1: 0.5}), make(tmp_path / "b", seed=1, scores={1: 0.9})
    data = [make(tmp_path / f"data-{seed}", seed=seed, scores={1: seed}, inputs__preferences_sha256="c" * 64) for seed in range(4)]
    assert compare(a, b).spread_runs == 0
    with pytest.raises(UserError, match="has other settings or inputs than A and B"):
        compare(a, b, data)


def test_two_seeds_are_beyond_noise_no_more_often_than_promised_with_the_compared_runs_in_the_folder() -> None:
    """The two runs against the others, n = 3, 5 and 10, two scores at once."""
    rng = np.random.default_rng(1)
    for others in (3, 5, 10):
        values = rng.normal(size=(20_000, 2, others + 2))
        spreads = values[:, :, 2:].std(axis=2, ddof=1)
        limits = limit_in_spreads(others - 1, 2) * spreads
        rate = np.mean((np.abs(values[:, :, 0] - values[:, :, 1]) > limits).any(axis=1))
        assert 0.007 < rate < 0.0125


def test_without_seeds_nothing_is_called_noise(make: Make, tmp_path: Path) -> None:
    a, b = make(tmp_path / "x" / "a", scores={1: 0.5}), make(tmp_path / "y" / "b", scores={1: 0.9})
    found = compare(a, b)
    assert found.score_differences[0].beyond_noise is None
    assert found.exit_code == 0
    assert "--seed-run" in found.summary[2]


def test_other_questions_are_not_held_against_each_other(make: Make, tmp_path: Path) -> None:
    for seed in range(4):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: 0.5})
    found = compare(tmp_path / "seed-0", make(tmp_path / "e" / "b", scores={1: 0.9}, n=7))
    assert found.score_differences[0].in_words == "other questions: 100 and 7"
    assert found.exit_code == 0


def test_a_spread_is_at_least_one_item(make: Make, tmp_path: Path) -> None:
    for seed in range(4):
        make(tmp_path / f"seed-{seed}", seed=seed, scores={1: 0.25}, n=4)
    found = compare(tmp_path / "seed-0", make(tmp_path / "e" / "b", scores={1: 0.5}, n=4))
    assert found.score_differences[0].beyond_noise is False
