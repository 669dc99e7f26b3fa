"""Scores of a policy on held-out preferences: accuracy, margin, critic gap and divergence.

The built-in world makes preferences on prompts that training never sees. Of a file or a data set, some prompts are held out
(`data.held_out`). All scores are means of log-ratios against the start policy π_0: ρ(y) = log π_t(y|x) − log π_0(y|x), for the
chosen response y⁺, the rejected response y⁻, and one response y′ ~ π_0 that is sampled once. `accuracy` and `margin` say how well
the policy tells chosen from rejected responses (the margin is ρ(y⁺) − ρ(y⁻), as in DPO without β). `critic_gap` and `divergence`
say how far the policy has moved away from its start.
"""

import math
from collections.abc import Callable, Mapping, Sequence
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
from spac_repro.runs import file_hashes, files
from spac_repro.runs.answers import Answer, Metric, TaskAbout, TaskAnswers
from spac_repro.sampling.selfplay import sample_responses
from spac_repro.seeds import derive_seed

NOTE = "against the start"
TIE = 0.5  # the accuracy of a tie
METRICS = (
    Metric(name="critic_gap", mean="clustered_items", higher_is_better=False),
    Metric(name="margin", mean="clustered_items"),
    Metric(name="accuracy", mean="clustered_items"),
    Metric(name="divergence", mean="clustered_items", higher_is_better=False),
)
RHO = tuple(f"rho_{name}" for name in RESPONSES)
RHO_METRICS = tuple(Metric(name=name, mean="clustered_items", higher_is_better=name == "rho_chosen") for name in RHO)


def measure(context: RunContext, t: int, model: PreTrainedModel) -> TaskAnswers:
    """Measure iterate t on held-out preferences. Iteration 0 samples y′, computes log π_0 and stores both."""
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
        return answers(wrapped, data, batch_tokens=batch_tokens, each_response=each, advance=context.progress.update)


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


def answers(
    policy: Policy,
    data: PreferenceDataset,
    *,
    batch_tokens: int,
    each_response: bool = False,
    advance: Callable[[int, int], None],
) -> TaskAnswers:
    """Each preference with critic gap, margin, accuracy and divergence; in nats, except for the accuracy.

    * accuracy: 1 if ρ(y⁺) > ρ(y⁻); a tie counts half.
    * margin: ρ(y⁺) − ρ(y⁻).
    * critic_gap: ρ(y′) − ½(ρ(y⁺) + ρ(y⁻)).
    * divergence: −ρ(y′), whose mean over y′ ~ π_0 is KL(π_0 ‖ π_t).

    Several preferences can have the same prompt, which is their cluster. So standard errors are clustered by prompt. The
    log-probabilities of a row are those of y⁺, y⁻ and y′ under π_t.

    Args:
        policy: the policy π_t.
        data: held-out preferences with y′ and log π_0.
        batch_tokens: tokens per forward pass.
        each_response: score ρ of each response too: rho_chosen, rho_rejected and rho_selfplay.
        advance: called with (responses done, responses in all).
    """
    logprobs = reference_logprobs(policy, data, RESPONSES, batch_tokens=batch_tokens, advance=advance)
    rho = [(logprobs[name] - data.reference_logprobs[name]).double().tolist() for name in RESPONSES]
    now = [logprobs[name].double().tolist() for name in RESPONSES]
    clusters: dict[tuple[int, ...], int] = {}
    rows = []
    for i, (log_probs, ratios) in enumerate(zip(zip(*now, strict=True), zip(*rho, strict=True), strict=True)):
        prompt, texts = list(data.prompts[i]), {name: list(data.responses[name][i]) for name in RESPONSES}
        values = _values(ratios, each_response=each_response)
        rows.append(
            Answer(
                task="heldout",
                item_id=str(i),
                content_sha256=files.sha256_json({"prompt": prompt, "chosen": texts["chosen"], "rejected": texts["rejected"]}),
                gold="0",
                metrics=values,
                tokens=len(prompt) + max(map(len, texts.values())),
                correct=_correct(values),
                cluster=str(clusters.setdefault(tuple(prompt), len(clusters))),
                log_probs=log_probs,
            )
        )
    metrics = METRICS + (RHO_METRICS if each_response else ())
    return TaskAnswers(TaskAbout(name="heldout", metrics=metrics, note=NOTE), rows)


def mixture(iterates: Sequence[TaskAnswers], start: TaskAnswers) -> TaskAnswers:
    """The scores of a uniform mixture of iterates: log π(y|x) = log mean_t π_t(y|x), as a density over whole responses.

    Args:
        iterates: the answers of each iterate to the same preferences.
        start: those of the start policy, to which the log-ratios are.
    """
    rows = []
    for zero, *of_iterates in zip(start.rows, *(each.rows for each in iterates), strict=True):
        log_probs = [_log_mean_exp(values) for values in zip(*(_log_probs(row) for row in of_iterates), strict=True)]
        ratios = [now - before for now, before in zip(log_probs, _log_probs(zero), strict=True)]
        values = _values(ratios, each_response=RHO[0] in zero.metrics)
        rows.append(replace(zero, metrics=values, correct=_correct(values), log_probs=log_probs))
    return TaskAnswers(start.about, rows)


def _log_probs(row: Answer) -> Sequence[float]:
    assert row.log_probs is not None  # `answers` writes them
    return row.log_probs


def _log_mean_exp(values: Sequence[float]) -> float:
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values) / len(values))


def _values(ratios: Sequence[float], *, each_response: bool) -> dict[str, float]:
    """The metrics of a preference, from the log-ratios ρ of its responses."""
    chosen, rejected, selfplay = ratios
    values = {
        "critic_gap": selfplay - (chosen + rejected) / 2,
        "margin": chosen - rejected,
        "accuracy": (chosen > rejected) + TIE * (chosen == rejected),
        "divergence": -selfplay,
    }
    return values | (dict(zip(RHO, ratios, strict=True)) if each_response else {})


def _correct(values: Mapping[str, float]) -> bool | None:
    """Whether the policy tells chosen from rejected; None for a tie."""
    return None if values["accuracy"] == TIE else bool(values["accuracy"])
