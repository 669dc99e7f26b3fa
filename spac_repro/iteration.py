"""One self-play iteration: from the policy π_{t−1} to π_t.

self-play responses y′ ~ π_{t−1} for every prompt  →  reference log-probabilities, once  →  audit  →  optimizer steps on the loss
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from spac_repro import engines, methods
from spac_repro.data import dataset, memory_map
from spac_repro.data.dataset import PreferenceDataset
from spac_repro.evaluation import audit
from spac_repro.methods import Method, ReferenceMethodSettings
from spac_repro.model import adapters, precision
from spac_repro.model.logprobs import liger_serves
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy, supports_packing
from spac_repro.model.policy import load as load_policy
from spac_repro.model.reference import reference_logprobs
from spac_repro.optim import checkpoints, distributed
from spac_repro.optim.engine import EngineFactory
from spac_repro.optim.loop import CheckpointPolicy, Objective, Schedule, create_optimizer, training_loop
from spac_repro.optim.metrics_writer import MetricsWriter
from spac_repro.recipe import Run
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes
from spac_repro.runs.iteration import IterationFolder
from spac_repro.sampling import selfplay, vllm
from spac_repro.seeds import derive_seed
from spac_repro.spans import span


def run_iteration(context: RunContext, t: int, metrics: MetricsWriter) -> None:
    """Leave iterate t in the run folder, unless it is there. Iterate t − 1 must be there.

    Args:
        context: the run.
        t: the iteration, from 1.
        metrics: gets a line for every optimizer step.

    Raises:
        NonFiniteError: the loss or the gradient norm is not finite.
        UserError: a file of this or of an earlier iteration is damaged.
    """
    folder = context.folder.iteration(t)
    if distributed.exists_on_main_process(folder.policy):
        distributed.on_main_process(lambda: remove_intermediate_files(folder))
        audit.measure(context, t)
        return
    model = context.load_trainable(t - 1).to(context.device)  # type: ignore[arg-type]  # the stubs know no torch.device
    policy = policy_for(context, model)
    if distributed.exists_on_main_process(folder.dataset_file):
        distributed.on_main_process(lambda: selfplay.delete_batches(folder.selfplay_batches_folder))
    else:
        _write_dataset(context, t, policy)
    audit.measure(context, t)
    with context.timed(t, "training"):
        data = _read_dataset(context, t, _reference_sha256(context, t))
        engine = training_loop(
            _engine_factory(context, policy),
            partial(make_objective, context.run, t, data=data),
            _schedule(context, t, data, model),
            iteration=t,
            checkpointing=_checkpointing(context, t),
            metrics=metrics,
            warn=context.progress.message,
            advance=context.progress.update,
        )
        with span("gather"):
            weights = engine.weights()
        engine.close()
        distributed.on_main_process(lambda: _save(context, t, model, weights))
        distributed.on_main_process(lambda: remove_intermediate_files(folder))


def remove_intermediate_files(folder: IterationFolder) -> None:
    """Remove the checkpoints and self-play batches of a finished iteration; a killed process may have left them."""
    shutil.rmtree(folder.checkpoints, ignore_errors=True)
    selfplay.delete_batches(folder.selfplay_batches_folder)


# Self-play responses and reference log-probabilities


def _write_dataset(context: RunContext, t: int, policy: Policy) -> None:
    """Write the preference pairs with the self-play responses and reference log-probabilities that the method uses."""
    method, folder, tokenizer = methods.get(context.run.method), context.folder.iteration(t), context.renderer.tokenizer
    responses = _self_play(context, t, policy.model) if method.uses_self_play else None
    data = PreferenceDataset.from_tokenized(context.examples, responses)
    if method.has_reference:
        with context.timed(t, "reference log-probabilities"):
            data = _add_reference_logprobs(context, t, policy, data)
    texts = {
        "prompt": map(tokenizer.decode, data.prompts),
        **{name: map(context.renderer.decode, tokens) for name, tokens in data.responses.items()},
    }

    def write() -> None:
        entered = file_hashes.before_rename(context.folder, folder.dataset_file)
        dataset.write(folder.dataset_file, data, texts, before_rename=entered)
        selfplay.delete_batches(folder.selfplay_batches_folder)

    distributed.on_main_process(write)


def _self_play(context: RunContext, t: int, model: PreTrainedModel) -> Sequence[list[int]]:
    """Sample the self-play responses y′ ~ π_{t−1}(·|x), one per prompt, as tokens."""
    batches = context.folder.iteration(t).selfplay_batches_folder
    resumed = distributed.exists_on_main_process(batches)  # then some responses cost no time, and no rate can be reported
    start_time = time.perf_counter()
    with context.timed(t, "self-play") as timing, _sampler(context, t - 1) as sample:
        responses = selfplay.sample_responses(
            model,
            context.examples.prompt,
            context.recipe.selfplay,
            max_response_tokens=context.recipe.data.max_response_tokens,
            pad_token_id=context.renderer.pad_token_id,
            stop_token_ids=context.renderer.stop_token_ids,
            seed=derive_seed(context.run.seed, "self-play", t),
            folder=batches,
            computed_from=context.computed_from(t),
            sample=sample,
            advance=context.progress.update,
        )
        timing["tokens"] = sum(memory_map.lengths(responses))
    if not resumed:
        rate = timing["tokens"] / (time.perf_counter() - start_time)
        context.progress.message(f"{len(responses)} responses of {timing['tokens']} tokens, {rate:.0f} tokens/s")
    return responses


def _sampler(context: RunContext, t: int) -> AbstractContextManager[vllm.Sampler | None]:
    """The vLLM sampler of iterate t, if the recipe asks for vLLM; None for the package's own decoder."""
    settings, data = context.recipe.selfplay, context.recipe.data
    if settings.backend == "transformers":
        return nullcontext()
    return vllm.Sampler(
        context.folder.iteration(t).policy,
        dtype=context.recipe.policy.dtype,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_prompt_tokens=data.max_prompt_tokens,
        max_response_tokens=data.max_response_tokens,
        stop_token_ids=context.renderer.stop_token_ids,
    )


def _add_reference_logprobs(context: RunContext, t: int, policy: Policy, data: PreferenceDataset) -> PreferenceDataset:
    """Add log π_ref of every response; π_ref is π_{t−1} or the start policy.

    Where it is the start policy and there are no self-play responses, iteration 1 has computed these values.
    """
    method, weights = methods.get(context.run.method), _reference_sha256(context, t)
    without_adapter: AbstractContextManager[None] = nullcontext()
    if t > 1 and _reference_iteration(context, t) == 0:
        if not method.uses_self_play:
            first = _read_dataset(context, 1, weights)
            return replace(data, reference_logprobs=first.reference_logprobs, reference_sha256=weights)
        if adapters.of(policy.model):  # without it, the model in memory is the start policy
            without_adapter = adapters.as_base(policy.model)
        else:
            policy = policy_for(context, context.load_policy(0))
    policy.to(context.device).eval()
    with context.autocast(), without_adapter:
        reference = reference_logprobs(
            policy,
            data,
            method.responses,
            batch_tokens=context.recipe.training.micro_batch_tokens,
            advance=context.progress.update,
        )
    return replace(data, reference_logprobs=reference, reference_sha256=weights)


def policy_for(context: RunContext, model: PreTrainedModel) -> Policy:
    """The policy that is trained, or its reference: the same kernels for both."""
    shards_weights = engines.get(context.recipe.training.engine).shards_weights
    return Policy(model, fused=liger_serves(context.device, shards_weights=shards_weights))


def _reference_iteration(context: RunContext, t: int) -> int | None:
    """The iteration whose policy is the reference in iteration t; None if the method has no reference."""
    settings = context.run.method_settings
    if not isinstance(settings, ReferenceMethodSettings):
        return None
    return 0 if settings.reference_policy == "start" else t - 1


def _reference_sha256(context: RunContext, t: int) -> str | None:
    """The weight hash of the reference policy in iteration t; None if the method has no reference."""
    reference = _reference_iteration(context, t)
    return None if reference is None else context.folder.iteration(reference).weights_sha256


def _read_dataset(context: RunContext, t: int, reference_sha256: str | None) -> PreferenceDataset:
    """Read the dataset of iteration t; its reference log-probabilities must come from the weights with this hash."""
    folder = context.folder.iteration(t)
    remedy = "remove it and repeat the command"
    if folder.has_policy:  # called from a later iteration: the policies that were trained on this dataset go too
        remedy = f"remove {folder.path} and all iterations after it, and repeat"
    return dataset.read(folder.dataset_file, reference_sha256=reference_sha256, remedy=remedy)


# Optimizer steps


def _checkpointing(context: RunContext, t: int) -> CheckpointPolicy:
    training, folder = context.recipe.training, context.folder.iteration(t).checkpoints
    return CheckpointPolicy(folder, training.save_steps, training.save_total_limit, context.computed_from(t))


def _schedule(context: RunContext, t: int, data: PreferenceDataset, model: PreTrainedModel) -> Schedule:
    training = context.recipe.training
    # Under ZeRO-3 all processes take the same forward passes. Without packing these are as many as a micro-batch has responses, so
    # there a micro-batch is one example: each has the same number of responses.
    one_by_one = engines.get(training.engine).shards_weights and not supports_packing(model)
    return Schedule(
        lengths=data.num_tokens(methods.get(context.run.method).responses),
        batch_size=training.global_batch_size,
        micro_batch_tokens=1 if one_by_one else training.micro_batch_tokens,
        epochs=training.epochs_per_iteration,
        learning_rate=peak_learning_rate(context.run, t),
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_ratio=training.warmup_ratio,
        seed=(context.run.seed, "order", t),
    )


def _engine_factory(context: RunContext, policy: Policy) -> EngineFactory:
    """The factory of the recipe's training engine, with the policy on its device and in training mode."""
    training = context.recipe.training
    policy.to(context.device)
    if training.gradient_checkpointing:
        options = {"use_reentrant": False, "context_fn": precision.checkpoint_contexts}
        policy.model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    policy.train()
    optimizer = create_optimizer(training.optimizer, policy, weight_decay=training.weight_decay)
    spec = engines.get(training.engine)
    return EngineFactory(spec, policy, optimizer, training.max_grad_norm, bfloat16=training.compute_dtype == "bfloat16")


def _save(context: RunContext, t: int, model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Write iterate t with the weights that the engine returned."""
    if engines.get(context.recipe.training.engine).shards_optimizer:  # the engine has taken the trained model apart
        model, _ = load_policy(context.folder.iteration(t - 1).policy, context.recipe.policy)
    checkpoints.load_model(Policy(model), weights)
    context.save_policy(t, model)


# The loss


def peak_learning_rate(run: Run, iteration: int) -> float:
    """Return the peak learning rate of an iteration; the last iteration may have its own."""
    last = run.method_settings.last_iteration_learning_rate if iteration == run.recipe.training.iterations else None
    return last or run.method_settings.learning_rate


def beta(settings: ReferenceMethodSettings, iteration: int, iterations: int) -> float:
    """Return β of an iteration; the last of the `iterations` may have its own."""
    return settings.last_iteration_beta if iteration == iterations and settings.last_iteration_beta else settings.beta


def make_objective(run: Run, iteration: int, policy: Any, *, data: PreferenceDataset) -> Objective:
    """Make the method's loss function over rows of the data.

    Args:
        run: method and hyperparameters.
        iteration: the iteration, from 1.
        policy: a `Policy`, or an engine's wrapper around one.
        data: responses and their reference log-probabilities.

    Returns:
        An objective over row indices. It also returns what `_details` lists.
    """
    method = methods.get(run.method)
    names, loss = method.responses, method.load_loss()
    arguments = _hyperparameters(run, method, iteration) | _data_statistics(method, data)
    lengths = _lengths(method, data)

    def objective(rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        packed = pack(data.examples(names, rows), device=next(policy.parameters()).device)
        logprobs = dict(zip(names, policy(packed).view(len(rows), len(names)).unbind(1), strict=True))
        indices = list(rows)
        if method.has_reference:
            values = {name: value - data.reference_logprobs[name][indices].to(value.device) for name, value in logprobs.items()}
            details = _details(values, arguments["beta"])
        else:
            values, details = logprobs, {}
        if method.per_token:
            values = {name: value / lengths[name][indices].to(value.device) for name, value in values.items()}
        return loss(*values.values(), **arguments), details

    return objective


def _hyperparameters(run: Run, method: Method, iteration: int) -> dict[str, Any]:
    """The loss's hyperparameters from the recipe, with β of the iteration."""
    settings = run.method_settings
    values = {name: getattr(settings, name) for name in method.hyperparameters}
    if isinstance(settings, ReferenceMethodSettings):
        values["beta"] = beta(settings, iteration, run.recipe.training.iterations)
    return values


def _lengths(method: Method, data: PreferenceDataset) -> dict[str, Tensor]:
    """The number of tokens of each response, [rows] by name, for a loss that takes means over tokens; empty for one of sums."""
    names = method.responses if method.per_token else ()
    return {name: torch.tensor(memory_map.lengths(data.responses[name])) for name in names}


def _data_statistics(method: Method, data: PreferenceDataset) -> dict[str, float]:
    """The loss's arguments that come from the data."""
    if "mean_length" not in method.statistics:
        return {}
    return {"mean_length": sum(memory_map.lengths(data.responses["chosen"])) / len(data.prompts)}


def _details(rho: dict[str, Tensor], beta: float) -> dict[str, Tensor]:
    """Values to log, each [rows]: ρ of each response, preference margin and accuracy, critic gap (docs/glossary.md)."""
    details = {f"rho_{name}": value for name, value in rho.items()}
    if "rejected" in rho:
        margin = beta * (rho["chosen"] - rho["rejected"])
        details |= {"margin": margin, "accuracy": (margin > 0).float()}
    if "selfplay" in rho:
        data = [rho[name] for name in ("chosen", "rejected") if name in rho]
        details["critic_gap"] = beta * (rho["selfplay"] - sum(data) / len(data))
    return details
