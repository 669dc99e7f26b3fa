import json
import math
from dataclasses import replace

import numpy as np
import pytest

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.results import Score
from spac_repro.runs.verdict import ScoreKey
from spac_repro.trust.expected import START, ArguedValue, ExpectedResults, ExpectedRow, Measured, NotTranscribed, Published
from spac_repro.trust.expected_parts import Gain, Hump, Humps
from spac_repro.trust.run_scores import IncomparableError, RunScores
from spac_repro.trust.statistics import limits, tolerance
from spac_repro.trust.verification import verify, verify_and_record, verify_runs, verify_scores

SEEDS = tuple(range(1, 11))
SOURCES = {
    "ours": Measured(
        kind="measured",
        commit="c",
        lock_sha256="l",
        hardware="h",
        date="2026-01-31",
        seeds=SEEDS,
        command="x",
        harness="lm_eval 1",
    ),
    "paper": Published(kind="published", citation="c"),
    "table": NotTranscribed(kind="not transcribed", citation="c"),
}


def row(value=0.8, sd=0.01, **options):
    known = {"method": "spac", "task": "gold", "metric": "reward", "iteration": 3, "source": "ours", "primary": True}
    return ExpectedRow(**{**known, "value": value, "sd": sd, "seeds": 10, **options})


def published(value=0.6, **options):
    return ExpectedRow(method="dpo", task="arc", metric="acc", iteration=1, source="paper", value=value, primary=True, **options)


def expected(*rows, alpha=0.01, **options):
    return ExpectedResults(recipe="tiny", alpha=alpha, sources=SOURCES, rows=rows, **options)


GOLD = row().key


# The verdict


def test_family_wise_level_holds_over_the_primary_rows():
    rng = np.random.default_rng(1)
    repetitions, alpha, keys = 1500, 0.1, [ScoreKey("spac", task, "m", 1) for task in "abc"]
    failures = 0
    for _ in range(repetitions):
        samples = rng.normal(size=(3, 10))
        rows = [row(s.mean(), s.std(ddof=1), **key._asdict()) for s, key in zip(samples, keys, strict=True)]
        rows.append(row(value=5.0, task="secondary", primary=False))  # never agrees, never decides
        fresh = {key: [rng.normal()] for key in keys} | {rows[-1].key: [0.0]}
        failures += verify(expected(*rows, alpha=alpha), fresh).status == "disagrees"
    # Three independent tests at alpha/3 each: 1 - (1 - alpha/3)^3, a little below alpha.
    rate = 1 - (1 - alpha / 3) ** 3
    assert failures / repetitions == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / repetitions))


def test_without_any_spread_only_rounding_is_forgiven():
    exact = row(sd=0.0)
    assert verify(expected(exact), {GOLD: [0.8 + 1e-12]}).status == "verified"
    assert verify(expected(exact), {GOLD: [0.8001]}).status == "disagrees"


@pytest.mark.parametrize("direction", [-1, 1])
def test_deviations_in_both_directions_fail(direction):
    allowed = tolerance(row(), [0.8], 0.01)
    assert verify(expected(row()), {GOLD: [0.8 + direction * 0.99 * allowed]}).exit_code == 0
    edited = verify(expected(row()), {GOLD: [0.8 + direction * 2 * allowed]})
    assert (edited.status, edited.exit_code) == ("disagrees", 1)
    assert "spac iteration 3 gold reward" in edited.reason


@pytest.mark.parametrize("others", [0, 3, 8])
def test_runs_that_are_far_off_in_opposite_directions_fail(others):
    """Their mean is right, and each of them is found in each direction."""
    rng = np.random.default_rng(0)
    values = [0.8 + 20 * 0.01, 0.8 - 20 * 0.01, *rng.normal(0.8, 0.01, others)]
    verdict = verify(expected(row(), row(task="other")), {GOLD: values, row(task="other").key: [0.8] * len(values)})
    assert verdict.status == "disagrees"
    assert verdict.comparisons[0].faults == ("a run", "spread")
    assert "gold reward (a run and spread): outside the tolerance" in verdict.reason
    assert abs(verdict.comparisons[0].difference) < 0.01


def test_a_spread_that_no_single_run_shows_fails():
    """Eight runs each within the tolerance of a run, and together too widely spread."""
    allowed = limits(row(), [0.8] * 8, 0.01)
    values = [0.8 + sign * 0.9 * allowed.run for sign in (1, -1) * 4]
    verdict = verify(expected(row()), {GOLD: values})
    assert verdict.status == "disagrees"
    assert verdict.comparisons[0].faults == ("spread",)


def test_every_run_must_keep_an_argued_tolerance():
    argued = published(tolerance=ArguedValue(value=0.1, argument="a"))
    assert verify(expected(argued), {argued.key: [0.69, 0.52]}).status == "verified"
    assert verify(expected(argued), {argued.key: [0.75, 0.45]}).comparisons[0].faults == ("a run",)


@pytest.mark.parametrize(("skewness", "runs"), [(0, 2), (0, 5), (1, 5), (2, 5), (2, 10)])
def test_family_wise_level_holds_for_several_runs_that_are_skewed(skewness, runs):
    """Mean, runs and spread together, of two primary rows from 10 seeds each."""
    rng = np.random.default_rng(2)
    repetitions, alpha, keys = 2000, 0.05, [ScoreKey("spac", task, "m", 1) for task in "ab"]
    failures = 0
    for _ in range(repetitions):
        scores = pearson(rng, skewness, (2, 10 + runs))
        rows = [row(s[:10].mean(), s[:10].std(ddof=1), **key._asdict()) for s, key in zip(scores, keys, strict=True)]
        fresh = {key: list(s[10:]) for s, key in zip(scores, keys, strict=True)}
        failures += verify(expected(*rows, alpha=alpha), fresh).status == "disagrees"
    assert failures / repetitions < alpha + 3 * math.sqrt(alpha * (1 - alpha) / repetitions)


def pearson(rng, skewness, shape):
    """Scores with mean 0, variance 1 and this skewness: normal, or of a gamma distribution."""
    if not skewness:
        return rng.normal(size=shape)
    a = 4 / skewness**2
    return (rng.standard_gamma(a, shape) - a) / math.sqrt(a)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_fail_in_any_row(value):
    assert verify(expected(row()), {GOLD: [value]}).status == "disagrees"
    assert verify(expected(row()), {GOLD: [0.8, value]}).status == "disagrees"
    secondary = row(task="other", primary=False)
    verdict = verify(expected(row(), secondary), {GOLD: [0.8], secondary.key: [value]})
    assert verdict.status == "disagrees"
    json.dumps(verdict.as_json(), allow_nan=False)


def test_secondary_rows_are_reported_and_do_not_decide():
    secondary = row(task="other", primary=False)
    verdict = verify(expected(row(), secondary), {GOLD: [0.8], secondary.key: [0.1]})
    assert verdict.status == "verified"
    assert [comparison.agrees for comparison in verdict.comparisons] == [True, False]
    alone = verify(expected(secondary), {secondary.key: [0.8]})
    assert (alone.status, alone.exit_code) == ("unverified", 2)


def test_level_is_divided_among_the_primary_rows_that_apply():
    rows = [row(task=name) for name in "abcd"]
    fresh = {r.key: [0.8] for r in rows[:2]}
    verdict = verify(expected(*rows, row(task="s", primary=False)), {**fresh, row(task="s").key: [0.8]}, partial=True)
    assert verdict.status == "verified"
    assert [c.tolerance for c in verdict.comparisons] == [tolerance(row(), [0.8], alpha) for alpha in (0.005, 0.005, 0.01)]
    assert {key.task for key, reason in verdict.inapplicable if reason == "no fresh value"} == {"c", "d"}


def test_nothing_applies():
    table = ExpectedRow(method="spac", task="arc", metric="acc", iteration=1, source="table", primary=True)
    verdict = verify(expected(table), {table.key: [0.5]})
    assert (verdict.status, verdict.exit_code) == ("unverified", 2)
    assert verdict.inapplicable == ((table.key, "not transcribed: verifies nothing"),)
    other = verify(expected(row()), {ScoreKey("spin", "gold", "reward", 3): [0.5]})
    assert other.status == "unverified"
    assert "no primary row for spin" in other.reason
    assert other.without_row == (ScoreKey("spin", "gold", "reward", 3),)
    assert verify(expected(row()), {GOLD: []}).status == "unverified"


def test_primary_row_left_out_of_a_run_is_missed():
    other = row(task="signature")
    verdict = verify(expected(row(), other, row(method="dpo")), {GOLD: [0.8]})
    assert verdict.status == "unverified"
    assert verdict.reason == "no fresh value for the primary rows spac iteration 3 signature reward"
    assert verify(expected(row(), other), {GOLD: [9.0]}).status == "disagrees"


def test_start_alone_verifies_no_method():
    start = row(value=0.6, method=START, iteration=0)
    table = ExpectedRow(method="spac", task="gold", metric="reward", iteration=3, source="table", primary=True)
    fresh = {start.key: [0.6], GOLD: [0.9]}
    verdict = verify(expected(start, table), fresh)
    assert verdict.status == "unverified"
    assert verdict.reason == "no primary row for spac (its rows are not transcribed and verify nothing); the start agrees"
    assert verify(expected(start, table), {start.key: [0.6]}).status == "verified"
    assert verify(expected(start, table), {**fresh, start.key: [0.7]}).status == "disagrees"


def test_row_without_power_is_reported_as_such():
    start = row(value=0.78, method=START, iteration=0, primary=False)
    weak = verify(expected(row(sd=0.1), start), {GOLD: [0.8]})  # the start itself would pass
    assert weak.comparisons[0].underpowered
    assert weak.comparisons[0].effect == pytest.approx(0.02)
    assert weak.status == "unverified"
    assert "no primary row could have found" in weak.reason
    strong = verify(expected(row(sd=0.0001), start), {GOLD: [0.8]})
    assert not strong.comparisons[0].underpowered
    assert strong.status == "verified"
    assert verify(expected(row(sd=0.1, effect=2.0), start), {GOLD: [0.8]}).status == "verified"
    assert verify(expected(row(sd=0.1), start), {GOLD: [9.0]}).status == "disagrees"
    argued = published(tolerance=ArguedValue(value=0.1, argument="a"), effect=0.05)
    assert verify(expected(argued), {argued.key: [0.6]}).comparisons[0].underpowered


def test_the_start_does_not_lend_its_power_to_a_method():
    start = row(value=0.6, method=START, iteration=0, sd=0.0001, effect=0.1)
    weak = verify(expected(row(sd=0.2), start), {start.key: [0.6], GOLD: [0.8]})
    assert weak.status == "unverified"
    assert weak.reason.endswith("a deviation as small as the effect that it is about; the start agrees")
    assert verify(expected(row(sd=0.0001), start), {start.key: [0.6], GOLD: [0.8]}).status == "verified"
    assert verify(expected(row(sd=0.2), start), {start.key: [0.6]}).status == "verified"


def test_rows_without_iterations():
    theory = row(method="spac-t", task="sparse", metric="suboptimality", iteration=None)
    assert verify(expected(theory), {ScoreKey("spac-t", "sparse", "suboptimality"): [0.8]}).status == "verified"
    assert str(theory.key) == "spac-t sparse suboptimality"


# Run folders


def begin(folder, *, recipe="tiny", method="spac", seed=0, settings=None):
    """A run folder without results."""
    identity = {"recipe": recipe, "method": method, "seed": seed, "settings": settings or {}}
    files.write_json(folder / "manifest.json", {"schema": 1, **identity, "inputs": {}, "environment": {}})
    return folder


def write_run(folder, *, seed=0, value=0.8, start=0.6, method="spac", settings=None, **changes):
    begin(folder, recipe=changes.get("recipe", "tiny"), method=method, seed=seed, settings=settings)
    score = {"task": "gold", "metric": "reward", "stderr": None, "n": 100, "version": "1", "higher_is_better": True, "note": ""}
    results = {
        "schema": 1,
        "recipe": "tiny",
        "method": method,
        "seed": seed,
        "complete": True,
        "weights_sha256": f"w{seed}",
        "settings_sha256": "d" * 64,
        "harness": "lm_eval 1",
        "iterations": [
            {"iteration": 0, "weights_sha256": "s", "scores": [{**score, "value": start}]},
            {"iteration": 3, "weights_sha256": f"w{seed}", "scores": [{**score, "value": value}]},
        ],
        **changes,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return folder


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "expected.yaml"
    rows = (row(n=100, version="1"), row(value=0.6, method=START, iteration=0, primary=False))
    path.write_text(expected(*rows, settings_sha256={"spac": "d" * 64}).as_yaml())
    return path


def refused(folders, rows_file):
    with pytest.raises(IncomparableError) as caught:
        verify_runs(folders, rows_file)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_runs_are_verified_together(tmp_path, rows_file):
    runs = [write_run(tmp_path / str(seed), seed=seed, value=value) for seed, value in ((0, 0.79), (11, 0.82))]
    verdict = verify_runs(runs, rows_file)
    assert verdict.status == "verified"
    assert [(c.key.method, c.runs) for c in verdict.comparisons] == [("spac", 2), (START, 2)]
    assert [c.fresh for c in verdict.comparisons] == pytest.approx([0.805, 0.6])
    assert verdict.notes == ()


def test_scores_edited_by_twice_the_tolerance_fail(tmp_path, rows_file):
    run = write_run(tmp_path / "run")
    assert verify_runs([run], rows_file).status == "verified"
    edited(run, value=0.8 + 2 * tolerance(row(), [0.8], 0.01))
    assert verify_runs([run], rows_file).status == "disagrees"
    edited(run, value=0.8 - 2 * tolerance(row(), [0.8], 0.01))
    assert verify_runs([run], rows_file).status == "disagrees"


def test_start_counts_once_for_each_seed(tmp_path, rows_file):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", method="dpo")]
    verdict = verify_runs(runs, rows_file)
    assert {c.key.method: c.runs for c in verdict.comparisons} == {"spac": 1, START: 1}
    assert verdict.without_row == (ScoreKey("dpo", "gold", "reward", 3),)


def test_not_a_number_in_results(tmp_path, rows_file):
    assert verify_runs([write_run(tmp_path / "run", value=math.nan)], rows_file).status == "disagrees"


def test_other_settings_have_no_row(tmp_path, rows_file):
    settings = recipes.load("tiny").settings()  # no setting tells the two apart
    verdict = verify_runs([write_run(tmp_path / "run", settings=settings, settings_sha256="e" * 64)], rows_file)
    assert (verdict.status, verdict.exit_code) == ("unverified", 2)
    assert "no row for the setting digest eeeeeeeeeeee (rows: dddddddddddd)" in verdict.reason
    assert len(verdict.inapplicable) == 2


def test_incomparable_runs(tmp_path, rows_file):
    assert "unfinished" in refused([write_run(tmp_path / "a", complete=False)], rows_file)
    assert "has no results.json, so the run is unfinished" in refused([begin(tmp_path / "begun")], rows_file)
    good = write_run(tmp_path / "good")
    assert "of the recipe small" in refused([good, write_run(tmp_path / "b", recipe="small")], rows_file)
    assert "is about the recipe tiny" in refused([tmp_path / "b"], rows_file)
    assert "name one of them" in refused([good, good], rows_file)
    assert "by lm_eval 1; evaluate again" in refused([write_run(tmp_path / "c", harness="lm_eval 2")], rows_file)
    assert "has version 2, and the row" in refused([edited(write_run(tmp_path / "d"), version="2")], rows_file)


def edited(run, **changes):
    results = json.loads((run / "results.json").read_text())
    results["iterations"][1]["scores"][0].update(changes)
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_scores_on_other_questions_are_not_compared(tmp_path, rows_file):
    verdict = verify_runs([edited(write_run(tmp_path / "run"), n=50)], rows_file)
    assert verdict.status == "unverified"
    assert "gold reward on 50 questions is not compared with the row on 100" in verdict.notes[0]
    assert (GOLD, "no fresh value") in verdict.inapplicable


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("{", "line 1: not JSON"),
        ("[]", "results.json"),
        ('{"recipe": "tiny"}', "method: missing"),
        ('{"recipe": "tiny", "method": "spac", "seed": "x"}', "seed: "),
        ("\ud800", "not UTF-8"),
    ],
)
def test_unreadable_results(tmp_path, rows_file, text, words):
    begin(tmp_path / "run")
    (tmp_path / "run" / "results.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=words) as caught:
        verify_runs([tmp_path / "run"], rows_file)
    assert "\n" not in str(caught.value)


def test_a_run_does_not_bring_its_own_expected_results(tmp_path, rows_file):
    """A recipe that is a path would lead to a file beside the run, which says what the run measured."""
    for evil in ("..", str(tmp_path / "expected"), "../expected", "a b", ""):
        run = write_run(tmp_path / f"run-{len(evil)}", recipe=evil)
        with pytest.raises(UserError, match=r"recipe: .*must be a name") as caught:
            verify_runs([run])
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) <= 300
        with pytest.raises(UserError, match="is not the name of a recipe"):
            verify_scores(RunScores("file", evil, "spac", {}))
    scores = {3: (Score("gold", "reward", 0.8, None, 100, "1"),)}
    named = verify_scores(RunScores("file", "tiny", "spac", scores, "lm_eval 1"), rows_file)
    assert named.expected_file == (str(rows_file), files.sha256_file(rows_file))


def test_missing_runs_and_files(tmp_path, rows_file):
    with pytest.raises(UserError, match="no such run folder"):
        verify_runs([tmp_path / "none"], rows_file)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"has no manifest\.json, so it is not a run folder"):
        verify_runs([tmp_path / "empty"], rows_file)
    with pytest.raises(UserError, match="name at least one run folder"):
        verify_runs([], rows_file)
    with pytest.raises(UserError, match="no such file"):
        verify_runs([write_run(tmp_path / "run")], tmp_path / "none.yaml")
    verdict = verify_runs([write_run(tmp_path / "other", recipe="unheard-of")])
    assert verdict.status == "unverified"
    assert "has no expected results" in verdict.reason


def test_doubtful_runs_are_noted(tmp_path, rows_file):
    runs = [write_run(tmp_path / str(seed), seed=seed, weights_sha256="same") for seed in (0, 3)]
    third = json.loads((write_run(tmp_path / "third", seed=12) / "results.json").read_text())
    third["iterations"] = third["iterations"][:1]
    (tmp_path / "third" / "results.json").write_text(json.dumps(third))
    own, part, same = verify_runs([*runs, tmp_path / "third"], rows_file).notes
    assert part == "spac iteration 3 gold reward: measured in 2 of 3 runs only"
    assert "spac seed 3: its seed is among the rows' own" in own
    assert "have the same weights" in same


def test_changed_settings_are_named(tmp_path, rows_file, monkeypatch):
    class Usual:
        def settings(self):
            return {"seed": 0, "training": {"epochs_per_iteration": 2, "learning_rate": 0.1}}

    monkeypatch.setattr(recipes, "load", lambda *args, **options: Usual())
    settings = {"seed": 0, "training": {"epochs_per_iteration": 2, "learning_rate": 0.0}}
    run = write_run(tmp_path / "run", settings_sha256="e" * 64, settings=settings)
    assert "no row for the setting training.learning_rate 0.0 (recipe: 0.1)" in verify_runs([run], rows_file).reason


def test_the_conclusion_is_left_in_the_run_folder(tmp_path):
    run = write_run(tmp_path / "run", recipe="unheard-of")
    said = verify_and_record(run)
    assert (said.status, RunFolder(run).verdict()) == ("unverified", replace(said, files=()))
    unfinished = write_run(tmp_path / "half", complete=False)
    assert verify_and_record(unfinished).reason == "the run is unfinished; repeat its `train` command to go on"


def test_the_file_of_expected_results_is_named_with_its_hash(tmp_path, rows_file):
    run = write_run(tmp_path / "run")
    used = verify_runs([run], rows_file).expected_file
    assert used is not None
    assert (used.name, used.sha256) == (str(rows_file), files.sha256_file(rows_file))
    assert verify_runs([run]).expected_file.name == "expected_results/tiny.yaml"
    shown = verify_runs([run], rows_file).as_json()["expected_file"]
    assert shown == {"name": used.name, "sha256": used.sha256}


def test_it_says_which_files_were_checked(tmp_path, rows_file):
    (line,) = verify_runs([write_run(tmp_path / "run")], rows_file).files
    assert line.endswith(": version 0.1 recorded no hashes of the run's files, so they are believed as they are")


def test_a_results_file_alone_is_verified_as_what_it_is(tmp_path, rows_file):
    run = write_run(tmp_path / "run")
    whole, alone = verify_runs([run], rows_file), verify_runs([run / "results.json"], rows_file)
    assert (alone.status, alone.comparisons) == (whole.status, whole.comparisons)
    assert "a results file alone: its numbers are believed as they are" in alone.files[0]
    (tmp_path / "text").write_text("no results")
    with pytest.raises(UserError, match="text, line 1: not JSON"):
        verify_runs([tmp_path / "text"], rows_file)


# Protocols


@pytest.mark.parametrize(
    ("source", "status", "words"), [("ours", "unverified", "not compared with"), ("paper", "verified", "held")]
)
def test_a_row_under_another_protocol_is_said_and_a_measured_one_judges_nothing(tmp_path, source, status, words):
    """What groups differ by, the tolerance of a published row, holds their protocols."""
    one = (
        row(task="arc", metric="acc", source="ours")
        if source == "ours"
        else published(tolerance=ArguedValue(value=1, argument="a"))
    )
    sources = {**SOURCES, "paper": SOURCES["paper"].model_copy(update={"protocol": "current"})}
    file = tmp_path / "rows.yaml"
    file.write_text(ExpectedResults(recipe="tiny", sources=sources, rows=(one,)).as_yaml())
    scores = {one.iteration: (Score("arc", "acc", 0.8, None, 100, "1"),)}
    run = RunScores("run", "tiny", one.method, scores, "lm_eval 1", protocol="v0.4.0-spin")
    verdict = verify_scores(run, file)
    assert verdict.status == status
    (note,) = [note for note in verdict.notes if "protocol" in note]
    assert words in note
    same = verify_scores(replace(run, protocol="current"), file)
    assert same.status == "verified"
    assert not any("protocol" in note for note in same.notes)


# Gains and humps of secondary rows


def hump_row(**options):
    humps = Humps(others=(Hump(value=0.72, runs=1),), argument="seed 0")
    return row(
        value=0.44, sd=0.05, method=START, iteration=0, task="mini_mmlu", metric="acc", primary=False, humps=humps, **options
    )


def test_a_run_is_judged_by_the_nearest_hump():
    known = hump_row()
    plain = known.model_copy(update={"humps": None})
    primary = row(value=0.44, sd=0.001, method=START, iteration=0, task="other")
    for value, agrees, expected_value in (
        (0.44, True, 0.44),
        (0.72, True, 0.72),
        (0.70, True, 0.72),
        (1.1, False, 0.72),
        (0.1, False, 0.44),
    ):
        compared = verify(expected(known, primary), {known.key: [value], primary.key: [0.44]}).comparisons[0]
        assert (compared.agrees, compared.expected) == (agrees, expected_value), value
        assert compared.difference == pytest.approx(value - expected_value)
    assert not verify(expected(plain), {plain.key: [0.72]}).comparisons[0].agrees
    several = verify(expected(known), {known.key: [0.44, 0.45, 0.72]}).comparisons[0]
    assert several.agrees
    assert several.expected == pytest.approx((0.44 + 0.44 + 0.72) / 3)
    assert several.several.spread < 0.02
    one_run, ten_runs = (verify(expected(known), {known.key: [value]}).comparisons[0].tolerance for value in (0.72, 0.44))
    assert one_run / ten_runs == pytest.approx(math.sqrt(2 / 1.1))  # that hump is known from one run


def test_a_later_iterate_is_judged_by_its_gain_over_its_own_start(tmp_path):
    gained = row(value=0.43, sd=0.06, primary=False, gain=Gain(value=-0.01, sd=0.01), task="mini_mmlu", metric="acc")
    rows = (gained, row(value=0.8, sd=0.1))
    by_gain = verify(expected(*rows), {gained.key: [0.71], GOLD: [0.8]}, starts={gained.key: [0.72]}).comparisons[0]
    assert by_gain.agrees
    assert by_gain.expected == pytest.approx(0.71)
    assert "from its own start, 0.7200" in by_gain.note
    lost = verify(expected(*rows), {gained.key: [0.43], GOLD: [0.8]}, starts={gained.key: [0.72]}).comparisons[0]
    assert not lost.agrees  # by its value alone it would
    assert verify(expected(*rows), {gained.key: [0.43], GOLD: [0.8]}).comparisons[0].agrees

    path = tmp_path / "expected.yaml"
    gain_of_run = row(value=0.5, sd=0.01, n=100, version="1", primary=False, gain=Gain(value=0.2, sd=0.01))
    path.write_text(expected(gain_of_run, settings_sha256={"spac": "d" * 64}).as_yaml())
    runs = [
        write_run(tmp_path / str(seed), seed=seed, value=value, start=start)
        for seed, value, start in ((0, 0.8, 0.6), (11, 0.3, 0.1))
    ]
    (compared,) = verify_runs(runs, path).comparisons
    assert compared.agrees
    assert compared.expected == pytest.approx(0.35 + 0.2)


def test_secondary_rows_share_the_level():
    rows = [row(task=f"task{i}", primary=False) for i in range(5)]
    verdict = verify(expected(row(), *rows), {each.key: [0.8] for each in (row(), *rows)})
    assert [c.tolerance for c in verdict.comparisons] == pytest.approx(
        [tolerance(row(), [0.8], level) for level in (0.01, *[0.002] * 5)]
    )
