"""The gold reward: how good a policy's own responses to held-out prompts of the built-in world truly are."""

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
from spac_repro.runs import files, record
from spac_repro.runs.results import Score, standard_error
from spac_repro.sampling import selfplay
from spac_repro.seeds import derive_seed


@dataclass(frozen=True)
class Rewards:
    """Gold rewards of sampled responses: `samples` to each prompt, a prompt's side by side."""

    values: list[float]
    lengths: list[int]  # response tokens
    samples: int

    def by_prompt(self, values: Sequence[float]) -> list[float]:
        """The mean of each prompt's samples."""
        return [statistics.fmean(values[i : i + self.samples]) for i in range(0, len(values), self.samples)]


def measure(context: RunContext, t: int, model: PreTrainedModel) -> list[Score]:
    """Gold rewards of sampled responses, beside the start's, which iteration 0 keeps."""
    assert context.inputs.world is not None  # the recipe's own check
    settings, kept = context.recipe.evaluation, context.folder.iteration(0).gold_file
    with context.timed(t, "gold reward"):
        rewards = sample(
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
        distributed.on_main_process(lambda: record.write_json(context.folder, kept, asdict(rewards)))
    return scores(rewards, Rewards(**files.read_json(kept)))


def sample(
    model: PreTrainedModel,
    renderer: Renderer,
    world: World,
    settings: SelfPlaySettings,
    *,
    prompts: int,
    samples: int,
    seed: int,
    advance: Callable[[int, int], None],
) -> Rewards:
    """Sample responses to the first held-out prompts, at temperature 1, and reward them."""
    asked = [prompt for prompt in world.heldout_prompts(prompts) for _ in range(samples)]
    tokens = [renderer.prompt_ids(Preference(({"role": "user", "content": prompt},), "", "")) for prompt in asked]
    responses = selfplay.sample_responses(
        model,
        tokens,
        settings.model_copy(update={"temperature": 1.0, "top_p": 1.0}),
        max_response_tokens=renderer.settings.max_response_tokens,
        pad_token_id=renderer.pad_token_id,
        eos_token_id=renderer.eos_token_id,
        seed=seed,
        advance=advance,
    )
    values = [world.reward(prompt, renderer.decode(response)) for prompt, response in zip(asked, responses, strict=True)]
    return Rewards(values, [len(response) for response in responses], samples)


def scores(rewards: Rewards, start: Rewards) -> list[Score]:
    """Mean reward, share of exactly right responses, and win rate over the start's samples (a tie is half a win).

    Standard errors are over prompts: a prompt's samples are averaged first.
    """
    over_start = "over the start's responses to the same prompts"
    measured = {
        "reward": (rewards.values, ""),
        "exact": ([float(value == 1) for value in rewards.values], ""),
        "win_rate": ([(a > b) + 0.5 * (a == b) for a, b in zip(rewards.values, start.values, strict=True)], over_start),
    }
    found = []
    for metric, (values, note) in measured.items():
        by_prompt = rewards.by_prompt(values)
        found.append(Score("gold", metric, statistics.fmean(by_prompt), standard_error(by_prompt), len(by_prompt), note=note))
    length = Score("gold", "length", statistics.fmean(rewards.lengths), None, len(rewards.lengths), note="response tokens")
    return [*found, length]
