"""The size of answers.parquet for the questions of a folder, without a model.

    python bench/answers_size.py QUESTIONS

Log-probabilities are random fp32 numbers, which compress as badly as real ones. Generated texts are the right answers of GSM8K,
which are as long as real ones.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHOICES = {"hellaswag": 4, "mmlu": 4, "winogrande": 2}


def rows(task: Any, subtasks: Any, generator: random.Random) -> Iterator[Any]:
    """Return invented answers to the questions of a task."""
    import torch

    from spac_repro.runs import files
    from spac_repro.runs.answers import Answer

    for subtask, splits in subtasks.items():
        subject = subtask.removeprefix(f"{task.name}_") if task.by_subject else None
        for number, question in enumerate(splits[task.test_split]):
            known = {
                "arc_challenge": lambda q: len(q["choices"]["text"]),
                "truthfulqa_mc2": lambda q: len(q["mc2_targets"]["labels"]),
            }
            choices = known[task.name](question) if task.name in known else CHOICES.get(task.name, 0)
            right, values = generator.randrange(2), torch.randn(choices).mul(9).sub(40).tolist()
            text = question.get("answer") if task.name == "gsm8k" else None
            yield Answer(
                task=task.name,
                item_id=f"{number}" if subject is None else f"{subject}/{number}",
                content_sha256=files.sha256_json(question),
                gold=str(text or generator.randrange(4)),
                metrics=dict.fromkeys(task.metrics, generator.random() if task.name == "truthfulqa_mc2" else float(right)),
                tokens=generator.randrange(60, 1500),
                correct=None if task.name == "truthfulqa_mc2" else bool(right),
                subject=subject,
                log_probs=values or None,
                choice_lengths=[generator.randrange(1, 120) for _ in values] or None,
                generated=text,
                extracted=dict.fromkeys(task.metrics, str(generator.randrange(999))) if text else {},
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the number of questions, and the size of the file for them."""
    from spac_repro import suites
    from spac_repro.evaluation.leaderboard.scoring import read_questions
    from spac_repro.runs import answers
    from spac_repro.runs.answers import About, Answers, Metric, TaskAbout, TaskAnswers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="the folder with the questions of openllm")
    given = parser.parse_args(arguments)
    generator, tasks = random.Random(0), []
    for task, subtasks in read_questions(suites.get("openllm"), questions_folder=given.questions).items():
        about = TaskAbout(name=task.name, metrics=tuple(Metric(name=name) for name in task.metrics))
        tasks.append(TaskAnswers(about, list(rows(task, subtasks, generator))))
    joined = Answers.join(About(), tasks)
    with TemporaryDirectory() as folder:
        answers.write(Path(folder) / "answers.parquet", joined)
        size = (Path(folder) / "answers.parquet").stat().st_size
    counts = Counter(row.task for row in joined.rows())
    print(json.dumps({"questions": counts, "bytes": size, "bytes_a_question": math.ceil(size / counts.total())}))


if __name__ == "__main__":
    main()
