"""How a policy has moved from the start, on preferences of the built-in world that no training saw.

ρ(y) = log π_t(y|x) − log π_0(y|x), with π_0 the start, for the chosen, the rejected and one response y′ ~ π_0 sampled once.
"""

import statistics
from collections.abc import Callable
from dataclasses import replace

from transformers import PreTrainedModel

from spac_repro.data import dataset
from spac_repro.data.dataset import RESPONSES, PreferenceDataset
from spac_repro.data.rendering import Renderer
from spac_repro.data.world import World
from spac_repro.model.policy import Policy
from spac_repro.model.reference import reference_logprobs
from spac_repro.optim import distributed
from spac_repro.recipe import SelfPlaySettings
from spac_repro.run_context import RunContext
from spac_repro.runs import record
from spac_repro.runs.results import Score, standard_error
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive_seed

NOTE = "against the start"


def measure(context: RunContext, t: int, model: PreTrainedModel) -> list[Score]:
    """How far the iterate has moved on preferences that no training saw; iteration 0 draws them."""
    assert context.inputs.world is not None  # the recipe's own check
    start, scorer, tokens = context.folder.iteration(0), Policy(model), context.recipe.training.micro_batch_tokens
    with context.timed(t, "held-out preferences"):
        if t == 0:
            drawn = draw(
                scorer,
                context.renderer,
                context.inputs.world,
                context.recipe.selfplay,
                pairs=context.recipe.evaluation.heldout_pairs,
                tokens=tokens,
                seed=derive_seed(context.run.seed, "held-out"),
                advance=context.progress.update,
            )
            entered = record.before_rename(context.folder, start.heldout_file)
            drawn = replace(drawn, reference_sha256=start.weights_sha256)
            distributed.on_main_process(lambda: dataset.write(start.heldout_file, drawn, {}, before_rename=entered))
        remedy = f"remove it and {start.scores_file}, and repeat the command"
        data = dataset.read(start.heldout_file, reference_sha256=start.weights_sha256, remedy=remedy)
        return scores(scorer, data, tokens=tokens, advance=context.progress.update)


def draw(
    start: Policy,
    renderer: Renderer,
    world: World,
    settings: SelfPlaySettings,
    *,
    pairs: int,
    tokens: int,
    seed: int,
    advance: Callable[[int, int], None],
) -> PreferenceDataset:
    """Held-out preferences, each with a response of the start's at temperature 1, and log π_0 of all three."""
    examples = renderer.tokenize(world.preferences(pairs, "heldout"))
    responses = selfplay.sample_responses(
        start.model,
        examples.prompt,
        settings.model_copy(update={"temperature": 1.0, "top_p": 1.0}),
        max_response_tokens=renderer.settings.max_response_tokens,
        pad_token_id=renderer.pad_token_id,
        eos_token_id=renderer.eos_token_id,
        seed=seed,
        advance=advance,
    )
    data = PreferenceDataset.from_tokenized(examples, responses)
    return replace(data, reference_logprobs=reference_logprobs(start, data, RESPONSES, batch_tokens=tokens, advance=advance))


def scores(policy: Policy, data: PreferenceDataset, *, tokens: int, advance: Callable[[int, int], None]) -> list[Score]:
    """The critic's gap ρ(y′) − ½(ρ(y⁺) + ρ(y⁻)), the margin ρ(y⁺) − ρ(y⁻), how often that is right, and KL(π_0 ‖ π_t) by y′."""
    logprobs = reference_logprobs(policy, data, RESPONSES, batch_tokens=tokens, advance=advance)
    rho = {name: (logprobs[name] - data.reference_logprobs[name]).double().tolist() for name in RESPONSES}
    rows = list(zip(rho["chosen"], rho["rejected"], rho["selfplay"], strict=True))
    measured = {  # by row, and whether more is better
        "critic_gap": ([own - (chosen + rejected) / 2 for chosen, rejected, own in rows], False),
        "margin": ([chosen - rejected for chosen, rejected, _ in rows], True),
        "accuracy": ([(chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected, _ in rows], True),
        "divergence": ([-own for _, _, own in rows], False),
    }
    return [
        Score("heldout", metric, statistics.fmean(its), standard_error(its), len(its), higher_is_better=better, note=NOTE)
        for metric, (its, better) in measured.items()
    ]
