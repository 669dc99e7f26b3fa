"""The table of a sweep: means and intervals against another derivation, gaps named, four formats with the same numbers."""

import csv
import math
import re

import pyarrow.parquet as pq
import pytest
from scipy import stats

from spac_repro.errors import UserError
from spac_repro.launchers import matrix, score_table
from spac_repro.launchers.matrix import Sweep
from spac_repro.launchers.profile import Cluster
from spac_repro.launchers.sweep_folder import SweepFolder
from spac_repro.runs import files
from spac_repro.runs.manifest import SCHEMA
from spac_repro.runs.results import IterateScores, Results, Score

VALUES = {1: 0.5, 2: 0.75, 3: 0.4}


@pytest.fixture
def folder(tmp_path):
    """Three seeds of two settings; of the second only the first seed is done."""
    sweep = Sweep(
        name="my_sweep", summary="s", recipe="tiny", seeds=[1, 2, 3], methods=["spac"], vary={"methods.*.beta": [0.1, None]}
    )
    sweep = sweep.model_copy(update={"vary": {"methods.*.last_iteration_beta": [0.1, None]}})
    folder = SweepFolder(tmp_path, sweep.name, Cluster.load("local"))
    folder.add(matrix.runs(sweep))
    for run in folder.runs.values():
        if run.varied["methods.*.last_iteration_beta"] is not None or run.seed == 1:
            finish(folder.run_folder(run), run.seed)
    return folder


def finish(run, seed):
    """What a finished run leaves."""
    identity = {"recipe": "tiny", "method": "spac", "seed": seed}
    files.write_json(run.manifest_file, {"schema": SCHEMA, **identity, "settings": {}, "inputs": {}, "environment": {}})
    scores = {t: (Score("mini", "acc", VALUES[seed] + t, None, 100),) for t in (0, 1)}
    iterates = tuple(IterateScores(iteration=t, scores=its) for t, its in scores.items())
    results = Results(**identity, complete=True, settings_sha256="d", weights_sha256="w", iterations=iterates)
    files.write_json(run.results_file, results.as_json())


def test_means_intervals_and_gaps(folder):
    table = score_table.collect(folder)
    assert table.missing == ["last_iteration_beta=null/spac/seed-2", "last_iteration_beta=null/spac/seed-3"]
    full, alone = table.rows[1], table.rows[3]
    sample = [value + 1 for value in VALUES.values()]
    low, high = stats.t.interval(0.95, 2, loc=stats.tmean(sample), scale=stats.sem(sample))
    assert (full["methods.*.last_iteration_beta"], full["iteration"], full["seeds"], full["missing_seeds"]) == ("0.1", 1, 3, "")
    assert (full["mean"], full["sd"]) == (pytest.approx(1.55), pytest.approx(stats.tstd(sample)))
    assert (full["low"], full["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (alone["mean"], alone["sd"], alone["low"], alone["seeds"], alone["missing_seeds"]) == (1.5, None, None, 1, "2 3")


@pytest.mark.parametrize(("key", "value"), [("seed", 9), ("settings_sha256", "e")])
def test_another_run_in_the_place_of_one_is_not_collected(folder, key, value):
    first = folder.run_folder(next(iter(folder.runs.values())))
    files.write_json(first.manifest_file, {**first.manifest.as_json(), key: value, "sha256": None})
    with pytest.raises(UserError, match="it holds another run than the sweep's"):
        score_table.collect(folder)


def test_a_group_without_any_result_has_a_row_that_says_so(folder):
    for run in folder.runs.values():
        folder.run_folder(run).results_file.unlink(missing_ok=True)
    table = score_table.collect(folder)
    assert [(row["seeds"], row["mean"], row["missing_seeds"]) for row in table.rows] == [(0, None, "1 2 3")] * 2


def test_the_four_formats_say_the_same(folder, tmp_path):
    table = score_table.collect(folder)
    files = {file.suffix: file for file in score_table.write(table, tmp_path / "collected")}
    assert pq.read_table(files[".parquet"]).to_pylist() == table.rows
    rows = list(csv.DictReader(files[".csv"].read_text().splitlines()))
    assert [row["mean"] for row in rows] == [str(row["mean"]) for row in table.rows]
    markdown, latex = files[".md"].read_text(), files[".tex"].read_text()
    for row in table.rows:
        assert f"{row['mean']:.4f}" in markdown
        assert f"{row['mean']:.4f}" in latex
    assert markdown.count("Missing: ") == latex.count("% missing: ") == 2
    assert not re.search(r"(?<!\\)_", latex.replace("% missing: last_iteration_beta", "")), (
        "LaTeX takes a bare underscore for a subscript"
    )
    assert latex.count("&") == (len(table.columns) - 1) * (len(table.rows) + 1)


def test_the_interval_has_95_percent_coverage():
    import random

    draw = random.Random(1)
    hits = 0
    for _ in range(2000):
        summary = score_table.mean_and_interval([draw.gauss(3.0, 2.0) for _ in range(5)])
        hits += summary["low"] <= 3.0 <= summary["high"]
    assert abs(hits / 2000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_no_cell_is_a_formula_a_command_or_a_row(tmp_path):
    cells = {
        "formula": "=HYPERLINK(1)",
        "plus": "+1+1",
        "command": r"\input{/etc/passwd}",
        "code": "^^5cinput~",
        "rows": "a\nb \x1b[2J| c",
    }
    row = {**cells, "number": -0.5, "setting": "-3.5"}
    table = score_table.ScoreTable("mine", list(row), [row], [])
    files = {file.suffix: file.read_text() for file in score_table.write(table, tmp_path) if file.suffix != ".parquet"}
    (line,) = csv.DictReader(files[".csv"].splitlines())
    assert (line["formula"], line["plus"]) == ("'=HYPERLINK(1)", "'+1+1")
    assert (line["rows"], line["number"], line["setting"]) == ("a b [2J| c", "-0.5", "-3.5")
    assert files[".md"].count("\n") == 3
    assert r"\textbackslash{}input\{/etc/passwd\}" in files[".tex"]
    assert r"\textasciicircum{}\textasciicircum{}5cinput\textasciitilde{}" in files[".tex"]
    assert "\x1b" not in "".join(files.values())
