"""CPU time of the leaderboard here and with lm-eval's own HFLM: same model, same questions, task by task, in turns.

    python bench/evaluate.py QUESTIONS [--model FOLDER] [--tasks mmlu,gsm8k] [--limit N] [--batch-size 16] [--threads 1] [--json]

The model is that of recipe smollm2-135m, SmolLM2-135M. Both sides get the prompts of the same task files. MMLU has the first
questions of one subject, as in a whole evaluation, where a subject has 123 on average; the other tasks have their first ones. A row
also says how far the log-probabilities of any choice lie apart, and how many generated texts are equal. Both sides answer one
question before a clock runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

LIMITS = {"arc_challenge": 4, "hellaswag": 6, "truthfulqa_mc2": 12, "mmlu": 48, "winogrande": 24, "gsm8k": 8}
SUBJECT = "anatomy"
WARM_UP = "winogrande"  # one question of it


def questions(folder: Path, task: str, limit: int) -> dict[Any, Any]:
    """Read the questions of a task: the first ones; of MMLU those of one subject."""
    from spac_repro import suites
    from spac_repro.evaluation.leaderboard.scoring import read_questions

    ((asked, subtasks),) = read_questions(suites.get("openllm"), tasks=[task], questions_folder=folder).items()
    if asked.by_subject:
        subtasks = {name: splits for name, splits in subtasks.items() if name.endswith(f"_{SUBJECT}")}
    return {asked: asked.limited(subtasks, limit)}


def ask_here(model: Any, tokenizer: Any, asked: dict[Any, Any], batch_size: int) -> list[Any]:
    """Ask as the package does; return the rows of the answers."""
    from spac_repro.evaluation.leaderboard import harness
    from spac_repro.model.policy import use_packed_attention

    use_packed_attention(model, "sdpa")
    (answered,) = harness.measure(model, tokenizer, asked, batch_size=batch_size, seed=1234)
    return list(answered.rows)


def ask_hflm(model: Any, tokenizer: Any, asked: dict[Any, Any], batch_size: int) -> list[Any]:
    """Ask as a user of the harness does, with the same task files; return the rows of the answers."""
    import copy

    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from spac_repro.evaluation.leaderboard import answer_rows, harness

    model.set_attn_implementation("sdpa")
    ((task, subtasks),) = asked.items()
    lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
    with TemporaryDirectory() as folder:
        harness.write_task(task, subtasks, Path(folder))
        loaded = TaskManager(include_path=folder, include_defaults=False).load([task.name])
        for subtask in loaded["tasks"].values():
            subtask.set_fewshot_seed(1234)
        results = lm_eval.evaluate(lm=lm, task_dict=loaded)
        assert results is not None
        return list(answer_rows.collect(task, subtasks, loaded["tasks"], dict(results), {}, "").rows)


def timed(ask: Callable[..., list[Any]], *arguments: Any) -> tuple[float, list[Any]]:
    """Return the CPU time of a call in seconds, and its result."""
    begin = time.process_time()
    rows = ask(*arguments)
    return time.process_time() - begin, rows


def compare(ours: Sequence[Any], theirs: Sequence[Any]) -> dict[str, Any]:
    """How equal the answers are: log-probabilities, texts, values."""
    pairs = list(zip(ours, theirs, strict=True))
    gaps = [abs(a - b) for x, y in pairs if x.log_probs for a, b in zip(x.log_probs, y.log_probs, strict=True)]
    texts = [x.generated == y.generated for x, y in pairs if x.generated is not None]
    equal_values = sum(all(abs(x.metrics[name] - y.metrics[name]) < 1e-5 for name in x.metrics) for x, y in pairs)
    row: dict[str, Any] = {"questions": len(pairs), "equal_values": equal_values}
    row |= {"largest_log_prob_gap": max(gaps)} if gaps else {}
    return row | ({"equal_texts": sum(texts)} if texts else {})


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row for each task."""
    import torch

    from spac_repro import recipes
    from spac_repro.model import policy, precision

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="the folder with the questions of openllm")
    parser.add_argument(
        "--model", type=Path, help="a model folder; by default the model of the recipe, which takes 25 s to convert"
    )
    parser.add_argument("--tasks", default=",".join(LIMITS))
    parser.add_argument("--limit", type=int, help="questions a task")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one object a line")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    settings = recipes.load("smollm2-135m").recipe.policy
    model, tokenizer = policy.load(given.model) if given.model else policy.create_initial(settings, seed=0)
    model.eval()
    half = model.dtype == torch.bfloat16
    for ask in (ask_here, ask_hflm):  # so that neither pays for imports, and for the first look at the weights
        ask(model, tokenizer, questions(given.questions, WARM_UP, 1), 1)
    for task in given.tasks.split(","):
        asked = questions(given.questions, task, given.limit or LIMITS[task])
        seconds: dict[str, list[float]] = {"here": [], "hflm": []}
        for _ in range(given.repetitions):
            with precision.emulate_bf16_matmul() if half else nullcontext():
                here, ours = timed(ask_here, model, tokenizer, asked, given.batch_size)
                hflm, theirs = timed(ask_hflm, model, tokenizer, asked, given.batch_size)
            seconds["here"].append(here)
            seconds["hflm"].append(hflm)
        ratios = [b / a for a, b in zip(seconds["here"], seconds["hflm"], strict=True)]
        row = {"task": task, "dtype": str(model.dtype), **compare(ours, theirs)}
        row |= {"ratio": ratios} | {name: [round(each, 1) for each in values] for name, values in seconds.items()}
        print(json.dumps(row) if given.json else f"{row}  ratio {workload.median_and_range(ratios)}", flush=True)


if __name__ == "__main__":
    main()
