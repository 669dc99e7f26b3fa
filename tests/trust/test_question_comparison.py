"""Two evaluations question by question: what is paired, what is said of it, and what cannot be compared."""

import json
from collections.abc import Iterable

import numpy as np
import pytest

from spac_repro.errors import UserError
from spac_repro.runs.answers import About, Answer, Answers, Metric, TaskAbout
from spac_repro.trust.paired_tests import holm, mcnemar, share_interval
from spac_repro.trust.question_comparison import compare_questions
from spac_repro.trust.question_pairs import Evaluation
from spac_repro.trust.question_tables import question_cells, render_questions

SHARE = TaskAbout(name="arc", metrics=(Metric(name="acc"),))
MEAN = TaskAbout(name="truth", metrics=(Metric(name="mc2"),))
SUBJECTS = TaskAbout(name="mmlu", metrics=(Metric(name="acc_macro", mean="subjects"), Metric(name="acc", mean="subjects_by_size")))


def row(task: TaskAbout, item: str, value: float, **more: object) -> Answer:
    values = {metric.name: value for metric in task.metrics}
    correct = bool(value) if value in (0, 1) else None
    answer: dict[str, object] = {"content_sha256": f"hash {item}"}
    answer |= {"gold": "0", "tokens": 5, "log_probs": [-1.0, -2.0] if value else [-2.0, -1.0], "correct": correct}
    return Answer(task.name, item, metrics=values, **(answer | more))  # type: ignore[arg-type]


def evaluation(name: str, values: dict[TaskAbout, Iterable[float]], *, seed: int | None = None, protocol: str | None = "current"):
    tasks = tuple(values)
    rows = [row(task, f"{number}", value) for task in tasks for number, value in enumerate(values[task])]
    about = About(tasks=tasks, averaged=tuple(task.name for task in tasks))
    return Evaluation(name, Answers.of(about, rows), seed, protocol)


def shares(gained: int, lost: int, both: int = 10) -> tuple[list[float], list[float]]:
    return [0.0] * gained + [1.0] * lost + [1.0] * both, [1.0] * gained + [0.0] * lost + [1.0] * both


def test_two_models():
    a, b = shares(9, 1)
    found = compare_questions([evaluation("A", {SHARE: a})], [evaluation("B", {SHARE: b})])
    (score,) = found.scores  # the average of one task is the task
    assert (score.gained, score.lost, score.questions) == (9, 1, 20)
    assert (score.a, score.b) == (pytest.approx(0.55), pytest.approx(0.95))
    assert score.p == mcnemar(9, 1)
    assert (score.low, score.high) == share_interval(9, 1, 20, 0.05)
    assert score.corrected_p == score.p.value
    assert [question.item_id for question in found.changed] == [str(number) for number in range(10)]
    assert (found.changed[9].a, found.changed[9].b, found.changed[9].answer_a, found.changed[9].answer_b) == (1, 0, "0", "1")
    assert json.loads(json.dumps(found.as_json()))["scores"][0]["gained"] == 9
    assert "arc acc +0.4000" in found.summary
    assert "says nothing about other seeds" in found.assumptions


def test_means_are_tested_by_sign_flips_and_no_difference_is_found_where_there_is_none():
    values = [0.25, 0.5, 0.75, 0.5]
    same = compare_questions([evaluation("A", {MEAN: values})], [evaluation("B", {MEAN: values})])
    assert [score.p and score.p.value for score in same.scores] == [1.0]
    assert same.changed == ()
    assert "none of 1 primary scores differs" in same.summary
    other = compare_questions([evaluation("A", {MEAN: values})], [evaluation("B", {MEAN: [value / 2 for value in values]})])
    assert other.scores[0].p == (2 / 16, "sign flips, all", 0.0)
    assert [question.item_id for question in other.changed] == ["2", "1", "3", "0"]  # the largest difference first


def test_the_average_is_a_row_and_p_values_are_corrected_over_primary_rows():
    a, b = shares(9, 1)
    sides = [evaluation("A", {SHARE: a, MEAN: [0.5, 0.25]}), evaluation("B", {SHARE: b, MEAN: [0.75, 0.75]})]
    share, mean, average = compare_questions(sides[:1], sides[1:]).scores
    assert (average.task, average.difference) == ("average", pytest.approx((0.4 + 0.375) / 2))
    values = [score.p.value for score in (share, mean, average) if score.p]
    assert [score.corrected_p for score in (share, mean, average)] == holm(values)


def test_questions_are_paired_by_content_in_any_order_and_number():
    about = About(tasks=(SHARE,))
    a = [row(SHARE, str(number), float(number % 2)) for number in range(8)]
    b = [row(SHARE, f"other {number}", 1.0, content_sha256=f"hash {number}") for number in (5, 3, 2, 7, 99)]
    found = compare_questions([Evaluation("A", Answers.of(about, a))], [Evaluation("B", Answers.of(about, b))])
    (score,) = found.scores
    assert (score.questions, score.gained, score.lost, score.asked) == (4, 1, 0, (5, 8))
    assert score.note == "paired on the 4 questions in common; 5 to 8 were asked"
    assert found.changed[0].item_id == "2"


def test_questions_that_a_task_asks_twice_are_paired_in_order():
    about = About(tasks=(SHARE,))
    sides = [
        Evaluation(name, Answers.of(about, [row(SHARE, str(i), value, content_sha256="same") for i, value in enumerate(values)]))
        for name, values in (("A", [0.0, 1.0]), ("B", [1.0, 1.0]))
    ]
    (score,) = compare_questions(sides[:1], sides[1:]).scores
    assert (score.questions, score.gained, score.lost) == (2, 1, 0)


def test_a_mean_over_subjects_weights_them_evenly_and_subjects_can_be_clusters():
    about = About(tasks=(SUBJECTS,))
    subjects = ["law"] * 6 + ["art"] * 2
    sides = [
        Evaluation(
            name,
            Answers.of(about, [row(SUBJECTS, str(i), v, subject=s) for i, (v, s) in enumerate(zip(values, subjects, strict=True))]),
        )
        for name, values in (("A", [0, 0, 0, 0, 0, 0, 1, 1]), ("B", [1, 1, 1, 0, 0, 0, 1, 0]))
    ]
    macro, micro = compare_questions(sides[:1], sides[1:]).scores
    assert (macro.a, macro.b) == (pytest.approx(0.5), pytest.approx((0.5 + 0.5) / 2))
    assert (micro.a, micro.b, micro.p) == (0.25, 0.5, mcnemar(3, 1))
    assert (macro.primary, micro.primary, micro.corrected_p) == (True, False, None)
    by_subject = compare_questions(sides[:1], sides[1:], by_subject=True)
    assert by_subject.scores[1].clusters == 2
    assert by_subject.scores[1].p == (1.0, "sign flips, all", 0.0)  # +3 in one subject, −1 in the other
    assert "subjects are drawn at random" in by_subject.assumptions


def test_clusters_in_the_answers_are_flipped_together():
    about = About(tasks=(SHARE,))
    sides = [
        Evaluation(name, Answers.of(about, [row(SHARE, str(i), v, cluster=str(i // 3)) for i, v in enumerate(values)]))
        for name, values in (("A", [0.0] * 6), ("B", [1.0] * 6))
    ]
    (score,) = compare_questions(sides[:1], sides[1:]).scores
    assert (score.clusters, score.p) == (2, (0.5, "sign flips, all", 0.0))


def groups(rng: np.random.Generator, shift: float, seeds_b: Iterable[int] = (1, 2, 3, 4)):
    difficulty = rng.normal(size=200)

    def runs(name: str, seeds: Iterable[int], mean: float):
        return [
            evaluation(f"{name} {seed}", {SHARE: (difficulty + mean + 0.5 * rng.normal(size=200) > 0).astype(float)}, seed=seed)
            for seed in seeds
        ]

    return runs("dpo", (1, 2, 3, 4), 0.0), runs("spac", seeds_b, shift)


def test_groups_of_seeds():
    a, b = groups(np.random.default_rng(1), 0.8)
    found = compare_questions(a, b)
    assert found.matched
    score = found.scores[0]
    assert score.p is not None
    assert (score.p.method, score.gained, score.significant) == ("t", None, True)
    assert score.seeds_stderr is not None
    assert "runs of the same seed are paired" in found.assumptions
    assert compare_questions(a, b[::-1]).scores == found.scores  # in any order
    unmatched = compare_questions(*groups(np.random.default_rng(1), 0.0, (5, 6, 7)))
    assert not unmatched.matched
    assert not unmatched.significant
    assert "seeds and questions are both random, and runs are not paired" in unmatched.assumptions
    one = compare_questions(a, b[:1])
    assert "B is one run, whose seed is not taken as noise" in one.assumptions


def test_a_run_that_is_there_twice_is_no_second_seed():
    a, b = groups(np.random.default_rng(1), 0.8)
    with pytest.raises(UserError, match=r"is the same run as .* a run counts once"):
        compare_questions([a[0], a[0]], b[:2])
    weights = [Evaluation(name, each.answers, 1) for name, each in zip(("copy", "run"), (a[0], a[0]), strict=True)]
    about = a[0].answers.about.model_copy(update={"weights_sha256": "w" * 64})
    copies = [Evaluation(each.name, Answers(about, each.answers.table), each.seed) for each in weights]
    with pytest.raises(UserError, match="run: is the same run as copy"):
        compare_questions(b[:2], copies)
    other_seed = Evaluation("run", copies[1].answers, 2)  # a learning rate of 0 leaves two seeds with one start's weights
    assert compare_questions(b[:2], [copies[0], other_seed]).several_runs


def test_seeds_that_both_sides_have_in_part_are_not_denied():
    a, b = groups(np.random.default_rng(1), 0.8)
    assert "runs are not paired" in compare_questions(a[:3], b[1:4]).assumptions


def test_the_answer_that_is_shown_is_the_one_that_was_judged():
    """The likeliest choice by character where the score takes it so; of a held-out preference the response that is preferred."""
    norm = TaskAbout(name="arc", metrics=(Metric(name="acc_norm", rule="acc_norm"),))
    held = TaskAbout(name="heldout", metrics=(Metric(name="margin"), Metric(name="accuracy")))
    long_choice = {"log_probs": [-3.0, -2.5], "choice_lengths": [3, 1]}
    three = {"log_probs": [-5.0, -4.0, -1.0]}
    about = About(tasks=(norm, held))
    a, b = (
        Evaluation(
            name,
            Answers.of(
                about,
                [row(norm, "0", value, **(long_choice if value else {})), row(held, "0", value, **three, correct=bool(value))],
            ),
        )
        for name, value in (("A", 1.0), ("B", 0.0))
    )
    shown = {changed.task: (changed.answer_a, changed.answer_b) for changed in compare_questions([a], [b]).changed}
    assert shown == {"arc": ("0", "1"), "heldout": ("0", "1")}


def test_what_is_shown(capsys: pytest.CaptureFixture[str]):
    from rich.console import Console

    a, b = shares(9, 1)
    sides = [evaluation("runs/a", {SHARE: a, MEAN: [0.5, 0.25]}), evaluation("runs/b", {SHARE: b})]
    Console(width=200, markup=False).print(render_questions(compare_questions(sides[:1], sides[1:]), 3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "protocol of A and B: current"
    text = "\n".join(lines)
    for words in (
        "+0.4000",
        "McNemar, exact",
        "not in all of them, and left out: truth",
        "Questions that changed: 10, of which 10 flipped; the first 3",
    ):
        assert words in text


def test_flips_are_listed_before_values_that_shift():
    """A task of many small shifts comes first in the suite, and the one question that flipped still heads the list."""
    sides = [evaluation("A", {MEAN: [0.5, 0.25], SHARE: [0.0, 1.0]}), evaluation("B", {MEAN: [0.6, 0.5], SHARE: [1.0, 1.0]})]
    changed = compare_questions(sides[:1], sides[1:]).changed
    assert [(each.task, each.item_id, each.flipped) for each in changed] == [
        ("arc", "0", True),
        ("truth", "1", False),
        ("truth", "0", False),
    ]


def test_a_question_of_several_runs_flips_where_most_of_them_do():
    ones, mixed = [evaluation(f"A{i}", {SHARE: [1.0, 1.0]}, seed=i) for i in (1, 2, 3)], [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    others = [evaluation(f"B{i}", {SHARE: values}, seed=i) for i, values in enumerate(mixed, start=1)]
    changed = compare_questions(ones, others).changed
    assert [(each.item_id, each.flipped, round(each.b, 3)) for each in changed] == [("0", True, 0.333), ("1", False, 0.667)]


def test_an_average_is_not_significant_where_its_interval_holds_0():
    """Many small changes of one task that point one way are no proof that the average moved where one flipped answer decides it."""
    rng = np.random.default_rng(0)
    means, flipped = rng.uniform(0.3, 0.7, 60), [1.0] + [0.0] * 59
    sides = [evaluation("A", {MEAN: means, SHARE: flipped}), evaluation("B", {MEAN: means - 0.004, SHARE: [0.0] * 60})]
    truth, arc, average = compare_questions(sides[:1], sides[1:]).scores
    assert truth.significant
    assert not arc.significant
    assert average.low < 0 < average.high
    assert (average.p.method, average.significant) == ("t", False)


def test_names_that_could_move_the_cursor_are_shown_without_it():
    (changed,) = compare_questions(
        [Evaluation("A", Answers.of(About(tasks=(SHARE,)), [row(SHARE, "0\x1b[31m", 0.0, content_sha256="x")]))],
        [Evaluation("B", Answers.of(About(tasks=(SHARE,)), [row(SHARE, "0\x1b[31m", 1.0, content_sha256="x")]))],
    ).changed
    assert question_cells(changed)[:4] == ("arc", "0[31m", "x", "yes")


# What cannot be compared


def test_another_protocol_is_said_before_anything_else():
    a, b = shares(2, 1)
    sides = [evaluation("A", {SHARE: a}), evaluation("B", {MEAN: b}, protocol="leaderboard-v1")]
    with pytest.raises(UserError, match=r"protocol of A: current; of B: leaderboard-v1.*--across-protocols"):
        compare_questions(sides[:1], sides[1:])
    sides[1] = evaluation("B", {SHARE: b}, protocol="leaderboard-v1")
    said = compare_questions(sides[:1], sides[1:], across_protocols=True).protocols
    assert said.startswith("protocol of A: current; of B: leaderboard-v1 (unchecked): a difference comes from the protocol and")
    sides[1] = evaluation("B", {SHARE: b}, protocol=None)
    assert "of B: not recorded; a difference may come from the prompts" in compare_questions(sides[:1], sides[1:]).protocols


def test_other_tasks_questions_or_metrics_are_refused():
    a = evaluation("A", {SHARE: [0.0, 1.0]})
    with pytest.raises(UserError, match="A and B have no task in common"):
        compare_questions([a], [evaluation("B", {MEAN: [0.5]})])
    other = Answers.of(About(tasks=(SHARE,)), [row(SHARE, "0", 1.0, content_sha256="x")])
    with pytest.raises(UserError, match="arc: A and B were asked other questions, none in common"):
        compare_questions([a], [Evaluation("B", other)])
    renamed = TaskAbout(name="arc", metrics=(Metric(name="acc_norm"),))
    with pytest.raises(UserError, match="A has the metrics acc, and B has acc_norm"):
        compare_questions([a], [evaluation("B", {renamed: [0.0, 1.0]})])
