"""What the harness says about each question, as rows of answers.parquet."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import lm_eval.api.metrics

from spac_repro.evaluation.leaderboard.packed_hflm import Lengths
from spac_repro.evaluation.leaderboard.task import Subtasks, Task
from spac_repro.runs import files
from spac_repro.runs.answers import Answer, ExtractionStep, Mean, Metric, TaskAbout, TaskAnswers

Sample = Mapping[str, Any]  # what the harness logs about a question and a filter
MC2 = "process_results_mc2"  # the harness's function for the share of the right choices
SIMPLE_FILTERS = ("regex", "take_first", "lowercase", "uppercase", "remove_whitespace")
ABOUT_A_METRIC = ("metric", "aggregation", "higher_is_better")  # the other keys of a metric are options of its function
COMPARISON = ("regexes_to_ignore", "ignore_case", "ignore_punctuation")  # what a rule can do before it compares texts


def collect(
    task: Task,
    subtasks: Subtasks,
    loaded: Mapping[str, Any],
    results: Mapping[str, Any],
    lengths: Lengths,
    note: str,
) -> TaskAnswers:
    """Collect the answers to a task.

    Args:
        task: the task.
        subtasks: its questions.
        loaded: the harness's own form of each subtask.
        results: what the harness returned, with its samples.
        lengths: the tokens of each question.
        note: what is said beside the scores.
    """
    first = next(iter(subtasks))
    metrics = tuple(_metric(task, name, loaded[first], results) for name in task.metric_names)
    about = TaskAbout(name=task.name, version=str(results["versions"][task.name]), metrics=metrics, note=note)
    rows = [
        row
        for subtask, splits in subtasks.items()
        for row in _rows(task, about, subtask, splits[task.test_split], loaded[subtask], results["samples"][subtask], lengths)
    ]
    return TaskAnswers(about, rows)


# How values and scores are computed


def _metric(task: Task, name: str, harness_task: Any, results: Mapping[str, Any]) -> Metric:
    """How the harness computes a metric, as far as a rule of `answer_scores` does the same."""
    key = task.metrics[name]
    measured, _, chosen = key.partition(",")
    settings: dict[str, Any] = {"name": name, "higher_is_better": harness_task.higher_is_better().get(measured, True)}
    values = [sample.get(measured) for samples in results["samples"].values() for sample in samples if sample["filter"] == chosen]
    is_mean = harness_task.aggregation().get(measured, lm_eval.api.metrics.mean) is lm_eval.api.metrics.mean
    if not (is_mean and all(isinstance(value, int | float) for value in values)):
        found = results["results"][task.name]
        stderr = found.get(key.replace(",", "_stderr,"))
        recorded = (float(found[key]), float(stderr) if isinstance(stderr, int | float) else None)
        return Metric(**settings, mean="recorded", recorded=recorded)
    mean: Mean = "items"
    if task.by_subject:
        mean = "subjects" if name == task.subjects_metric else "subjects_by_size"
    return Metric(**settings, mean=mean, **_rule(harness_task, measured, chosen))


def _rule(task: Any, measured: str, chosen: str) -> dict[str, Any]:
    """The rule by which the value of a question follows from its answer; empty if there is none."""
    config, metrics = task.config, {metric["metric"]: metric for metric in task.config.metric_list or ()}
    if config.process_results is not None:
        return {"rule": "mc2"} if getattr(config.process_results, "__name__", "") == MC2 else {}
    if config.output_type == "multiple_choice":
        plain = measured in ("acc", "acc_norm") and not config.filter_list and "acc_mutual_info" not in metrics
        return {"rule": measured} if plain else {}
    options = {name: value for name, value in metrics.get(measured, {}).items() if name not in ABOUT_A_METRIC}
    if config.output_type != "generate_until" or measured != "exact_match" or config.doc_to_choice or task.multiple_target:
        return {}
    if any(value for name, value in options.items() if name not in COMPARISON):
        return {}
    return {
        "rule": "exact_match",
        "extraction": _extraction(config.filter_list, chosen),
        "ignored": tuple(options.get("regexes_to_ignore") or ()),
        "ignore_case": bool(options.get("ignore_case")),
        "ignore_punctuation": bool(options.get("ignore_punctuation")),
    }


def _extraction(filters: Sequence[Mapping[str, Any]] | None, chosen: str) -> tuple[ExtractionStep, ...] | None:
    """The steps of a filter, if they need nothing but the text; the harness's default takes the text as it is."""
    steps = [step for each in filters or () if each["name"] == chosen for step in each["filter"]]
    known = {*ExtractionStep.model_fields}
    if any(step["function"] not in SIMPLE_FILTERS or step.keys() - known for step in steps):
        return None
    return tuple(ExtractionStep(**step) for step in steps)


# Rows


def _rows(
    task: Task,
    about: TaskAbout,
    subtask: str,
    questions: Sequence[Mapping[str, Any]],
    harness_task: Any,
    samples: Sequence[Sample],
    lengths: Lengths,
) -> Iterator[Answer]:
    """The rows of a subtask, in the order of its questions."""
    by_question: dict[int, dict[str, Sample]] = {}
    for sample in samples:
        by_question.setdefault(sample["doc_id"], {})[sample["filter"]] = sample
    own_rows = len(harness_task.eval_docs) == len(questions)  # a task may drop some
    for number, by_filter in sorted(by_question.items()):
        any_sample = next(iter(by_filter.values()))
        values, extracted = _values(task, about, by_filter)
        tokens, cut = lengths.get((subtask, number), (0, False))
        subject = subtask.removeprefix(f"{task.name}_") if task.by_subject else None
        primary = values.get(about.metrics[0].name)
        yield Answer(
            task=task.name,
            item_id=f"{number}" if subject is None else f"{subject}/{number}",
            content_sha256=files.sha256_json(questions[number] if own_rows else any_sample["doc"]),
            gold=_gold(harness_task, any_sample["doc"]),
            metrics=values,
            tokens=tokens,
            cut=cut,
            correct=bool(primary) if primary in (0, 1) and about.metrics[0].rule != "mc2" else None,
            subject=subject,
            extracted=extracted,
            **_answer(harness_task, any_sample),
        )


def _values(task: Task, about: TaskAbout, by_filter: Mapping[str, Sample]) -> tuple[dict[str, float], dict[str, str]]:
    """The value of each metric, and what its filter extracted from a generated text."""
    values, extracted = {}, {}
    for metric in about.metrics:
        measured, _, chosen = task.metrics[metric.name].partition(",")
        value, found = by_filter[chosen].get(measured), by_filter[chosen]["filtered_resps"][0]
        if isinstance(value, int | float):
            values[metric.name] = float(value)
        if isinstance(found, str):
            extracted[metric.name] = found
    return values, extracted


def _answer(task: Any, sample: Sample) -> dict[str, Any]:
    """The log-probabilities of the choices, or the generated text."""
    responses = [request[0] for request in sample["resps"]]
    if isinstance(responses[0], str):
        return {"generated": responses[0]}
    log_probs = [float(response[0] if isinstance(response, tuple) else response) for response in responses]
    lengths = list(map(len, task.doc_to_choice(sample["doc"]))) if task.OUTPUT_TYPE == "multiple_choice" else None
    return {"log_probs": log_probs, "choice_lengths": lengths}


def _gold(task: Any, question: Mapping[str, Any]) -> str:
    """What is right: the position of a choice, a JSON list of positions, or a text."""
    if task.config.process_results is not None and "mc2_targets" in question:
        return json.dumps([i for i, label in enumerate(question["mc2_targets"]["labels"]) if label == 1])
    gold = task.doc_to_text(question) if task.multiple_input else task.doc_to_target(question)
    if task.OUTPUT_TYPE == "multiple_choice" and isinstance(gold, str):
        choices = task.doc_to_choice(question)
        gold = choices.index(gold) if gold in choices else -100
    return gold if isinstance(gold, str) else json.dumps(gold)
