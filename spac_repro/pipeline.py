"""A run from top to bottom: data → start → self-play iterations, every iterate scored → results.

Each stage leaves its result in the run folder, appears there whole, and is skipped when it is there. So repeating an interrupted
command goes on where it stopped, and what is computed never depends on how often that happened: every stage reads its input from
disk, and every draw has a seed of its own.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from spac_repro import engines, iteration, methods, start
from spac_repro.context import Context, there
from spac_repro.data import tokenizers
from spac_repro.data.inputs import Inputs
from spac_repro.data.rendering import Renderer
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.evaluation import contamination
from spac_repro.evaluation import iterate as evaluation
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.model import policy, precision
from spac_repro.optim import processes
from spac_repro.optim.metrics import Metrics
from spac_repro.progress import Progress
from spac_repro.recipe import Run
from spac_repro.runs import environment, files, results
from spac_repro.runs import manifest as manifests
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import Manifest
from spac_repro.runs.results import IterateScores, Results
from spac_repro.sampling import vllm
from spac_repro.seeds import derive


def train(
    run: Run,
    path: Path,
    inputs: Inputs,
    *,
    allow_changed_environment: bool,
    until: int | None = None,
    start_from: Path | None = None,
    inspect: Callable[[Manifest], None] = lambda manifest: None,
    progress: Progress,
) -> Results | None:
    """Carry out a run, or what of it is not there yet, and return its results.

    With `until`, stop after that iteration; the results are None unless the run is complete. With `start_from`, iteration 0 is not
    computed but shared with another run of the same recipe and seed. `inspect` sees the manifest before anything is written.

    Raises:
        UserError: the folder is another run's or in use; a damaged file; a loss that is not finite.
        UnfitEnvironmentError: the disk is full, or an input cannot be had here.
    """
    _prepare_process(run, progress)
    folder = RunFolder(path)
    half = "bfloat16" in (run.recipe.training.precision, run.recipe.policy.dtype)
    with files.explain_disk_errors(path), precision.widened() if half else nullcontext(), ExitStack() as held:
        processes.on_main(lambda: held.enter_context(folder.exclusive_access()))
        model, tokenizer = policy.create(run.recipe.policy, seed=derive(run.seed, "weights"))
        _check_model(run, model, progress)
        renderer = Renderer(tokenizer, run.recipe.data)
        context = Context(run, folder, inputs, renderer, renderer.examples(inputs.rows), progress)
        processes.on_main(lambda: _claim(context, model, start_from, inspect, allow_changed_environment))
        if there(folder.results_file):
            progress.say(f"{path} is complete; nothing to do")
            return folder.results

        processes.on_main(lambda: contamination.measure(context))
        last = run.recipe.training.iterations
        with Metrics(folder) as log:
            if start_from is not None:
                processes.on_main(lambda: start.share(context, start_from))
            processes.on_main(lambda: start.make(context, model, log))
            evaluation.score(context, 0)
            for t in range(1, last + 1 if until is None else min(until, last) + 1):
                iteration.improve(context, t, log)
                evaluation.score(context, t)
        if until is not None and until < last:
            return None
        processes.on_main(lambda: files.write_json(folder.results_file, _results(context).as_json()))
        return folder.results


def _prepare_process(run: Run, progress: Progress) -> None:
    """Deterministic kernels, the recipe's threads, and the other processes."""
    training = run.recipe.training
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it cuBLAS may vary
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns where it has to find that out by itself
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and nothing here reads such memory
    torch.backends.cudnn.benchmark = False
    if training.threads and not torch.cuda.is_available():
        torch.set_num_threads(training.threads)
    processes.join(training.processes, group=engines.get(training.engine).needs_process_group)
    if processes.world() > 1:
        progress.say(f"{processes.world()} processes have found each other; engine {training.engine}")
    # What cannot be had is said before hours of work.
    methods.get(run.method).load_loss()
    if run.recipe.selfplay.generator == "vllm":
        vllm.check()


def _check_model(run: Run, model: PreTrainedModel, progress: Progress) -> None:
    """Say what a model that cannot be packed costs, and refuse an engine that cannot do with it."""
    if policy.packs(model):
        return
    kind, engine = model.config.model_type, engines.get(run.recipe.training.engine)
    if engine.shards_weights:
        raise UnfitEnvironmentError(
            f"{kind} is computed response by response here, and {engine.name} needs as many passes on every process; "
            "--set training.engine=deepspeed-zero2"
        )
    progress.say(
        f"{kind}: a prompt is computed again for each of its responses; once for all of them where that is known to be exact: "
        f"{', '.join(policy.PACKED)} with attention sdpa"
    )


def _claim(
    context: Context,
    model: PreTrainedModel,
    start_from: Path | None,
    inspect: Callable[[Manifest], None],
    allow_changed_environment: bool,
) -> None:
    identity = _manifest(context, model)
    inspect(identity)
    if start_from is not None and not context.folder.iteration(0).has_policy:
        start.check(start_from, identity)  # before anything is written
    context.folder.create_or_resume(identity, allow_changed_environment=allow_changed_environment)


def _manifest(context: Context, model: PreTrainedModel) -> Manifest:
    run = context.run
    return Manifest(
        schema=manifests.SCHEMA,
        recipe=run.recipe.name,
        method=run.method,
        seed=run.seed,
        settings=run.settings(),
        settings_sha256=run.settings_sha256,
        provenance=dict(run.provenance),
        inputs={
            **context.inputs.identity(),
            "policy_sha256": policy.weights_sha256(model) if run.recipe.policy.source != "random" else None,
            **tokenizers.identity(context.renderer.tokenizer),
        },
        environment={**environment.describe(), **_plugins(run)},
        equal_bits_claimed=run.recipe.selfplay.generator == "transformers",  # of vLLM it is not known
    )


def _plugins(run: Run) -> dict[str, Any]:
    """Which distribution the method and the engine are from, where that is not this one; its code bears on every bit."""
    engine = run.recipe.training.engine
    used = {
        "method": (methods.origin(run.method), methods.get(run.method).loss),
        "engine": (engines.origin(engine), engines.get(engine).implementation),
    }
    found = {
        kind: {"distribution": source.distribution, "version": source.version, "sha256": environment.module_sha256(place)}
        for kind, (source, place) in used.items()
        if source is not None
    }
    return {"plugins": found} if found else {}


def _results(context: Context) -> Results:
    run, folder = context.run, context.folder
    iterates = [
        IterateScores(iteration=t, weights_sha256=folder.iteration(t).weights_sha256, scores=folder.iteration(t).scores())
        for t in range(run.recipe.training.iterations + 1)
    ]
    return Results(
        schema=results.SCHEMA,
        recipe=run.recipe.name,
        method=run.method,
        seed=run.seed,
        complete=True,
        settings_sha256=run.settings_sha256,
        weights_sha256=iterates[-1].weights_sha256,
        harness=scoring.harness(),
        contamination=folder.contamination(),
        iterations=tuple(iterates),
    )
