"""Scores of a policy on held-out preferences: accuracy, margin, critic gap and divergence.

The built-in world makes preferences on prompts that training never sees. Of a file or a data set, some prompts are held out
(`data.held_out`). All scores are means of log-ratios against the start policy π_0: ρ(y) = log π_t(y|x) − log π_0(y|x), for the
chosen response y⁺, the rejected response y⁻, and one response y′ ~ π_0 that is sampled once. `accuracy` and `margin` say how well
the policy tells chosen from rejected responses (the margin is ρ(y⁺) − ρ(y⁻), as in DPO without β). `critic_gap` and `divergence`
say how far the policy has moved away from its start.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from spac_repro.data import dataset
from spac_repro.data.dataset import RESPONSES, PreferenceDataset
from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer
from spac_repro.model.policy import Policy
from spac_repro.model.reference import reference_logprobs
from spac_repro.optim import distributed
from spac_repro.recipe import SelfPlaySettings
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes
from spac_repro.runs.results import Score, clustered_standard_error
from spac_repro.sampling.selfplay import sample_responses
from spac_repro.seeds import derive_seed

NOTE = "against the start"


def measure(context: RunContext, t: int, model: PreTrainedModel) -> list[Score]:
    """Score iterate t on held-out preferences. Iteration 0 samples y′, computes log π_0 and stores both."""
    start, wrapped = context.folder.iteration(0), Policy(model)
    batch_tokens = context.recipe.training.micro_batch_tokens
    with context.timed(t, "held-out preferences"):
        if t == 0:
            heldout = make_heldout_dataset(
                wrapped,
                context.renderer,
                context.inputs.heldout_preferences(context.recipe.evaluation.heldout_pairs),
                context.recipe.selfplay,
                batch_tokens=batch_tokens,
                seed=derive_seed(context.run.seed, "held-out"),
                advance=context.progress.update,
            )
            heldout = replace(heldout, reference_sha256=start.weights_sha256)
            entered = file_hashes.before_rename(context.folder, start.heldout_file)
            distributed.on_main_process(lambda: dataset.write(start.heldout_file, heldout, {}, before_rename=entered))
        remedy = f"remove it and {start.scores_file}, and repeat the command"
        data = dataset.read(start.heldout_file, reference_sha256=start.weights_sha256, remedy=remedy)
        each = context.inputs.world is None
        return scores(wrapped, data, batch_tokens=batch_tokens, each_response=each, advance=context.progress.update)


def make_heldout_dataset(
    start_policy: Policy,
    renderer: Renderer,
    preferences: Sequence[Preference],
    settings: SelfPlaySettings,
    *,
    batch_tokens: int,
    seed: int,
    advance: Callable[[int, int], None],
) -> PreferenceDataset:
    """Held-out preferences, each with one response of the start policy at temperature 1, and log π_0 of all three responses.

    Args:
        start_policy: the policy π_0.
        renderer: turns texts into tokens.
        preferences: the held-out preferences.
        settings: how responses are sampled; temperature and top_p are set to 1.
        batch_tokens: tokens per forward pass.
        seed: of the sampling.
        advance: called with (items done, items in all).
    """
    examples = renderer.tokenize(preferences)
    responses = sample_responses(
        start_policy.model,
        examples.prompt,
        settings.model_copy(update={"temperature": 1.0, "top_p": 1.0}),
        max_response_tokens=renderer.settings.max_response_tokens,
        pad_token_id=renderer.pad_token_id,
        stop_token_ids=renderer.stop_token_ids,
        seed=seed,
        advance=advance,
    )
    data = PreferenceDataset.from_tokenized(examples, responses)
    return replace(
        data, reference_logprobs=reference_logprobs(start_policy, data, RESPONSES, batch_tokens=batch_tokens, advance=advance)
    )


def scores(
    policy: Policy,
    data: PreferenceDataset,
    *,
    batch_tokens: int,
    each_response: bool = False,
    advance: Callable[[int, int], None],
) -> list[Score]:
    """Compute accuracy, margin, critic gap and divergence: means over the preferences, in nats except for the accuracy.

    * accuracy: the share of preferences with ρ(y⁺) > ρ(y⁻); a tie counts half.
    * margin: ρ(y⁺) − ρ(y⁻).
    * critic_gap: ρ(y′) − ½(ρ(y⁺) + ρ(y⁻)).
    * divergence: −ρ(y′), whose mean over y′ ~ π_0 is KL(π_0 ‖ π_t).

    Several preferences can have the same prompt. So standard errors are clustered by prompt; n is the number of preferences.

    Args:
        policy: the policy π_t.
        data: held-out preferences with y′ and log π_0.
        batch_tokens: tokens per forward pass.
        each_response: score ρ of each response too: rho_chosen, rho_rejected and rho_selfplay.
        advance: called with (responses done, responses in all).
    """
    logprobs = reference_logprobs(policy, data, RESPONSES, batch_tokens=batch_tokens, advance=advance)
    rho = {name: (logprobs[name] - data.reference_logprobs[name]).double().tolist() for name in RESPONSES}
    rows = list(zip(rho["chosen"], rho["rejected"], rho["selfplay"], strict=True))
    measured = {  # value of each row, and whether higher is better
        "critic_gap": ([selfplay - (chosen + rejected) / 2 for chosen, rejected, selfplay in rows], False),
        "margin": ([chosen - rejected for chosen, rejected, _ in rows], True),
        "accuracy": ([(chosen > rejected) + 0.5 * (chosen == rejected) for chosen, rejected, _ in rows], True),
        "divergence": ([-selfplay for _, _, selfplay in rows], False),
    }
    if each_response:
        measured |= {f"rho_{name}": (rho[name], name == "chosen") for name in RESPONSES}
    prompts = [tuple(prompt) for prompt in data.prompts]
    return [
        Score(
            task="heldout",
            metric=metric,
            value=statistics.fmean(values),
            stderr=clustered_standard_error(values, prompts),
            n=len(values),
            higher_is_better=higher,
            note=NOTE,
        )
        for metric, (values, higher) in measured.items()
    ]
