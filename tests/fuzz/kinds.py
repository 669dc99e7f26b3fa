"""Every kind of file that a person can hand in: a valid one, and the commands that read it."""

import gzip
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from spac_repro.data import audit
from spac_repro.data.audit import Codec
from spac_repro.launchers import matrix, sweep_folder
from spac_repro.launchers.matrix import Sweep
from spac_repro.launchers.profile import Cluster
from spac_repro.runs import files
from spac_repro.runs.audit import Audit
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.results import IterateScores, Results, Score

ROOT = Path(__file__).resolve().parents[2]
TASKS = ROOT / "spac_repro" / "evaluation" / "leaderboard" / "tasks"


ABOUT_ANSWERS = json.dumps(
    {
        "schema": 1,
        "harness": "lm_eval 0.4.13",
        "suite": "mine",
        "tasks": [
            {"name": "arc", "metrics": [{"name": "acc_norm", "rule": "acc_norm"}, {"name": "acc", "rule": "acc"}]},
            {"name": "sums", "metrics": [{"name": "exact_match", "rule": "exact_match", "ignored": [","]}]},
        ],
        "averaged": ["arc", "sums"],
    }
).encode()
TABLE = b"""method,iteration,arc_challenge,truthfulqa_mc2,winogrande,gsm8k,hellaswag,mmlu,average
n,,1172,817,1267,1319,10042,14042,
spac,1,62.0,50.0,74.0,33.0,84.0,60.0,60.5
"""


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: What it is called in reports.
        base: The folder of valid files that is copied for each input.
        file: The file that is damaged, relative to the copy.
        syntax: For `mutations.mutate`.
        commands: Command lines; `{}` is the folder. One is drawn for each input. Empty where only `call` reads such a file.
        call: Reads the folder in process, where a command would first take seconds for other things.
        numbers_may_disagree: Whether exit code 1 is an answer: verify and compare.
    """

    name: str
    base: str
    file: str
    syntax: str
    commands: tuple[str, ...] = ()
    call: Callable[[Path], object] | None = None
    numbers_may_disagree: bool = False


def _preferences(folder: Path) -> object:
    from spac_repro.data.preferences import fingerprint, read_preferences

    (source,) = (path for path in folder.iterdir() if path.is_file())
    return fingerprint(read_preferences(str(source)))


def _questions(folder: Path) -> object:
    from spac_repro import suites
    from spac_repro.evaluation.leaderboard import scoring

    return scoring.read_questions(suites.get("openllm"), tasks=["gsm8k"], questions_folder=folder, limit=3)


def _suite(folder: Path) -> object:
    from spac_repro import suites
    from spac_repro.evaluation.leaderboard.task_file import tasks_of

    return tasks_of(suites.get(str(folder)))


def _model_folder(folder: Path) -> object:
    from spac_repro.model import policy

    return policy.load(folder)


def _fingerprint(folder: Path) -> object:
    return RunFolder(folder / "a").iteration(1).weights_sha256


def _answers(folder: Path) -> object:
    """Read answers, with the metadata of the file beside them; and compute the scores."""
    import pyarrow.parquet as pq

    from spac_repro.runs import answer_scores, answers

    file, about = folder / "answers.parquet", folder / "about.json"
    if about.read_bytes() != ABOUT_ANSWERS:
        pq.write_table(pq.read_table(file).replace_schema_metadata({answers.ABOUT: about.read_bytes()}), file)
    return answer_scores.scores(answers.read(file))


def _adapter(folder: Path) -> object:
    from spac_repro.model import adapter_folder

    return adapter_folder.base_folder(adapter_folder.read(folder))


def _sweep(folder: Path) -> object:
    return matrix.runs(Sweep.load(str(folder / "sweep.yaml")))


def _cluster(folder: Path) -> object:
    return Cluster.load(str(folder / "cluster.yaml"))


_RUN = ("verify {}/a", "compare {}/a {}/b", "verify {}/a --json", "compare {}/b {}/a --json", "report {}/a -o {}/out.html")
_SWEEP = ("sweep status {}", "sweep status {} --json", "sweep collect {}")
_SAMPLES = ("compare {}/a {}/b", "compare {}/a {}/b --json", "compare {}/b/samples_mine.jsonl {}/a/samples_mine.jsonl")
_IMPORT = "expected import {}/table.csv --recipe zephyr-7b --citation x --unit percent -o {}/out.yaml"
_EXPECTED = ("verify {}/a --expected {}/expected.yaml", "compare {}/a {}/expected.yaml")


def _of_a_run(name: str, file: str, syntax: str, commands: tuple[str, ...] = _RUN) -> Kind:
    return Kind(name, "runs", f"a/{file}", syntax, commands, numbers_may_disagree=True)


KINDS = (
    Kind("recipe", "recipe", "recipe.yaml", "yaml", ("recipes check {}/recipe.yaml", "recipes show {}/recipe.yaml")),
    Kind("recipe, cost", "recipe", "recipe.yaml", "yaml", ("train --recipe {}/recipe.yaml --dry-run",)),
    Kind("--set", "set", "set.txt", "bytes", ("recipes show tiny --set <set.txt>", "train --dry-run --set <set.txt>")),
    Kind("sweep", "sweep", "sweep.yaml", "yaml", call=_sweep),
    Kind("cluster", "cluster", "cluster.yaml", "yaml", call=_cluster),
    Kind("expected results", "runs", "expected.yaml", "yaml", _EXPECTED, numbers_may_disagree=True),
    _of_a_run("manifest", "manifest.json", "json"),
    _of_a_run("results", "results.json", "json"),
    _of_a_run("scores", "iteration-1/scores.json", "json"),
    _of_a_run("metrics", "metrics.jsonl", "jsonl"),
    _of_a_run("timing", "timing.json", "json"),
    _of_a_run("contamination", "contamination.json", "json", ("report {}/a -o {}/out.html", "verify {}/a")),
    _of_a_run("audit", "iteration-1/audit.json", "json", ("report {}/a -o {}/out.html", "verify {}/a")),
    Kind("fingerprint", "runs", "a/iteration-1/policy/fingerprint.json", "json", ("compare {}/a {}/b",), _fingerprint, True),
    Kind("sweep.json", "submitted", "sweep.json", "json", _SWEEP),
    Kind("attempts", "submitted", "jobs/attempts/run-spac,seed-1.jsonl", "jsonl", _SWEEP),
    Kind(
        "lm-eval results",
        "lm-eval",
        "results.json",
        "json",
        ("verify --scores {}/results.json --recipe zephyr-7b --method spac --iteration 0",),
        numbers_may_disagree=True,
    ),
    Kind("preferences, jsonl", "jsonl", "rows.jsonl", "jsonl", call=_preferences),
    Kind("preferences, json", "json", "rows.json", "json", call=_preferences),
    Kind("preferences, gz", "gz", "rows.jsonl.gz", "gz", call=_preferences),
    Kind("preferences, parquet", "parquet", "rows.parquet", "bytes", call=_preferences),
    Kind("preferences, csv", "csv", "rows.csv", "bytes", call=_preferences),
    Kind("questions", "questions", "gsm8k/test.jsonl", "jsonl", call=_questions),
    Kind("worked examples", "questions", "gsm8k/train.jsonl", "jsonl", call=_questions),
    Kind("task", "suite", "task.yaml", "yaml", call=_suite),
    Kind("suite", "suite", "suite.yaml", "yaml", call=_suite),
    Kind("answers", "answers", "answers.parquet", "bytes", call=_answers),
    Kind("answers, metadata", "answers", "about.json", "json", call=_answers),
    Kind("published table", "published", "table.csv", "bytes", (_IMPORT,)),
    Kind("samples of lm-eval", "samples", "a/samples_mine.jsonl", "jsonl", _SAMPLES, numbers_may_disagree=True),
    Kind("archive", "archive", "runs.zip", "bytes", ("verify {}/runs.zip", "verify {}/runs.zip --json"), None, True),
    Kind("adapter", "adapter", "adapter_config.json", "json", call=_adapter),
    Kind("config.json", "model", "config.json", "json", ("evaluate {} --suite mini --json",), _model_folder),
    Kind("tokenizer.json", "model", "tokenizer.json", "json", ("evaluate {} --suite mini --json",), _model_folder),
    Kind("tokenizer_config.json", "model", "tokenizer_config.json", "json", ("evaluate {} --suite mini --json",), _model_folder),
    Kind("generation_config.json", "model", "generation_config.json", "json", ("evaluate {} --suite mini --json",), _model_folder),
    Kind("weights", "model", "model.safetensors", "bytes", ("evaluate {} --suite mini --json",), _model_folder),
)


# The valid files


def write_bases(folder: Path) -> None:
    """Write the valid folder of every kind."""
    for name, content in {
        "recipe/recipe.yaml": (ROOT / "spac_repro" / "recipes" / "tiny.yaml").read_bytes(),
        "set/set.txt": b"training.epochs_per_iteration=1",
        "sweep/sweep.yaml": (ROOT / "launchers" / "sweeps" / "ablation_eta.yaml").read_bytes(),
        "cluster/cluster.yaml": (ROOT / "launchers" / "clusters" / "gpu-8.yaml").read_bytes(),
        "suite/task.yaml": (TASKS / "mini" / "mini_gsm8k.yaml").read_bytes(),
        "suite/suite.yaml": b"suite: mine\nsummary: of my own\n",
        "published/table.csv": TABLE,
        "answers/about.json": ABOUT_ANSWERS,
        "runs/expected.yaml": (ROOT / "expected_results" / "tiny.yaml").read_bytes(),
        "lm-eval/results.json": json.dumps(_lm_eval()).encode(),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for seed, run in enumerate(("a", "b")):
        write_run(folder / "runs" / run, seed)
    _write_answers(folder / "answers" / "answers.parquet")
    _write_samples(folder / "samples")
    _write_archive(folder / "archive" / "runs.zip", RunFolder(folder / "runs" / "a").path)
    _write_preferences(folder)
    _write_questions(folder / "questions" / "gsm8k")
    _write_submitted(folder / "submitted")


def write_adapter(folder: Path) -> None:
    """Write an adapter folder whose weights nobody reads."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"lora_A": torch.zeros(1)}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "."}
    (folder / "adapter_config.json").write_text(json.dumps(config))


def write_model(folder: Path) -> None:
    """Write a model folder: a random model of one layer."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from spac_repro.data.tokenizers import special_token_ids, world_tokenizer
    from spac_repro.model import policy

    tokenizer = world_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 1}
    config = MistralConfig(vocab_size=len(tokenizer), **shape, **special_token_ids(tokenizer))
    policy.save(MistralForCausalLM(config), tokenizer, folder)


def write_run(folder: Path, seed: int) -> None:
    """Write a complete run without hashes, as version 0.1 wrote them: every damage reaches the reader."""
    from spac_repro import recipes
    from spac_repro.runs.manifest import SCHEMA

    run = recipes.load("tiny", seed=seed)
    manifest = {
        "schema": SCHEMA,
        "recipe": "tiny",
        "method": "spac",
        "seed": seed,
        "settings": run.settings(),
        "settings_sha256": run.settings_sha256,
        "provenance": {key: asdict(source) for key, source in run.provenance.items()},
        "inputs": {"preferences": 2, "preferences_sha256": "a" * 64, "tokenizer_sha256": "b" * 64},
        "environment": {
            "threads": 1,
            "cpu": "x",
            "libraries": {"torch": "2.13.0"},
            "source": {"commit": "c" * 40, "changed": False},
        },
        "segments": [],
    }
    target = RunFolder(folder)
    files.write_json(target.manifest_file, manifest)
    iterates = []
    expected = yaml.safe_load((ROOT / "expected_results" / "tiny.yaml").read_text(encoding="utf-8"))["rows"]
    for t in range(4):
        rows = [row for row in expected if row["iteration"] == t and row["method"] in ("start", "spac")]
        scores = tuple(
            Score(row["task"], row["metric"], row["value"], stderr=0.01, n=row.get("n", 500), version=str(row.get("version", "")))
            for row in rows
        )
        files.write_json(target.iteration(t).scores_file, [score.as_dict() for score in scores])
        files.write_json(target.iteration(t).fingerprint_file, {"weights_sha256": f"{t}{seed}" * 32})
        iterates.append(IterateScores(iteration=t, weights_sha256=f"{t}{seed}" * 32, scores=scores))
    results = Results(
        recipe="tiny",
        method="spac",
        seed=seed,
        complete=True,
        settings_sha256=run.settings_sha256,
        weights_sha256=f"3{seed}" * 32,
        harness="lm_eval 0.4.13",
        iterations=tuple(iterates),
    )
    files.write_json(target.results_file, results.as_json())
    steps = [{"iteration": t, "step": s, "loss": 1 / (s + t), "grad_norm": 1.0} for t in range(1, 4) for s in range(1, 4)]
    files.write_bytes(target.metrics_file, b"".join(json.dumps(step).encode() + b"\n" for step in steps))
    files.write_json(target.timing_file, [{"iteration": 1, "stage": "train", "seconds": 1.5, "peak_memory_bytes": 10**8}])
    files.write_json(target.iteration(1).audit_file, _audit().as_json())
    files.write_json(target.contamination_file, {"mini_gsm8k": {"questions": 5, "contaminated": 1, "prompts": [1]}})


def _audit() -> Audit:
    """An audit of rows that a renderer begins with another token."""
    responses, begun = [[i % 5 + 3, 2] for i in range(40)], [[9, 2] for _ in range(40)]
    codec = Codec(lambda row, response: responses[row], str, str, (2,))
    return audit.measure([[i] for i in range(40)], {"chosen": responses}, begun, codec)


def _write_preferences(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [
        {"prompt": "How are you?", "chosen": "Well.", "rejected": "No."},
        {"prompt": "π", "chosen": [*messages[:1], {"role": "assistant", "content": "b"}], "rejected": messages},
        {"chosen": [*messages[:1], {"role": "assistant", "content": "c"}], "rejected": messages},
    ]
    rows[1]["prompt"] = "q"
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    for name in ("jsonl", "json", "gz", "parquet", "csv"):
        (folder / name).mkdir()
    (folder / "jsonl" / "rows.jsonl").write_bytes(lines)
    (folder / "csv" / "rows.csv").write_text('prompt,chosen,rejected\n"How are you?",Well.,No.\n"q, or\nq",b,a\n')
    (folder / "json" / "rows.json").write_bytes(json.dumps(rows).encode())
    (folder / "gz" / "rows.jsonl.gz").write_bytes(gzip.compress(lines, mtime=0))
    pq.write_table(pa.Table.from_pylist(rows[:1] * 20), folder / "parquet" / "rows.parquet")


def _write_questions(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        rows = [{"question": f"{split}: {i} + 1?", "answer": f"so #### {i + 1}"} for i in range(8)]
        (folder / f"{split}.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def _write_submitted(folder: Path) -> None:
    sweep = sweep_folder.SweepFolder(folder, "seeds", Cluster.load("local"))
    sweep.add([run for run in matrix.runs(Sweep.load("seeds")) if run.method == "spac"])
    folder.mkdir()
    sweep_folder.make_private(folder / sweep_folder.JOBS)
    sweep.save()
    write_run(folder / "spac" / "seed-2", 2)
    attempts = folder / sweep_folder.JOBS / "attempts" / "run-spac,seed-1.jsonl"
    lines = [
        {"job": "12", "node": "n", "at": 1.0, "begin": True},
        {"job": "12", "node": "n", "at": 2.0, "end": "error", "error": "x"},
    ]
    files.write_bytes(attempts, b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def _write_answers(file: Path) -> None:
    from spac_repro.runs import answers

    right = {"acc": 1.0, "acc_norm": 0.0}
    chosen = {"log_probs": [-1.0, -2.0], "choice_lengths": [1, 2], "correct": True}
    rows = [answers.Answer("arc", str(i), "a" * 64, "0", right, 5, **chosen) for i in range(4)]  # type: ignore[arg-type]
    found = {"generated": "#### 1", "extracted": {"exact_match": "1"}, "correct": True}
    rows += [answers.Answer("sums", str(i), "b" * 64, "1", {"exact_match": 1.0}, 5, **found) for i in range(4)]  # type: ignore[arg-type]
    answers.write(file, answers.Answers.of(answers.About.model_validate_json(ABOUT_ANSWERS), rows))


def _write_samples(folder: Path) -> None:
    sample = {"target": "1", "resps": [[["-1.0", "False"]], [["-2.0", "False"]]], "filtered_resps": [["-1.0", "False"]]}
    for name, right in (("a", 1.0), ("b", 0.0)):
        (folder / name).mkdir(parents=True)
        rows = [{**sample, "doc_id": i, "doc": {"q": i}, "filter": "none", "metrics": ["acc"], "acc": right} for i in range(6)]
        (folder / name / "samples_mine.jsonl").write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def _write_archive(file: Path, run: Path) -> None:
    from spac_repro.publish import archive
    from spac_repro.publish.archive_texts import Deposit

    file.parent.mkdir()
    archive.archive([run], file, deposit=Deposit())


def _lm_eval() -> dict[str, object]:
    tasks = {
        "gsm8k": {"exact_match,strict-match": 0.3, "exact_match_stderr,strict-match": 0.01},
        "arc_challenge": {"acc_norm,none": 0.6},
    }
    return {
        "results": tasks,
        "group_subtasks": {"gsm8k": [], "arc_challenge": []},
        "versions": {"gsm8k": 3.0, "arc_challenge": 1.0},
        "n-shot": {"gsm8k": 5, "arc_challenge": 25},
        "n-samples": {"gsm8k": {"original": 1319, "effective": 1319}},
        "lm_eval_version": "0.4.13",
    }


def arguments(command: str, folder: Path) -> Sequence[str]:
    """The words of a command about the files in a folder; `<name>` stands for what a file contains."""
    words = [word.replace("{}", str(folder)) for word in command.split(" ")]
    return [
        (folder / word[1:-1]).read_bytes().decode(errors="replace").replace("\0", "") if word.startswith("<") else word
        for word in words
    ]


def copy_base(bases: Path, kind: Kind, folder: Path) -> None:
    """Copy the valid folder of a kind."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bases / kind.base, folder)
