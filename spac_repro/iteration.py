"""One self-play iteration, whole: from π_{t−1} to π_t.

y′ ~ π_{t−1} for every prompt  →  log π_ref of every response, once  →  optimiser steps on the method's loss
"""

import shutil
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from spac_repro import engines, methods
from spac_repro.context import Context, there
from spac_repro.data import mapped, triples
from spac_repro.data.triples import Triples
from spac_repro.methods import Method, Referenced
from spac_repro.model import policy, precision
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy
from spac_repro.model.reference import reference_logprobs
from spac_repro.optim import checkpoints, processes
from spac_repro.optim.engine import Build
from spac_repro.optim.loop import CheckpointPolicy, Objective, Schedule, optimise, optimizer_for
from spac_repro.optim.metrics import Metrics
from spac_repro.recipe import Run
from spac_repro.sampling import selfplay, vllm
from spac_repro.seeds import derive


def improve(context: Context, t: int, log: Metrics) -> None:
    """Leave iterate t in the run folder, unless it is there; iterate t − 1 is."""
    its, training = context.folder.iteration(t), context.recipe.training
    if there(its.policy):
        return
    model = context.load_policy(t - 1).to(context.device)  # type: ignore[arg-type]  # the stubs know no torch.device
    scorer = Policy(model)
    if not there(its.triples_file):
        _make_triples(context, t, scorer)
    with context.timed(t, "training"):
        data = _read_triples(context, t, _reference_sha256(context, t))
        build = _engine(context, scorer)
        engine = optimise(
            build,
            partial(objective, context.run, t, data=data),
            _schedule(context, t, data),
            iteration=t,
            keeping=CheckpointPolicy(its.checkpoints, training.checkpoint_every, training.checkpoints_kept),
            metrics=log,
            warn=context.progress.say,
            advance=context.progress.advance,
        )
        weights = engine.weights()
        processes.on_main(lambda: _save(context, t, model, weights))
        processes.on_main(lambda: shutil.rmtree(its.checkpoints, ignore_errors=True))


# y′ and log π_ref


def _make_triples(context: Context, t: int, scorer: Policy) -> None:
    """Store the preferences with y′ ~ π_{t−1} and log π_ref, as far as the method uses them."""
    method, its, tokenizer = methods.get(context.run.method), context.folder.iteration(t), context.renderer.tokenizer
    responses = _self_play(context, t, scorer.model) if method.self_play else None
    data = triples.from_examples(context.examples, responses)
    if method.has_reference:
        with context.timed(t, "reference log-probabilities"):
            data = _with_reference(context, t, scorer, data)
    texts = {
        "prompt": map(tokenizer.decode, data.prompts),
        **{name: map(context.renderer.text, tokens) for name, tokens in data.responses.items()},
    }

    def keep() -> None:
        triples.write(its.triples_file, data, texts)
        selfplay.forget(its.selfplay_batches_folder)

    processes.on_main(keep)


def _self_play(context: Context, t: int, model: PreTrainedModel) -> Sequence[list[int]]:
    """y′ ~ π_{t−1}(·|x), one for every prompt, in tokens."""
    batches = context.folder.iteration(t).selfplay_batches_folder
    resumed = there(batches)  # responses that an earlier attempt drew cost nothing now
    begun = time.perf_counter()
    with context.timed(t, "self-play") as timing, _sampler(context, t - 1) as sample:
        responses = selfplay.respond(
            model,
            context.examples.prompt,
            context.recipe.selfplay,
            longest_response=context.recipe.data.longest_response,
            pad=context.renderer.pad,
            stop=context.renderer.stop,
            seed=derive(context.run.seed, "self-play", t),
            folder=batches,
            sample=sample,
            advance=context.progress.advance,
        )
        timing["tokens"] = sum(mapped.lengths(responses))
    if not resumed:
        rate = timing["tokens"] / (time.perf_counter() - begun)
        context.progress.say(f"{len(responses)} responses of {timing['tokens']} tokens, {rate:.0f} tokens/s")
    return responses


def _sampler(context: Context, t: int) -> AbstractContextManager[vllm.Sampler | None]:
    """What draws iterate t's responses; None: the package's own sampler."""
    settings, data = context.recipe.selfplay, context.recipe.data
    if settings.generator == "transformers":
        return nullcontext()
    return vllm.Sampler(
        context.folder.iteration(t).policy,
        dtype=context.recipe.policy.dtype,
        temperature=settings.temperature,
        top_p=settings.top_p,
        longest_prompt=data.longest_prompt,
        longest=data.longest_response,
        stop=context.renderer.stop,
    )


def _with_reference(context: Context, t: int, scorer: Policy, data: Triples) -> Triples:
    """log π_ref where π_ref is π_{t−1}, or the start: then chosen and rejected have theirs from the first iteration."""
    method, weights = methods.get(context.run.method), _reference_sha256(context, t)
    if t > 1 and _reference_iterate(context, t) == 0:
        if not method.self_play:
            first = _read_triples(context, 1, weights)
            return replace(data, reference=first.reference, reference_sha256=weights)
        scorer = Policy(context.load_policy(0))
    scorer.to(context.device).eval()
    with context.autocast():
        reference = reference_logprobs(
            scorer,
            data,
            method.responses,
            tokens=context.recipe.training.micro_batch_tokens,
            advance=context.progress.advance,
        )
    return replace(data, reference=reference, reference_sha256=weights)


def _reference_iterate(context: Context, t: int) -> int | None:
    """Which iterate is iteration t's reference; None where the method has none."""
    settings = context.run.objective
    if not isinstance(settings, Referenced):
        return None
    return 0 if settings.reference == "start" else t - 1


def _reference_sha256(context: Context, t: int) -> str | None:
    """The weights of iteration t's reference, by their hash; None where the method has none."""
    iterate = _reference_iterate(context, t)
    return None if iterate is None else context.folder.iteration(iterate).weights_sha256


def _read_triples(context: Context, t: int, reference: str | None) -> Triples:
    """The triples of iteration t, whose reference log-probabilities must be of these weights."""
    its = context.folder.iteration(t)
    remedy = "remove it and repeat the command"
    if its.has_policy:  # a later iteration reads them: what was trained on them must be made again too
        remedy = f"remove {its.path} and all iterations after it, and repeat"
    return triples.read(its.triples_file, reference=reference, remedy=remedy)


# Optimiser steps


def _schedule(context: Context, t: int, data: Triples) -> Schedule:
    training = context.recipe.training
    return Schedule(
        sizes=data.sizes(methods.get(context.run.method).responses),
        batch_size=training.batch_size,
        micro_batch_tokens=training.micro_batch_tokens,
        epochs=training.epochs,
        learning_rate=learning_rate(context.run, t),
        shape=training.schedule,
        warmup=training.warmup,
        seed=(context.run.seed, "order", t),
    )


def _engine(context: Context, scorer: Policy) -> Build:
    """The recipe's engine on the policy, ready to be built."""
    training = context.recipe.training
    scorer.to(context.device)
    if training.gradient_checkpointing:
        how = {"use_reentrant": False, "context_fn": precision.contexts}
        scorer.model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
    scorer.train()
    optimizer = optimizer_for(training.optimizer, scorer, weight_decay=training.weight_decay)
    spec = engines.get(training.engine)
    return Build(spec, scorer, optimizer, training.max_grad_norm, bfloat16=training.precision == "bfloat16")


def _save(context: Context, t: int, model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Write iterate t with the weights that the engine says it has."""
    if engines.get(context.recipe.training.engine).shards_optimizer:  # the trained model is in the engine's pieces by now
        model, _ = policy.load(context.folder.iteration(t - 1).policy, context.recipe.policy)
    checkpoints.load_model(Policy(model), weights)
    context.save_policy(t, model)


# The loss


def learning_rate(run: Run, iteration: int) -> float:
    """The highest learning rate of an iteration."""
    last = run.objective.last_learning_rate if iteration == run.recipe.training.iterations else None
    return last or run.objective.learning_rate


def beta(settings: Referenced, iteration: int, iterations: int) -> float:
    """β of an iteration."""
    return settings.last_beta if iteration == iterations and settings.last_beta else settings.beta


def objective(run: Run, iteration: int, policy: Any, *, data: Triples) -> Objective:
    """The method's loss on some rows of the data. `policy` is a `Policy`, or what an engine made of it."""
    method = methods.get(run.method)
    names, loss = method.responses, method.load_loss()
    known = _keywords(run, method, iteration) | _statistics(method, data)

    def losses(rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        packed = pack(data.groups(names, rows), device=next(policy.parameters()).device)
        logprobs = dict(zip(names, policy(packed).view(len(rows), len(names)).unbind(1), strict=True))
        if not method.has_reference:
            return loss(*logprobs.values(), **known), {}
        rows = list(rows)
        rho = {name: value - data.reference[name][rows].to(value.device) for name, value in logprobs.items()}
        return loss(*rho.values(), **known), _details(rho, known["beta"])

    return losses


def _keywords(run: Run, method: Method, iteration: int) -> dict[str, Any]:
    """What the loss takes from the recipe; β is that of the iteration."""
    settings = run.objective
    found = {name: getattr(settings, name) for name in method.hyperparameters}
    if isinstance(settings, Referenced):
        found["beta"] = beta(settings, iteration, run.recipe.training.iterations)
    return found


def _statistics(method: Method, data: Triples) -> dict[str, float]:
    """What the loss takes from the data."""
    if "mean_length" not in method.statistics:
        return {}
    return {"mean_length": sum(mapped.lengths(data.responses["chosen"])) / len(data.prompts)}


def _details(rho: dict[str, Tensor], strength: float) -> dict[str, Tensor]:
    """What the curves are drawn from, each [rows]: ρ of each response; preference margin and accuracy; the critic's gap."""
    details = {f"rho_{name}": value for name, value in rho.items()}
    if "rejected" in rho:
        margin = strength * (rho["chosen"] - rho["rejected"])
        details |= {"margin": margin, "accuracy": (margin > 0).float()}
    if "selfplay" in rho:
        data = [rho[name] for name in ("chosen", "rejected") if name in rho]
        details["critic_gap"] = strength * (rho["selfplay"] - sum(data) / len(data))
    return details
