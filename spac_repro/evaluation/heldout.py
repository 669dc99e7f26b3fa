"""How a policy has moved from the start, on preferences of the built-in world that no training saw.

ρ(y) = log π_t(y|x) − log π_0(y|x), with π_0 the start, for the chosen, the rejected and one response y′ ~ π_0 sampled once.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from spac_repro.data import triples
from spac_repro.data.rendering import Renderer
from spac_repro.data.triples import RESPONSES, Triples
from spac_repro.data.world import World
from spac_repro.model.policy import Policy
from spac_repro.model.reference import reference_logprobs
from spac_repro.recipe import SelfPlay
from spac_repro.runs.results import Score
from spac_repro.sampling import selfplay


def draw(
    start: Policy,
    renderer: Renderer,
    world: World,
    settings: SelfPlay,
    *,
    pairs: int,
    tokens: int,
    seed: int,
    advance: Callable[[int, int], None],
) -> Triples:
    """Held-out preferences, each with a response of the start's at temperature 1, and log π_0 of all three."""
    examples = renderer.examples(world.preferences(pairs, "heldout"))
    responses = selfplay.respond(
        start.model,
        examples.prompt,
        settings.model_copy(update={"temperature": 1.0, "top_p": 1.0}),
        longest_response=renderer.settings.longest_response,
        pad=renderer.tokenizer.pad_token_id,
        stop=renderer.tokenizer.eos_token_id,
        seed=seed,
        advance=advance,
    )
    data = triples.from_examples(examples, responses)
    return replace(data, reference=reference_logprobs(start, data, RESPONSES, tokens=tokens, advance=advance))


def scores(policy: Policy, data: Triples, *, tokens: int, advance: Callable[[int, int], None]) -> list[Score]:
    """The critic's gap ρ(y′) − ½(ρ(y⁺) + ρ(y⁻)), the margin ρ(y⁺) − ρ(y⁻), how often that is right, and KL(π_0 ‖ π_t) by y′."""
    logprobs = reference_logprobs(policy, data, RESPONSES, tokens=tokens, advance=advance)
    rho = {name: (logprobs[name] - data.reference[name]).double().tolist() for name in RESPONSES}
    rows = list(zip(rho["chosen"], rho["rejected"], rho["selfplay"], strict=True))
    return [
        _score("critic_gap", [own - (chosen + rejected) / 2 for chosen, rejected, own in rows], better=False),
        _score("margin", [chosen - rejected for chosen, rejected, _ in rows]),
        _score("accuracy", [(chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected, _ in rows]),
        _score("divergence", [-own for _, _, own in rows], better=False),
    ]


def _score(metric: str, values: Sequence[float], *, better: bool = True) -> Score:
    stderr = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return Score(
        "heldout", metric, statistics.fmean(values), stderr, len(values), higher_is_better=better, note="against the start"
    )
