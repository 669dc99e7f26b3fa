"""Asks lm-eval 0.4.0 questions, in a process of its own whose path begins with the folder that `make check` fills.

python tests/evaluation/lm_eval_0_4_0.py MODEL TASKS OUT TASK…     answers of a model to the task files in a folder, as JSON

It imports nothing of the package. lm-eval 0.4.0 fetches the metric `exact_match` from the hub when it is imported; its definition
stands here instead, so that no network is needed: texts without the patterns to ignore, in lower case, are equal.
"""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import evaluate


def exact_match(
    references: list[str], predictions: list[str], regexes_to_ignore: list[str], ignore_case: bool, ignore_punctuation: bool
) -> dict[str, float]:
    assert ignore_case
    assert not ignore_punctuation
    for pattern in regexes_to_ignore:
        references = [re.sub(pattern, "", text) for text in references]
        predictions = [re.sub(pattern, "", text) for text in predictions]
    pairs = zip(references, predictions, strict=True)
    return {"exact_match": sum(a.lower() == b.lower() for a, b in pairs) / len(references)}


def main(model: str, folder: str, out: str, *tasks: str) -> None:
    evaluate.load = lambda name: {"exact_match": SimpleNamespace(compute=exact_match), "bleu": None}[name]
    import lm_eval.tasks
    import transformers
    from lm_eval import evaluator

    assert "lm_eval_0_4_0" in lm_eval.__file__, lm_eval.__file__
    lm_eval.tasks.include_path(folder)
    results: Any = evaluator.simple_evaluate(
        model="hf", model_args=f"pretrained={model}", tasks=list(tasks), batch_size=1, device="cpu", bootstrap_iters=2
    )
    samples = {
        task: [
            {
                "doc": sample["doc"],
                "arguments": [list(argument) for argument in sample["arguments"]],
                "resps": [response[0] for response in sample["resps"]],
                "filtered": sample["filtered_resps"],
                "metrics": {key: float(sample[key]) for key in ("acc", "acc_norm", "exact_match") if key in sample},
            }
            for sample in of_task
        ]
        for task, of_task in results["samples"].items()
    }
    about = {"transformers": transformers.__version__, "n-shot": results["n-shot"], "results": results["results"]}
    Path(out).write_text(json.dumps({"samples": samples, **about}))


if __name__ == "__main__":
    main(*sys.argv[1:])
