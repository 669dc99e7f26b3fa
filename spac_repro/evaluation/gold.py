"""Gold reward: the true reward, in the built-in world, of responses that a policy samples to held-out prompts."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from transformers import PreTrainedModel

from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer
from spac_repro.data.world import World
from spac_repro.optim import distributed
from spac_repro.recipe import SelfPlaySettings
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes, files
from spac_repro.runs.answers import Answer, Metric, TaskAbout, TaskAnswers
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive_seed


@dataclass(frozen=True)
class GoldRewards:
    """Gold rewards of sampled responses, [prompts × samples], with the samples of a prompt next to each other."""

    values: list[float]
    lengths: list[int]  # response tokens
    samples: int  # per prompt


@dataclass(frozen=True)
class Sampled:
    """Sampled responses as text, with what they were sampled to: [prompts × samples]."""

    prompts: list[str]
    prompt_lengths: list[int]  # tokens
    correct: list[str]  # the right response
    texts: list[str]


METRICS = (
    Metric(name="reward", mean="clusters", note=""),
    Metric(name="exact", mean="clusters", note=""),
    Metric(name="win_rate", mean="clusters", note="over the start's responses to the same prompts"),
    Metric(name="length", mean="items_without_error", note="response tokens"),
)


def measure(context: RunContext, t: int, model: PreTrainedModel) -> TaskAnswers:
    """Sample responses of iterate t, with their gold rewards. Iteration 0 stores its own, to which the others are compared."""
    assert context.inputs.world is not None  # the recipe's own check
    settings, start_file = context.recipe.evaluation, context.folder.iteration(0).gold_file
    with context.timed(t, "gold reward"):
        rewards, sampled = sample_rewards(
            model,
            context.renderer,
            context.inputs.world,
            context.recipe.selfplay,
            prompts=settings.gold_prompts,
            samples=settings.gold_samples_per_prompt,
            seed=derive_seed(context.run.seed, "gold", t),
            advance=context.progress.update,
        )
    if t == 0:
        distributed.on_main_process(lambda: file_hashes.write_json(context.folder, start_file, asdict(rewards)))
    return answers(rewards, GoldRewards(**files.read_json(start_file)), sampled)


def sample_rewards(
    model: PreTrainedModel,
    renderer: Renderer,
    world: World,
    settings: SelfPlaySettings,
    *,
    prompts: int,
    samples: int,
    seed: int,
    advance: Callable[[int, int], None],
) -> tuple[GoldRewards, Sampled]:
    """Sample responses to held-out prompts at temperature 1, and compute their gold rewards.

    Args:
        model: the policy.
        renderer: turns prompts into tokens, and tokens into text.
        world: the built-in world, which knows the rewards.
        settings: how responses are sampled; temperature and top_p are set to 1.
        prompts: number of held-out prompts, the first ones.
        samples: responses per prompt.
        seed: of the sampling.
        advance: called with (responses done, responses in all).
    """
    repeated = [prompt for prompt in world.heldout_prompts(prompts) for _ in range(samples)]
    tokens = [renderer.prompt_ids(Preference(({"role": "user", "content": prompt},), "", "")) for prompt in repeated]
    responses = selfplay.sample_responses(
        model,
        tokens,
        settings.model_copy(update={"temperature": 1.0, "top_p": 1.0}),
        max_response_tokens=renderer.settings.max_response_tokens,
        pad_token_id=renderer.pad_token_id,
        stop_token_ids=renderer.stop_token_ids,
        seed=seed,
        advance=advance,
    )
    texts = list(map(renderer.decode_verbatim, responses))
    values = [world.reward(prompt, text) for prompt, text in zip(repeated, texts, strict=True)]
    correct = list(map(world.correct_response, repeated))
    return GoldRewards(values, list(map(len, responses)), samples), Sampled(repeated, list(map(len, tokens)), correct, texts)


def answers(rewards: GoldRewards, start: GoldRewards, sampled: Sampled) -> TaskAnswers:
    """The responses with their rewards, whether they are exactly right, whether they win against the start's, and their lengths.

    A tie counts as half a win. Scores are means over prompts: the samples of a prompt, a cluster, are averaged first.

    Args:
        rewards: of the iterate.
        start: of the start policy, on the same prompts.
        sampled: the responses.
    """
    return TaskAnswers(TaskAbout(name="gold", metrics=METRICS), list(_rows(rewards, start, sampled)))


def _rows(rewards: GoldRewards, start: GoldRewards, sampled: Sampled) -> Iterator[Answer]:
    for i, (value, before) in enumerate(zip(rewards.values, start.values, strict=True)):
        prompt, sample = divmod(i, rewards.samples)
        exact, win = float(value == 1), (value > before) + 0.5 * (value == before)
        yield Answer(
            task="gold",
            item_id=f"{prompt}/{sample}",
            content_sha256=files.sha256_json({"prompt": sampled.prompts[i]}),
            gold=sampled.correct[i],
            metrics={"reward": value, "exact": exact, "win_rate": win, "length": float(rewards.lengths[i])},
            tokens=sampled.prompt_lengths[i] + rewards.lengths[i],
            correct=bool(exact),
            cluster=str(prompt),
            generated=sampled.texts[i],
        )


def mixture(iterates: Sequence[TaskAnswers]) -> TaskAnswers:
    """The gold reward of a uniform mixture of iterates: one of them is drawn, and answers.

    Every metric is an expectation over responses, so the mixture's is the mean over the iterates, for each prompt.

    Args:
        iterates: the answers of each iterate to the same prompts.
    """
    return TaskAnswers(iterates[0].about, [_mean(rows) for rows in zip(*(each.rows for each in iterates), strict=True)])


def _mean(rows: Sequence[Answer]) -> Answer:
    means = {name: statistics.fmean(row.metrics[name] for row in rows) for name in rows[0].metrics}
    return replace(rows[0], metrics=means, correct=None, generated=None)
