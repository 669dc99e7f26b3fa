"""One self-play iteration: from π_t to π_{t+1}.

y′ ~ π_t for every prompt  →  log π_ref of every response, once  →  optimiser steps on the method's loss
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from spac_repro import methods
from spac_repro.data import mapped
from spac_repro.data.triples import Triples
from spac_repro.methods import Method, Referenced
from spac_repro.model.packing import pack
from spac_repro.optim.loop import Objective
from spac_repro.recipe import Run


def learning_rate(run: Run, iteration: int) -> float:
    """The highest learning rate of an iteration."""
    last = run.objective.last_learning_rate if iteration == run.recipe.training.iterations else None
    return last or run.objective.learning_rate


def beta(settings: Referenced, iteration: int, iterations: int) -> float:
    """β of an iteration."""
    return settings.last_beta if iteration == iterations and settings.last_beta else settings.beta


def objective(run: Run, iteration: int, policy: Any, triples: Triples) -> Objective:
    """The method's loss on some rows of the triples. `policy` is a `Policy`, or what an engine made of it."""
    method = methods.get(run.method)
    names, loss = method.responses, method.load_loss()
    known = _keywords(run, method, iteration) | _statistics(method, triples)

    def losses(rows: Sequence[int]) -> tuple[Tensor, dict[str, Tensor]]:
        packed = pack(triples.groups(names, rows), device=next(policy.parameters()).device)
        logprobs = dict(zip(names, policy(packed).view(len(rows), len(names)).unbind(1), strict=True))
        if not method.has_reference:
            return loss(*logprobs.values(), **known), {}
        rows = list(rows)
        rho = {name: value - triples.reference[name][rows].to(value.device) for name, value in logprobs.items()}
        return loss(*rho.values(), **known), _details(rho, known["beta"])

    return losses


def _keywords(run: Run, method: Method, iteration: int) -> dict[str, Any]:
    """What the loss takes from the recipe; β is that of the iteration."""
    settings = run.objective
    found = {name: getattr(settings, name) for name in method.hyperparameters}
    if isinstance(settings, Referenced):
        found["beta"] = beta(settings, iteration, run.recipe.training.iterations)
    return found


def _statistics(method: Method, triples: Triples) -> dict[str, float]:
    """What the loss takes from the data."""
    if "mean_length" not in method.statistics:
        return {}
    return {"mean_length": sum(mapped.lengths(triples.responses["chosen"])) / len(triples.prompts)}


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
