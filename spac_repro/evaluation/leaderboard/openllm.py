"""The six tasks of the Open LLM Leaderboard (v1), with the harness's stock prompts.

| task | shots | metric | the harness's name of it |
| --- | --- | --- | --- |
| arc_challenge | 25 | acc_norm | acc_norm |
| hellaswag | 10 | acc_norm | acc_norm |
| truthfulqa_mc2 | 0 | mc2 | acc |
| mmlu | 5 | acc_macro: the plain mean over 57 subjects, as the leaderboard took it | none: the mean of its subjects' acc |
| | | acc: weighted by the subjects' sizes | acc of the group mmlu |
| winogrande | 5 | acc | acc |
| gsm8k | 5 | exact_match | exact_match, filter strict-match |
| | | exact_match_flexible | exact_match, filter flexible-extract |

GSM8K: the leaderboard looked for the number after `####`, and an answer without that mark was wrong. That is strict-match;
flexible-extract takes the last number of the text and scores higher where a model answers in its own form.
"""

from importlib.util import find_spec
from pathlib import Path

from spac_repro.evaluation.leaderboard.questions import ArcRow, Gsm8kRow, HellaSwagRow, MmluRow, TruthfulQaRow, WinoGrandeRow
from spac_repro.evaluation.leaderboard.task import Task


def _stock() -> Path:
    """The folder of the harness's own task files, found without importing the harness."""
    spec = find_spec("lm_eval")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "tasks"


STOCK = _stock()

TASKS = (
    Task(
        name="arc_challenge",
        prompt=STOCK / "arc" / "arc_challenge.yaml",
        row=ArcRow,
        shots=25,
        examples="train",
        asked="test",
        metrics={"acc_norm": "acc_norm,none"},
        folder="arc_challenge",
        hub=("allenai/ai2_arc", "ARC-Challenge"),
    ),
    Task(
        name="hellaswag",
        prompt=STOCK / "hellaswag" / "hellaswag.yaml",
        row=HellaSwagRow,
        shots=10,
        examples="train",
        asked="validation",
        metrics={"acc_norm": "acc_norm,none"},
        folder="hellaswag",
        hub=("Rowan/hellaswag", None),
    ),
    Task(
        name="truthfulqa_mc2",
        prompt=STOCK / "truthfulqa" / "truthfulqa_mc2.yaml",
        row=TruthfulQaRow,
        shots=0,
        examples=None,
        asked="validation",
        metrics={"mc2": "acc,none"},
        folder="truthful_qa",
        hub=("truthfulqa/truthful_qa", "multiple_choice"),
    ),
    Task(
        name="mmlu",
        prompt=STOCK / "mmlu" / "default" / "mmlu_{subject}.yaml",
        group=STOCK / "mmlu" / "default" / "_mmlu.yaml",
        row=MmluRow,
        shots=5,
        examples="dev",
        asked="test",
        metrics={"acc_macro": "acc,none", "acc": "acc,none"},
        folder="mmlu",
        hub=("cais/mmlu", "{subject}"),
    ),
    Task(
        name="winogrande",
        prompt=STOCK / "winogrande" / "default.yaml",
        row=WinoGrandeRow,
        shots=5,
        examples="train",
        asked="validation",
        metrics={"acc": "acc,none"},
        folder="winogrande",
        hub=("allenai/winogrande", "winogrande_xl"),
    ),
    Task(
        name="gsm8k",
        prompt=STOCK / "gsm8k" / "gsm8k.yaml",
        row=Gsm8kRow,
        shots=5,
        examples="train",
        asked="test",
        metrics={"exact_match": "exact_match,strict-match", "exact_match_flexible": "exact_match,flexible-extract"},
        folder="gsm8k",
        hub=("openai/gsm8k", "main"),
        generates=256,
    ),
)
