"""What each difference between evaluation protocols is worth on one model: paired, with its interval.

    python experiments/protocol_worth.py QUESTIONS --keep FOLDER [--model FOLDER] [--plain FILE] [--tasks A,B] [--limit 50]

The weights are those of recipe smollm2-135m, and the questions are the same on both sides of every row. Each condition asks some
tasks once, and leaves a small answers file each in the folder; a file that is there is not made again, so repeat the command to go
on. It begins no file after `--minutes`. `--plain` takes the answers under `current` from an evaluation of the same model and
questions (`evaluate --answers`). The table (`--table` alone asks nothing) is computed from the files alone:

* what a second file is needed for: BOS, the examples of WinoGrande, log-softmax in bfloat16, the chat template;
* what one file holds already: strict and flexible extraction; whether a full stop may follow the number; the stop words ':' and the
  empty line, since greedy decoding up to an earlier stop gives the beginning of the same text; TruthfulQA's true answers; the two
  means of MMLU.

With `--record NAME` the rows are kept in experiments/records/NAME.worth.json, of which docs/leaderboard.md has a table.

BOS: SmolLM2's tokenizer adds no special token. In the condition `bos` its post-processor puts `<|im_start|>`, which its
configuration names as BOS, before every text. log-softmax: the weights are rounded to bfloat16 first, since in float32 both
protocols agree. Chat template: lm-eval's `apply_chat_template` with `fewshot_as_multiturn`, the model's own template.

TruthfulQA's true answers are those labelled true (A), or those before the first false one (B).

Shares are compared by McNemar's exact test with Bonett and Price's interval, means by Student's t (docs/decisions/15-paired.md).
The two means of MMLU, of subjects (A) and by the subjects' sizes in the whole test (B), differ by
D = Σ (w_s − 1/S) m_s with the subjects' means m_s and their shares w_s of all questions. The
variance of D is Σ (w_s − 1/S)² p_s (1 − p_s)/(n_s − 1), with p_s = m_s; where a subject has one question, p (1 − p) with the share
p of all.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from worth_tables import Row, cells, markdown, record

from spac_repro import suites
from spac_repro.errors import UserError
from spac_repro.runs import answer_scores, answers
from spac_repro.runs.answers import Answer, Answers, Metric
from spac_repro.trust.paired_scores import PairedScore, paired_scores
from spac_repro.trust.question_pairs import Evaluation, pair

CHOICES = ("winogrande", "truthfulqa_mc2", "mmlu", "arc_challenge", "hellaswag")  # the quick ones first
STOP_WORDS = {"':'": (":", "Question:", "Question"), "an empty line": ("\n\n", "Question:")}
FULL_STOP = r"\.$"  # what the metric ignores
STRICT, FLEXIBLE = "exact_match", "exact_match_flexible"


@dataclass(frozen=True)
class Condition:
    """How some tasks are asked."""

    name: str
    tasks: tuple[str, ...]
    protocol: str = "current"
    bos: bool = False
    bfloat16: bool = False
    chat: bool = False


PLAIN = Condition("plain", (*CHOICES, "gsm8k"))
CONDITIONS = (
    PLAIN,
    Condition("no-examples", ("winogrande",), protocol="v0.4.0-spin"),
    Condition("bos", CHOICES, bos=True),
    Condition("float32-softmax", ("hellaswag", "arc_challenge"), bfloat16=True),
    Condition("bfloat16-softmax", ("hellaswag", "arc_challenge"), protocol="v0.4.0-spin", bfloat16=True),
    Condition("chat", (*CHOICES, "gsm8k"), chat=True),
)


# Asking


def ask(condition: Condition, task: str, options: argparse.Namespace) -> Answers:
    """Ask one task under a condition."""
    import torch

    from spac_repro import recipes
    from spac_repro.evaluation.leaderboard import scoring
    from spac_repro.model import policy

    settings = recipes.load("smollm2-135m").recipe.policy
    model, tokenizer = policy.load(options.model, settings) if options.model else policy.create_initial(settings, seed=0)
    if condition.bos:
        add_bos(tokenizer)
    with chat_template() if condition.chat else _nothing():
        return scoring.ask(
            model.to(torch.bfloat16) if condition.bfloat16 else model,  # type: ignore[arg-type]  # the stubs know no dtype
            tokenizer,
            suites.get("openllm"),
            tasks=[task],
            questions_folder=options.questions,
            limit=options.limit,
            batch_size=options.batch_size,
            protocol=condition.protocol,
        )


def add_bos(tokenizer: Any) -> None:
    """Let a tokenizer put its BOS before every text."""
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.convert_tokens_to_ids(bos))]
    )


@contextmanager
def chat_template() -> Iterator[None]:
    """Let the harness put every prompt into the model's chat template, with the examples as earlier turns."""
    import lm_eval

    plain = lm_eval.evaluate
    lm_eval.evaluate = partial(plain, apply_chat_template=True, fewshot_as_multiturn=True)
    try:
        yield
    finally:
        lm_eval.evaluate = plain


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def write_missing(options: argparse.Namespace) -> bool:
    """Ask what is not there yet, as far as the time allows; return whether everything is there."""
    until = time.monotonic() + 60 * options.minutes
    for condition in CONDITIONS:
        for task in condition.tasks:
            if options.tasks and task not in options.tasks:
                continue
            file = file_of(options.keep, condition.name, task)
            if file.exists():
                continue
            if time.monotonic() > until:
                return False
            started = time.monotonic()
            file.parent.mkdir(parents=True, exist_ok=True)
            answers.write(file, ask(condition, task, options))
            print(f"{file.name}: {time.monotonic() - started:.0f} s", flush=True)
    return True


def take_plain(evaluated: Path, folder: Path) -> None:
    """Divide an evaluation under `current` into the files of the condition `plain`, where they are not there yet."""
    found = answers.read(evaluated)
    if found.about.protocol != PLAIN.protocol:
        raise UserError(f"{evaluated}: its protocol is {found.about.protocol}, and not {PLAIN.protocol}")
    folder.mkdir(parents=True, exist_ok=True)
    for task in found.tasks():
        file = file_of(folder, PLAIN.name, task.about.name)
        if task.about.name in PLAIN.tasks and not file.exists():
            answers.write(file, Answers.join(found.about.model_copy(update={"averaged": ()}), [task]))


def file_of(folder: Path, condition: str, task: str) -> Path:
    """The answers file of a task under a condition."""
    return folder / f"{condition}-{task}.parquet"


# Rows


def between_files(folder: Path) -> Iterator[Row]:
    """The differences between two conditions, of the files that are there."""
    pairs = {
        "BOS before every text": ("plain", "bos"),
        "WinoGrande without its examples": ("plain", "no-examples"),
        "log-softmax in bfloat16": ("float32-softmax", "bfloat16-softmax"),
        "chat template": ("plain", "chat"),
    }
    for what, (a, b) in pairs.items():
        for task in PLAIN.tasks:
            files = [file_of(folder, name, task) for name in (a, b)]
            if all(file.exists() for file in files):
                yield Row(what, compared(*map(answers.read, files)))


def within_gsm8k(plain: Answers) -> Iterator[Row]:
    """The differences that one answers file of GSM8K holds."""
    strict = with_rows(plain, lambda row: row)
    yield Row("flexible for strict extraction", compared(strict, with_rows(plain, flexible)))
    (metric,) = (metric for metric in plain.about.tasks[0].metrics if metric.name == STRICT)
    for name, words in STOP_WORDS.items():
        yield Row(f"an answer ends at {name}", compared(strict, with_rows(plain, partial(ended, metric, words))))
    stopped = metric.model_copy(update={"ignored": tuple(each for each in metric.ignored if each != FULL_STOP)})
    yield Row("no full stop may follow the number", compared(strict, with_rows(plain, partial(judged, stopped))))


def judged(metric: Metric, row: Answer) -> Answer:
    """A row with the value that a metric gives its answer."""
    return replace(row, metrics={metric.name: answer_scores.item_value(metric, row) or 0.0})


def within_truthfulqa(plain: Answers) -> Row:
    """The true answers before the first false one, for all that are labelled true."""
    (task,) = plain.about.tasks
    (metric,) = task.metrics
    labelled = [judged(metric, row) for row in plain.rows()]  # computed as the others are: the harness's own have other last bits
    first = [judged(metric, replace(row, gold=json.dumps(before_a_false_one(json.loads(row.gold))))) for row in labelled]
    return Row("true answers before a false one", compared(*(Answers.of(plain.about, rows) for rows in (labelled, first))))


def before_a_false_one(right: Sequence[int]) -> list[int]:
    """The places of right answers with no wrong one before them."""
    return [place for number, place in enumerate(right) if place == number]


def with_rows(plain: Answers, change: Callable[[Answer], Answer]) -> Answers:
    """Answers with changed rows, whose one metric is strict extraction's."""
    (task,) = plain.about.tasks
    only = task.model_copy(update={"metrics": tuple(metric for metric in task.metrics if metric.name == STRICT)})
    changed = [change(row) for row in plain.rows()]
    return Answers.of(plain.about.model_copy(update={"tasks": (only,)}), changed)


def flexible(row: Answer) -> Answer:
    """A row whose value is that of flexible extraction."""
    return replace(row, metrics={STRICT: row.metrics[FLEXIBLE]})


def ended(metric: Metric, words: Sequence[str], row: Answer) -> Answer:
    """A row whose answer ends at the first of these words, as decoding would have ended there."""
    text = re.split("|".join(map(re.escape, words)), row.generated or "")[0]
    return judged(
        metric, replace(row, generated=text, extracted={metric.name: answer_scores.extract(metric.extraction or (), text)})
    )


def compared(a: Answers, b: Answers) -> PairedScore:
    """The primary score of A and B on their questions."""
    tasks = pair([Evaluation("A", a)], [Evaluation("B", b)])
    return next(row for row in paired_scores(tasks, [], matched=False, by_subject=False) if row.primary)


def means_of_mmlu(rows: Sequence[Answer], sizes: dict[str, int]) -> PairedScore:
    """The mean of subjects by their sizes (B), as over all questions, against the mean over subjects (A).

    Args:
        rows: answers to some questions of each subject.
        sizes: the number of questions of each subject, asked or not.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row.subject or "", []).append(row.metrics["acc"])
    total, overall = sum(sizes[subject] for subject in values), sum(map(sum, values.values())) / len(rows)
    macro = math.fsum(sum(own) / len(own) for own in values.values()) / len(values)
    difference = variance = 0.0
    for subject, own in values.items():
        weight, mean = sizes[subject] / total - 1 / len(values), sum(own) / len(own)
        share = mean if len(own) > 1 else overall
        difference += weight * mean
        variance += weight**2 * share * (1 - share) / (len(own) - 1 if len(own) > 1 else 1)
    half = 1.96 * math.sqrt(variance)
    found = (len(rows), len(rows), (len(rows), len(rows)), macro, macro + difference, difference - half, difference + half)
    return PairedScore("mmlu", "acc by size", True, *found, p=None)


def subject_sizes(questions: Path) -> dict[str, int]:
    """The number of questions of each subject of MMLU."""
    from spac_repro.evaluation.leaderboard.scoring import read_questions

    ((task, subtasks),) = read_questions(suites.get("openllm"), tasks=["mmlu"], questions_folder=questions).items()
    return {name.removeprefix(f"{task.name}_"): len(splits[task.test_split]) for name, splits in subtasks.items()}


def rows_of(folder: Path, questions: Path) -> list[Row]:
    """Every row that the files in the folder allow."""
    found = [*between_files(folder)]
    gsm8k, mmlu, truthfulqa = (file_of(folder, PLAIN.name, task) for task in ("gsm8k", "mmlu", "truthfulqa_mc2"))
    if gsm8k.exists():
        found += within_gsm8k(answers.read(gsm8k))
    if truthfulqa.exists():
        found.append(within_truthfulqa(answers.read(truthfulqa)))
    if mmlu.exists():
        score = means_of_mmlu([*answers.read(mmlu).rows()], subject_sizes(questions))
        found.append(Row("mean by subject size, not of subjects", score))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Ask what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="the folder with the questions of openllm")
    parser.add_argument("--keep", type=Path, required=True, help="the folder of the answers")
    parser.add_argument("--model", type=Path, help="a model folder; by default the model of the recipe")
    parser.add_argument("--plain", type=Path, help="answers under `current` that exist already")
    parser.add_argument("--tasks", type=lambda text: text.split(","), help="ask these tasks alone")
    parser.add_argument("--limit", type=int, default=50, help="questions a task")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=4.0, help="begin no file after so many minutes")
    parser.add_argument("--table", action="store_true", help="ask nothing")
    parser.add_argument("--record", metavar="NAME", help="keep the rows for the tables of docs/")
    options = parser.parse_args(arguments)
    if unknown := sorted({*(options.tasks or ())} - {*PLAIN.tasks}):
        parser.error(f"--tasks: there is no {unknown[0]}; there are {', '.join(PLAIN.tasks)}")
    if options.plain:
        try:
            take_plain(options.plain, options.keep)
        except UserError as error:
            raise SystemExit(str(error)) from None
    if not options.table and not write_missing(options):
        print("some answers are missing; repeat the command")
    rows = rows_of(options.keep, options.questions)
    print(markdown(cells(rows)))
    if options.record:
        print(record(options.record, rows))


if __name__ == "__main__":
    main()
