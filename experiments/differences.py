"""Change exactly one thing relative to a reference run, and test whether `spac-repro compare` names it first.

    python experiments/differences.py --out runs/differences              the table of docs/reproducibility.md
    python experiments/differences.py --out runs/differences --only seed  one row of it

The runs are `tiny` cut down to seconds (tests/e2e/cut_down.py). Noise is the spread of five seeds of the reference.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "e2e")]

import cut_down  # noqa: E402

from spac_repro.data.preferences import Preference  # noqa: E402
from spac_repro.runs import files  # noqa: E402
from spac_repro.runs.folder import RunFolder  # noqa: E402

REFERENCE = "reference/seed-0"
CHAT = "chat/seed-0"
DATED = "dated/seed-0"
SEEDS = (1, 2, 3, 4)
OLDER_LIBRARY = "accelerate==1.14.0"
# A chat template that leaves the world's prompts as they are, one that adds a character, and one that adds the day of the month.
_MESSAGES = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
TEMPLATES = {
    CHAT: f"<s>{_MESSAGES}",
    "other": f"<s>a{_MESSAGES}",
    DATED: f"<s>{{{{ strftime_now('%d') }}}}{_MESSAGES}",
}

# How a run is made


def train(
    out: Path,
    *settings: str,
    method: str = "spac",
    seed: int = 0,
    rows: Callable[[Sequence[Preference]], Sequence[Preference]] = list,
    template: str | None = None,
    dropout: float = 0.0,
) -> None:
    """Train a cut-down run in this process, with some settings, preferences, the chat template or the model's dropout changed."""
    from spac_repro import pipeline, recipes
    from spac_repro.data import sources, tokenizers
    from spac_repro.model import policy
    from spac_repro.progress import MessagesOnly

    run = recipes.load("tiny", method=method, seed=seed, overrides=[*cut_down.SETTINGS, *settings])
    read = sources.read(run, preferences=None, questions=None)
    usual = tokenizers.world_tokenizer

    def with_template() -> Any:
        tokenizer = usual()
        tokenizer.chat_template = template
        return tokenizer

    config = policy.MistralConfig
    tokenizers.world_tokenizer = with_template
    policy.MistralConfig = partial(config, attention_dropout=dropout)
    try:
        changed = replace(read, preferences=rows(read.preferences))
        pipeline.train(run, out, changed, allow_changed_environment=False, progress=MessagesOnly())
    finally:
        tokenizers.world_tokenizer = usual
        policy.MistralConfig = config


def swap_two_rows(rows: Sequence[Preference]) -> Sequence[Preference]:
    """Swap the first two preferences."""
    return [rows[1], rows[0], *rows[2:]]


def flip_a_label(rows: Sequence[Preference]) -> Sequence[Preference]:
    """Swap chosen and rejected in row 7."""
    return [*rows[:6], replace(rows[6], chosen=rows[6].rejected, rejected=rows[6].chosen), *rows[7:]]


def change_a_letter(rows: Sequence[Preference]) -> Sequence[Preference]:
    """Change the last letter of the prompt in row 7."""
    (message,) = rows[6].prompt
    content = message["content"]
    other = "a" if content[-2] != "a" else "b"
    return [*rows[:6], replace(rows[6], prompt=({**message, "content": f"{content[:-2]}{other}{content[-1]}"},)), *rows[7:]]


def edit(out: Path, key: str, value: Any) -> None:
    """Copy the reference and change a value in its manifest, as a run elsewhere would record it; the numbers stay the same."""
    shutil.copytree(out.parent / REFERENCE, out)
    RunFolder(out).timing_file.unlink()  # it is bound to the reference
    node = manifest = {key: value for key, value in json.loads(RunFolder(out).manifest_file.read_text()).items() if key != "sha256"}
    *groups, leaf = key.split(".")
    for group in groups:
        node = node[group]
    node[leaf] = value
    files.write_json(RunFolder(out).manifest_file, {**manifest, "sha256": files.sha256_json(manifest)})


def with_an_older_library(out: Path) -> None:
    """Train in another environment: this one with an older version of one library first on the path."""
    library = out.with_name("library")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(library), OLDER_LIBRARY]
    subprocess.run(install, check=True, capture_output=True)
    path = os.pathsep.join([str(library), str(ROOT)])
    subprocess.run(cut_down.command(out), env={**cut_down.environment(), "PYTHONPATH": path}, check=True, capture_output=True)


def with_variable(name: str, value: str) -> Callable[[Path], None]:
    """Return what trains in a process with one more environment variable."""

    def make(out: Path) -> None:
        environment = {**cut_down.environment(), "PYTHONPATH": str(ROOT), name: value}
        subprocess.run(cut_down.command(out), env=environment, check=True, capture_output=True)

    return make


def kill_and_resume(out: Path) -> None:
    """Kill a run in self-play and again in training, and resume it each time."""
    environment = {**cut_down.environment(), "PYTHONPATH": str(ROOT)}
    for moment in ('"iteration": 0, "step": 9', '"iteration": 1, "step": 3'):
        process = subprocess.Popen(cut_down.command(out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        metrics = RunFolder(out).metrics_file
        while not (metrics.exists() and moment in metrics.read_text()):
            if process.poll() is not None:
                raise RuntimeError(f"the run ended before {moment}")
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(cut_down.command(out), env=environment, check=True, capture_output=True)


# The experiments


@dataclass(frozen=True)
class Experiment:
    """One change, and what `compare` must report about it.

    Attributes:
        name: What is changed.
        key: What `compare` must name first; empty if nothing may differ.
        make: Makes the run in a folder.
        first_stage: The stage in which the runs must first differ; empty if they must not.
        weights_differ: Whether the last weights must differ; None if the experiment has no expectation.
        against: The reference run.
        edited: The manifest was edited; no run was made.
    """

    name: str
    key: str
    make: Callable[[Path], None]
    first_stage: str
    weights_differ: bool | None
    against: str = REFERENCE
    edited: bool = False

    @property
    def folder(self) -> str:
        """Name of the run's folder."""
        return self.name.replace(" ", "-").replace("/", "-")


def setting(name: str, key: str, value: str, first_stage: str, *, weights_differ: bool | None = True) -> Experiment:
    """Return the experiment that changes one setting."""
    return Experiment(name, f"settings.{key}", lambda out: train(out, f"{key}={value}"), first_stage, weights_differ)


EXPERIMENTS = (
    Experiment("seed", "seed", lambda out: train(out, seed=7), "training", True),
    Experiment("method", "method", lambda out: train(out, method="dpo"), "self-play", True),
    setting("learning rate +1 %", "methods.spac.learning_rate", "3.03e-5", "training"),
    setting("learning rate × 100", "methods.spac.learning_rate", "3.0e-3", "training"),
    setting("β", "methods.spac.beta", "1.1", "training"),
    setting("λ", "methods.spac.preference_weight", "3.3", "training"),
    setting("the critic's baseline", "methods.spac.critic_baseline", "chosen", "training"),
    setting("number of epochs", "training.epochs_per_iteration", "2", "training"),
    setting("global batch", "training.global_batch_size", "16", "training"),
    setting("optimizer", "training.optimizer", "adamw", "training"),
    setting("epochs of the supervised start", "supervised_start.epochs", "2", "training"),
    Experiment("order of two rows", "inputs.preferences_sha256", lambda out: train(out, rows=swap_two_rows), "data", True),
    Experiment("one flipped label", "inputs.preferences_sha256", lambda out: train(out, rows=flip_a_label), "data", True),
    Experiment(
        "one character in a prompt", "inputs.preferences_sha256", lambda out: train(out, rows=change_a_letter), "data", True
    ),
    Experiment(
        "chat template instead of none, same text",
        "settings.data.prompt_template",
        lambda out: train(out, "data.prompt_template=chat", template=TEMPLATES[CHAT]),
        "",
        False,
    ),
    Experiment(
        "one character in the chat template",
        "inputs.chat_template_sha256",
        lambda out: train(out, "data.prompt_template=chat", template=TEMPLATES["other"]),
        "data",
        True,
        against=CHAT,
    ),
    Experiment(
        "date in the chat template",
        "settings.data.chat_template_date",
        lambda out: train(out, "data.prompt_template=chat", "data.chat_template_date=2024-07-27", template=TEMPLATES[DATED]),
        "data",
        True,
        against=DATED,
    ),
    Experiment("dropout of the model", "inputs.dropout_set_to_zero", lambda out: train(out, dropout=0.1), "", False),
    setting("generation temperature", "selfplay.temperature", "0.9", "self-play"),
    setting("prompts per sampling seed", "selfplay.prompts_per_seed", "16", "scores"),
    Experiment(
        "sampling backend",
        "settings.selfplay.backend",
        lambda out: edit(out, "settings.selfplay.backend", "vllm"),
        "",
        None,
        edited=True,
    ),
    setting("training batch split", "training.micro_batch_tokens", "100", "reference"),
    setting("dtype", "policy.dtype", "bfloat16", "training"),
    setting("attention implementation", "policy.attn_implementation", "eager", "training"),
    setting("threads", "training.threads", "2", "", weights_differ=False),
    setting("evaluation batch", "evaluation.batch_size", "3", "", weights_differ=False),
    setting("number of questions", "evaluation.limit", "3", "scores", weights_differ=False),
    setting("checkpoint interval", "training.save_steps", "3", "", weights_differ=False),
    Experiment("version of a library", "environment.libraries.accelerate", with_an_older_library, "", False),
    Experiment("processor", "environment.cpu", lambda out: edit(out, "environment.cpu", "another"), "", None, edited=True),
    Experiment(
        "torch's vector instructions (ATEN_CPU_CAPABILITY=default)",
        "environment.kernels.cpu_capability",
        with_variable("ATEN_CPU_CAPABILITY", "default"),
        "training",
        True,
    ),
    Experiment(
        "MKL's vector instructions (MKL_CBWR=COMPATIBLE)",
        "environment.variables.MKL_CBWR",
        with_variable("MKL_CBWR", "COMPATIBLE"),
        "training",
        True,
    ),
    Experiment("killed twice and resumed", "", kill_and_resume, "", False),
    Experiment("different run folder", "", train, "", False),
)


def make_references(work: Path) -> None:
    """Make the reference, runs of other seeds to measure noise, and references with a chat template."""
    for name, seed in ((REFERENCE, 0), *((f"reference/seed-{seed}", seed) for seed in SEEDS)):
        if not RunFolder(work / name).complete:
            train(work / name, seed=seed)
    for name, *more in ((CHAT,), (DATED, "data.chat_template_date=2024-07-26")):
        if not RunFolder(work / name).complete:
            train(work / name, "data.prompt_template=chat", *more, template=TEMPLATES[name])


def carry_out(work: Path, experiment: Experiment) -> dict[str, Any]:
    """Make the run unless it is complete, compare it with its reference, and return the comparison as JSON."""
    from spac_repro.trust.comparison import compare

    out = work / experiment.folder
    if not RunFolder(out).complete:
        experiment.make(out)
    reference = work / experiment.against
    # The runs of other seeds beside the reference measure noise. They say nothing about a reference with other settings.
    comparison = compare(reference, out, [work / REFERENCE] if experiment.against == REFERENCE else [])
    hashes = [RunFolder.open(folder).results.weights_sha256 for folder in (reference, out)]
    return {"weights_differ": hashes[0] != hashes[1], **comparison.as_json()}


def main(work: Path, only: Sequence[str], as_json: bool) -> int:
    """Carry out the experiments and print what was found; return 1 if one failed."""
    make_references(work)
    comparisons: dict[str, Any] = {}
    for experiment in EXPERIMENTS:
        if only and experiment.name not in only:
            continue
        print(experiment.name, file=sys.stderr)
        try:
            comparisons[experiment.name] = carry_out(work, experiment)
        except Exception:
            comparisons[experiment.name] = {"error": traceback.format_exc()}
    if as_json:
        print(json.dumps(comparisons))
    else:
        print("\n".join(table(comparisons)))
    return 1 if any("error" in each for each in comparisons.values()) else 0


# The table


def table(comparisons: dict[str, Any]) -> list[str]:
    """Return the lines of the table in docs/reproducibility.md."""
    columns = ("changed", "named first", "impact", "first differ at", "last weights", "scores")
    lines = [f"| {' | '.join(columns)} |", "| --- | --- | --- | --- | --- | --- |"]
    for experiment in EXPERIMENTS:
        if comparison := comparisons.get(experiment.name):
            failed = "error" in comparison
            cells = [experiment.name, *(["failed", "", "", "", ""] if failed else row(experiment, comparison))]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def row(experiment: Experiment, comparison: dict[str, Any]) -> list[str]:
    """Return the cells that follow the experiment's name."""
    first = comparison["differences"][0] if comparison["differences"] else None
    mismatch = comparison["first_score_difference"] or comparison["first_difference"]
    where = "nowhere"
    if mismatch:
        iteration = "" if mismatch["iteration"] is None else f"iteration {mismatch['iteration']}, "
        where = f"{iteration}{mismatch['stage']}{', ' if mismatch['place'] else ''}{mismatch['place']}: {mismatch['what']}"
    moved = [score for score in comparison["scores"] if score["difference"] != 0]
    beyond = sum(bool(score["beyond_noise"]) for score in moved)
    others = sum(score["items"][0] != score["items"][1] for score in moved)
    known = any(score["beyond_noise"] is not None for score in moved)
    limit = f"{beyond} beyond noise" if known else "noise not known"
    noise = f"{len(moved)} of {len(comparison['scores'])} differ, {limit}" if moved else "equal"
    if others:
        noise = f"{len(moved)} of {len(comparison['scores'])} differ, on other questions"
    how = " (edited manifest: not run)" if experiment.edited else ""
    weights = "not run" if experiment.edited else "differ" if comparison["weights_differ"] else "equal"
    named = f"`{first['key']}`" if first else "nothing differs"
    return [named + how, first["impact"] if first else "", where, weights, "not run" if experiment.edited else noise]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.exit(main(options.out, options.only, options.json))
