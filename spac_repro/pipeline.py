"""A run from top to bottom: data → start policy → self-play iterations, with scores of every iterate → results.

Each stage leaves its result in the run folder, which appears there only when it is complete, and is skipped when it is there. So an
interrupted command resumes when it is repeated. Interruptions never change what is computed: every stage reads its input from disk,
and every random draw has its own seed.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro import engines, iteration, methods, start_policy
from spac_repro.data import tokenizers
from spac_repro.data.rendering import Renderer
from spac_repro.data.sources import Inputs
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.evaluation import contamination
from spac_repro.evaluation import evaluate_iterate as evaluation
from spac_repro.evaluation.leaderboard import scoring
from spac_repro.model import adapters, architectures, dropout, generation_config, policy, precision, quantized
from spac_repro.optim import distributed, gpu_host
from spac_repro.optim.metrics_writer import MetricsWriter
from spac_repro.progress import Progress
from spac_repro.recipe import Recipe, Run
from spac_repro.run_context import RunContext
from spac_repro.runs import environment, file_hashes, files, numerics, ownership, results
from spac_repro.runs import manifest as manifests
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import Manifest
from spac_repro.runs.results import IterateScores, Results
from spac_repro.sampling import vllm
from spac_repro.seeds import derive_seed

PolicyMaker = Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerBase]]  # a rehearsal has one of its own


def train(
    run: Run,
    path: Path,
    inputs: Inputs,
    *,
    allow_changed_environment: bool,
    until: int | None = None,
    start_from: Path | None = None,
    check_manifest: Callable[[Manifest], None] = lambda manifest: None,
    create_policy: PolicyMaker = policy.create_initial,
    progress: Progress,
) -> Results | None:
    """Carry out a run, except for the stages whose results are in its folder.

    Args:
        run: recipe, method and seed.
        path: the run folder; it is created.
        inputs: the preference pairs and the leaderboard's questions.
        allow_changed_environment: resume a run that was begun in another environment; it then claims no equal bits.
        until: stop after this iteration.
        start_from: a run of the same recipe and seed whose start policy is reused.
        check_manifest: gets the manifest before anything is written, and may raise.
        create_policy: makes the policy before any training.
        progress: where to report.

    Returns:
        The results, or None where `until` stopped the run before its last iteration.

    Raises:
        UserError: the folder belongs to another run or is in use; a file is damaged; the loss is not finite.
        UnfitEnvironmentError: the disk is full, or an input is not available on this machine.
    """
    prepare_process(run, progress)
    folder = RunFolder(path)
    with files.explain_disk_errors(path), precision.of(run.recipe), ExitStack() as stack:
        _take_folder(folder, stack)
        model, tokenizer = _create_policy(run, create_policy, progress)
        renderer = Renderer(tokenizer, run.recipe.data, generation_config.stop_token_ids(model))
        context = RunContext(run, folder, inputs, renderer, renderer.tokenize(inputs.preferences), progress)
        distributed.on_main_process(lambda: _claim(context, model, start_from, check_manifest, allow_changed_environment))
        if distributed.exists_on_main_process(folder.results_file):
            progress.message(f"{path} is complete; nothing to do")
            return folder.results
        for message in context.examples.summary.messages():
            progress.message(message)
        distributed.on_main_process(lambda: contamination.measure(context))
        last = run.recipe.training.iterations
        with MetricsWriter(folder) as metrics:
            if start_from is not None:
                distributed.on_main_process(lambda: start_policy.reuse(context, start_from))
            distributed.on_main_process(lambda: start_policy.prepare(context, model, metrics))
            model = None  # type: ignore[assignment]  # every later stage reads the policy that it needs
            evaluation.score(context, 0)
            for t in range(1, last + 1 if until is None else min(until, last) + 1):
                iteration.run_iteration(context, t, metrics)
                evaluation.score(context, t)
        if until is not None and until < last:
            return None
        distributed.on_main_process(lambda: file_hashes.write_json(folder, folder.results_file, _results(context).as_json()))
        return folder.results


def prepare_process(run: Run, progress: Progress) -> None:
    """Set deterministic kernels and threads, connect the processes, and check that the method and the sampler are available."""
    training = run.recipe.training
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it cuBLAS may vary
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    gpu_host.set_cache_folders()
    gpu_host.check(run.recipe)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed warns that it guessed
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # takes time, and nothing here reads uninitialised memory
    torch.backends.cudnn.benchmark = False
    if training.threads and not torch.cuda.is_available():
        torch.set_num_threads(training.threads)
    distributed.init_process_group(training.processes, force=engines.get(training.engine).needs_process_group)
    if distributed.world_size() > 1:
        progress.message(f"{distributed.world_size()} processes are connected; engine {training.engine}")
        _check_same_kernels()
    # Fail now and not after hours of work.
    if run.recipe.evaluation.suite.has_tasks:
        scoring.select_tasks(run.recipe.evaluation.suite, run.recipe.evaluation.tasks)
    methods.get(run.method).load_loss()
    if run.recipe.selfplay.backend == "vllm":
        vllm.versions()
    if run.recipe.policy.adapter and run.recipe.policy.adapter.base_bits:
        quantized.check()


def _take_folder(folder: RunFolder, stack: ExitStack) -> None:
    """Own the run folder until the stack closes: the main process holds the lock, and the others watch it."""
    distributed.on_main_process(lambda: stack.enter_context(folder.exclusive_access()))
    if not distributed.is_main_process():
        ownership.begin(folder.path)
        stack.callback(ownership.end, folder.path)
    stack.enter_context(ownership.explain_loss(folder.path))


def _check_same_kernels() -> None:
    """Check that all processes compute with the same processor, kernels, libraries and settings: the manifest describes one.

    Raises:
        UnfitEnvironmentError: a process differs from the main process.
    """
    own = {**numerics.describe(), "libraries": environment.libraries(), "threads": torch.get_num_threads()}
    found = distributed.all_gather({distributed.rank(): own})
    for rank, its in found.items():
        for key, main, other in manifests.leaf_differences(found[0], its):
            raise UnfitEnvironmentError(
                f"process {rank} computes otherwise than process 0: {key} is {other!r} there and {main!r} here; "
                "start all processes on nodes of one kind, with the same variables"
            )


def _create_policy(run: Run, create: PolicyMaker, progress: Progress) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Create the policy before any training. That its tokenizer fits the recipe is checked before its weights are read."""
    settings, seed = run.recipe.policy, derive_seed(run.seed, "weights")
    created = create(settings, seed=seed, check_tokenizer=lambda tokenizer: Renderer(tokenizer, run.recipe.data))
    _check_model(run, created[0], progress)
    return created


def _check_model(run: Run, model: PreTrainedModel, progress: Progress) -> None:
    """Refuse a model that draws random numbers in training, or lacks a target of the adapter; say if rows cannot be packed."""
    dropout.check_deterministic(model)
    if run.recipe.policy.adapter:
        adapters.check_targets(model, run.recipe.policy.adapter.targets)
    data = run.recipe.data
    architectures.check_trainable(model, max_tokens=data.max_prompt_tokens + data.max_response_tokens)
    if policy.supports_packing(model):
        return
    progress.message(
        f"{model.config.model_type}: every response is computed with its own copy of the prompt, which is slower; responses share "
        f"a prompt only with {', '.join(architectures.PACKING_ARCHITECTURES)} and attention sdpa"
    )


def _claim(
    context: RunContext,
    model: PreTrainedModel,
    start_from: Path | None,
    check_manifest: Callable[[Manifest], None],
    allow_changed_environment: bool,
) -> None:
    identity = _manifest(context, model)
    check_manifest(identity)
    if start_from is not None and not context.folder.iteration(0).has_policy:
        start_policy.check_reusable(start_from, identity)  # before anything is written
    context.folder.create_or_resume(identity, allow_changed_environment=allow_changed_environment)
    file_hashes.check(context.folder, resuming=True)


def _manifest(context: RunContext, model: PreTrainedModel) -> Manifest:
    run = context.run
    return Manifest(
        schema=manifests.SCHEMA,
        recipe=run.recipe.name,
        method=run.method,
        seed=run.seed,
        settings=run.settings(),
        settings_sha256=run.settings_sha256,
        provenance={key: source for key, source in run.provenance.items() if not run.is_path(key)},
        inputs={
            **context.inputs.identity(),
            "policy_sha256": policy.weights_sha256(model) if run.recipe.policy.source != "random" else None,
            **tokenizers.identity(context.renderer.tokenizer),
            **_further_stop_tokens(context.renderer),
            **({"dropout_set_to_zero": zeroed} if (zeroed := dropout.disabled(model)) else {}),
        },
        data={
            **context.inputs.reading(),
            **({"rendering": rendering} if (rendering := context.examples.summary.recorded()) else {}),
        },
        environment={**environment.describe(), **_plugins(run), **_sampler(run), **_adapter(run)},
        written_files={},
        equal_bits_claimed=claims_equal_bits(run.recipe, context.device.type),
    )


def _further_stop_tokens(renderer: Renderer) -> dict[str, list[int]]:
    """The stop tokens, unless the tokenizer's end-of-sequence is the only one: no other input records the model's own."""
    stops = list(renderer.stop_token_ids)
    return {} if stops == [tokenizers.eos_token_id(renderer.tokenizer)] else {"stop_token_ids": stops}


def claims_equal_bits(recipe: Recipe, device_type: str) -> bool:
    """Whether an equal run gives equal bits. Not known for vLLM, nor for sums over more than two GPUs (docs/distributed.md)."""
    sums_in_fixed_order = device_type == "cpu" or recipe.training.processes <= 2
    return recipe.selfplay.backend == "transformers" and sums_in_fixed_order


def _plugins(run: Run) -> dict[str, Any]:
    """The distribution, version and code hash of a method or an engine that a plugin registered."""
    engine = run.recipe.training.engine
    sources = {
        "method": (methods.origin(run.method), methods.get(run.method).loss),
        "engine": (engines.origin(engine), engines.get(engine).implementation),
    }
    plugins = {
        kind: {"distribution": source.distribution, "version": source.version, "sha256": environment.module_sha256(module)}
        for kind, (source, module) in sources.items()
        if source is not None
    }
    return {"plugins": plugins} if plugins else {}


def _sampler(run: Run) -> dict[str, Any]:
    """The versions in the environment of another sampler than the package's own."""
    return {"vllm": vllm.versions()} if run.recipe.selfplay.backend == "vllm" else {}


def _adapter(run: Run) -> dict[str, Any]:
    """The versions of the libraries that compute an adapter and a base of four bits; other runs do not use them."""
    adapter = run.recipe.policy.adapter
    names = [] if adapter is None else ["peft", *(["bitsandbytes"] if adapter.base_bits else [])]
    return {"adapter": {name: environment.installed_version(name) for name in names}} if names else {}


def _results(context: RunContext) -> Results:
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
        harness=scoring.harness_version(),
        protocol=run.recipe.evaluation.protocol,
        contamination=folder.contamination(),
        iterations=tuple(iterates),
    )
