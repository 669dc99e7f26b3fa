"""Verdicts and comparisons as they stand in a terminal."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from spac_repro.runs.verdict import ScoreComparison, ScoreKey, SeveralRuns, Verdict
from spac_repro.trust.comparison import compare
from spac_repro.trust.terminal import render_comparison, render_verdict


def row(fresh=0.8, metric="reward", primary=True, effect=None):
    key = ScoreKey("spac", "gold", metric, 3)
    return ScoreComparison(key, primary, "measured", 0.8, fresh, 1, 0.0341, 0.0442, effect)


def shown(renderable):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


def test_a_verdict_is_a_table_and_ends_with_its_reason():
    verdict = Verdict(
        "tiny",
        "disagrees",
        "spac iteration 3 gold reward: outside the tolerance, or not a finite number",
        0.01,
        comparisons=(row(0.9),),
        inapplicable=((ScoreKey("spac", "[arc]", "acc", 1), "not transcribed: verifies nothing"),),
        without_row=(ScoreKey("x", "y", "z"),),
        notes=("beware",),
    )
    text = shown(render_verdict(verdict))
    for words in ("(primary)", "0.8000", "0.9000", "+0.1000", "±0.0341", "not transcribed", "[arc]", "x y z", "beware"):
        assert words in text
    assert text.rstrip().splitlines()[-1].startswith("disagrees: spac iteration 3 gold reward")
    assert "unverified" in shown(render_verdict(Verdict("tiny", "unverified", "no primary row", 0.01)))


def test_a_row_without_power_is_marked():
    verdict = Verdict("tiny", "unverified", "no power", 0.01, comparisons=(row(effect=0.01),))
    assert "agrees (without power)" in shown(render_verdict(verdict))


def test_what_the_mean_of_several_runs_hides_is_named():
    several = SeveralRuns(furthest=1.0, run_tolerance=0.1, spread=0.2, largest_spread=0.1)
    verdict = Verdict("tiny", "disagrees", "r", 0.01, comparisons=(replace(row(), several=several),))
    assert "disagrees (a run and spread)" in shown(render_verdict(verdict))


def test_a_brief_table_keeps_what_decides_and_what_disagrees():
    rows = (row(), row(metric="exact", primary=False), row(0.9, metric="length", primary=False))
    verdict = Verdict("tiny", "verified", "1 of 1 primary rows agree", 0.01, comparisons=rows, notes=("beware",))
    text = shown(render_verdict(verdict, brief=True))
    assert "(primary)" in text
    assert "gold length" in text
    assert "gold exact" not in text
    assert "1 secondary rows agree" in text
    assert "beware" in text
    assert "gold exact" in shown(render_verdict(verdict))


def test_a_comparison_has_its_three_layers_and_square_brackets_stay(make, tmp_path: Path):
    a, b = make(tmp_path / "a", scores={1: 0.5}), make(tmp_path / "b", scores={1: 0.6}, environment__cpu="[bold]another")
    text = shown(render_comparison(compare(a, b)))
    assert "What differs: environment.cpu is x in A and [bold]another in B" in text
    assert "Where they first differ: iteration 1, scores: gold reward is 0.5 in A and 0.6 in B" in text
    assert "+0.1000" in text
    assert "How much it matters: 1 of 1 scores differ" in text
