"""Gold reward: the true reward, in the built-in world, of responses that a policy samples to held-out prompts."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from transformers import PreTrainedModel

from spac_repro.data.preferences import Preference
from spac_repro.data.rendering import Renderer
from spac_repro.data.world import World
from spac_repro.optim import distributed
from spac_repro.recipe import SelfPlaySettings
from spac_repro.run_context import RunContext
from spac_repro.runs import file_hashes, files
from spac_repro.runs.results import Score, standard_error
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive_seed


@dataclass(frozen=True)
class GoldRewards:
    """Gold rewards of sampled responses, [prompts × samples], with the samples of a prompt next to each other."""

    values: list[float]
    lengths: list[int]  # response tokens
    samples: int  # per prompt

    def by_prompt(self, values: Sequence[float]) -> list[float]:
        """Average `values` [prompts × samples] over the samples of each prompt: [prompts]."""
        return [statistics.fmean(values[i : i + self.samples]) for i in range(0, len(values), self.samples)]


def measure(context: RunContext, t: int, model: PreTrainedModel) -> list[Score]:
    """Score iterate t by the gold rewards of sampled responses. Iteration 0 stores its own, to which the others are compared."""
    assert context.inputs.world is not None  # the recipe's own check
    settings, start_file = context.recipe.evaluation, context.folder.iteration(0).gold_file
    with context.timed(t, "gold reward"):
        rewards = sample_rewards(
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
    return scores(rewards, GoldRewards(**files.read_json(start_file)))


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
) -> GoldRewards:
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
    values = [
        world.reward(prompt, renderer.decode_verbatim(response)) for prompt, response in zip(repeated, responses, strict=True)
    ]
    return GoldRewards(values, [len(response) for response in responses], samples)


def scores(rewards: GoldRewards, start: GoldRewards) -> list[Score]:
    """Mean reward, share of exactly right responses, win rate against the start policy, and mean length.

    A tie counts as half a win. Standard errors are over prompts: the samples of a prompt are averaged first.

    Args:
        rewards: of the iterate.
        start: of the start policy, on the same prompts.
    """
    over_start = "over the start's responses to the same prompts"
    measured = {
        "reward": (rewards.values, ""),
        "exact": ([float(value == 1) for value in rewards.values], ""),
        "win_rate": ([(a > b) + 0.5 * (a == b) for a, b in zip(rewards.values, start.values, strict=True)], over_start),
    }
    result = []
    for metric, (values, note) in measured.items():
        by_prompt = rewards.by_prompt(values)
        result.append(Score("gold", metric, statistics.fmean(by_prompt), standard_error(by_prompt), len(by_prompt), note=note))
    length = Score("gold", "length", statistics.fmean(rewards.lengths), None, len(rewards.lengths), note="response tokens")
    return [*result, length]
