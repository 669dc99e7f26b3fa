"""Records of runs: what is written is read, expected results follow from them, runs of several environments are refused."""

import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import environment, files, numerics
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA
from spac_repro.trust.expected import expected_path, load_expected
from spac_repro.trust.expected_parts import Hump, Humps

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
sys.path.insert(0, str(Path(__file__).parent))

import expected
import invented_records
import records
import result_tables


def test_what_is_written_is_read_with_every_digit(tmp_path: Path) -> None:
    made = invented_records.invented()
    again = records.read(str(records.write(made, tmp_path)))
    assert again == made
    (spac, *_) = again.runs()["spac"]
    assert (spac.seed, spac.recipe, spac.settings_sha256) == (1, "tiny", "a" * 64)
    assert spac.scores[2][0].value == made.value("spac", 1, "2", "gold", "reward")
    with pytest.raises(UserError, match="no score"):
        again.value("spac", 99, "2", "gold", "reward")


def test_a_campaigns_variants_are_apart_and_can_be_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = invented_records.invented()
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    monkeypatch.setattr(records, "of_runs", lambda name, *_: records.Records(name, made.about, made.rows))
    (tmp_path / "out" / "seeds").mkdir(parents=True)
    records.write_campaign(tmp_path / "out", "tiny")
    assert {row.group for row in records.read("tiny-seeds").rows} == {""}
    joined = records.read("tiny-seeds+tiny-variants")
    assert (joined.groups(), sorted(joined.rows)) == (made.groups(), sorted(made.rows))
    records.write(records.Records("other", {**made.about, "commit": "0" * 40}, made.rows), tmp_path)
    with pytest.raises(UserError, match="other is of another recipe or commit than tiny-seeds"):
        records.read("tiny-seeds+other")


@pytest.mark.parametrize(("before", "after"), [("value", "number"), ("0.", "zero."), (",1,", ",one,")])
def test_a_damaged_table_is_refused(tmp_path: Path, before: str, after: str) -> None:
    file = records.write(invented_records.invented(), tmp_path)
    file.write_text(file.read_text().replace(before, after, 1))
    with pytest.raises(UserError, match="not a table of scores"):
        records.read(str(file))


def test_expected_results_are_means_and_spreads_of_the_records() -> None:
    made = invented_records.invented()
    found = expected.expected(made)
    rows = {row.key[:4]: row for row in found.rows}
    for method, seeds in (("spac", range(1, 11)), ("dpo", range(1, 11)), ("sft", range(1, 6))):
        own = [made.value(method, seed, "2", "gold", "reward") for seed in seeds]
        row = rows[method, "gold", "reward", 2]
        assert row.value == pytest.approx(statistics.fmean(own))
        assert row.sd == pytest.approx(statistics.stdev(own))
        assert (row.seeds, found.sources[row.source].seeds) == (len(own), tuple(seeds))
        assert row.primary
        assert rows[method, "heldout", "margin", 2].primary
        assert not rows[method, "heldout", "accuracy", 2].primary
    assert rows["start", "gold", "reward", 0].seeds == 10
    assert not rows["spac", "average", "mean", 2].primary
    assert len(found.rows) == 5 * (1 + 2 * 3)
    gains = [made.value("dpo", s, "1", "average", "mean") - made.value("dpo", s, "0", "average", "mean") for s in range(1, 11)]
    gain = rows["dpo", "average", "mean", 1].gain
    assert gain is not None  # the invented scores vary over seeds as their starts do
    assert expected.gain_over([0.1, 0.2, 0.3], [0.5, 0.1, 0.3]) is None
    assert (gain.value, gain.sd) == pytest.approx((statistics.fmean(gains), statistics.stdev(gains)))
    assert rows["dpo", "gold", "reward", 1].gain is None
    assert rows["start", "average", "mean", 0].gain is None


def test_humps_that_were_written_by_hand_stay_and_later_iterates_are_judged_by_their_gains() -> None:
    made = invented_records.invented()
    first = next(row for row in expected.expected(made).rows if row.task == "average" and row.method == "start")
    humps = Humps(others=(Hump(value=0.7, runs=1),), argument="seed 0")
    kept = expected.humps_of(expected.expected(made, {first.key: humps}))
    assert kept == {first.key: humps}
    assert all(row.gain for row in expected.expected(made, kept).rows if row.task == "average" and row.iteration)
    assert expected.gain_over([0.1, 0.2, 0.3], [0.5, 0.1, 0.3], always=True) is not None


def test_records_without_a_gold_reward_serve_as_well(tmp_path: Path) -> None:
    """Such as those of SmolLM2: margin and accuracy on held-out preferences decide, and methods have five or three seeds."""
    made = invented_records.invented()
    fewer = {"spac": 5, "dpo": 5, "sft": 3}
    rows = tuple(row for row in made.rows if not row.group and row.task == "heldout" and row.seed <= fewer[row.method])
    own = records.Records("own", {**made.about, "recipe": "smollm2-135m"}, rows)
    found = expected.expected(own)
    assert {(row.method, row.metric, row.seeds) for row in found.rows if row.primary} == {
        (method, metric, seeds) for method, seeds in fewer.items() for metric in ("margin", "accuracy")
    }
    file = str(records.write(own, tmp_path))
    assert [line[0] for line in result_tables.rivals(file, {"score": "heldout/margin"})] == ["method", "dpo", "sft", "dpo", "sft"]
    assert [line[1] for line in result_tables.means(file, {"scores": "heldout/margin"})][1:] == ["0", *("1", "2") * 3]
    assert [line[-1] for line in result_tables.tuning(file, {"score": "heldout/margin"})] == ["chosen", "✓", "✓", "✓"]


def test_methods_with_equally_many_but_other_seeds_are_refused() -> None:
    made = invented_records.invented()
    rows = tuple(row._replace(seed=row.seed + 1) if row.method == "dpo" else row for row in made.rows)
    with pytest.raises(UserError, match="not the same ones"):
        expected.expected(records.Records(made.name, made.about, rows))


@pytest.mark.parametrize("name", [file.stem for file in records.FOLDER.glob("*-seeds.csv")])
def test_the_expected_results_of_the_package_are_those_of_the_records(name: str) -> None:
    made = records.read(name)
    package = load_expected(expected_path(made.about["recipe"]))
    found, there = expected.expected(made, expected.humps_of(package)), {row.key: row for row in package.rows}
    assert there.keys() == {row.key for row in found.rows}
    for row in found.rows:
        kept = there[row.key]
        assert (kept.value, kept.sd, kept.seeds, kept.primary, kept.gain) == (
            row.value,
            row.sd,
            row.seeds,
            row.primary,
            row.gain,
        ), row.key


def run(folder: Path, *, segments: tuple[dict[str, Any], ...] = (), recipe: str = "tiny", **changes: Any) -> RunFolder:
    """A run folder with a manifest, made here from committed code unless the changes say otherwise."""
    here = {**environment.describe(), "source": {"commit": "a" * 40, "changed": False}, **changes}
    identity = {"recipe": recipe, "method": "spac", "seed": 1, "settings": {}, "inputs": {}}
    content = {"schema": SCHEMA, **identity, "environment": here, "segments": list(segments)}
    files.write_json(RunFolder(folder).manifest_file, content)
    return RunFolder(folder)


def test_runs_of_one_environment_have_one_source(tmp_path: Path) -> None:
    records.check_one_environment([run(tmp_path / "a"), run(tmp_path / "b")])


def test_runs_of_other_kernels_or_commits_or_of_no_commit_are_refused(tmp_path: Path) -> None:
    first = run(tmp_path / "first")
    kernels = {**environment.describe()["kernels"], "cpu_capability": "NO AVX"}
    for other, words in (
        (run(tmp_path / "a", kernels=kernels), "kernels.cpu_capability is 'NO AVX'"),
        (run(tmp_path / "b", source={"commit": "b" * 40, "changed": False}), "source.commit is 'bbbb"),
        (run(tmp_path / "c", source={"commit": "a" * 40, "changed": True}), "code that no commit holds"),
        (run(tmp_path / "d", source=None), "code that no commit holds"),
        (run(tmp_path / "e", segments=({"cpu": "another"},)), "resumed in another environment"),
        (run(tmp_path / "f", recipe="zephyr-7b"), "of the recipe zephyr-7b"),
    ):
        with pytest.raises(UserError) as refused:
            records.check_one_environment([first, other])
        assert words in str(refused.value)


def test_the_hardware_is_that_of_the_runs_and_told_from_others_of_its_name() -> None:
    there = {
        "cpu": "AMD EPYC",
        "processor": {"family": "25", "model": "1", "stepping": None},
        "kernels": {"cpu_capability": "AVX2"},
    }
    assert numerics.hardware(there) == "AMD EPYC (family 25, model 1), AVX2"
