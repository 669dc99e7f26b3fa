"""The distance from the start on held-out preferences: closed forms on log-probabilities that are known."""

import pytest
import torch

from spac_repro.data.dataset import RESPONSES, PreferenceDataset
from spac_repro.data.world import Behaviour, World, split_of
from spac_repro.evaluation import heldout
from spac_repro.model.policy import Policy
from spac_repro.model.reference import reference_logprobs

PROMPTS = [[1, 2], [3], [4, 5, 6]]
RESPONSES_TO = {"chosen": [[7, 8], [9], [10]], "rejected": [[8], [9, 9], [11]], "selfplay": [[7], [12], [10, 10]]}


def nothing(done: int, total: int) -> None:
    pass


def test_scores_are_the_formulas_on_the_differences_of_log_probabilities(tiny_models):
    """The reference is shifted by numbers of our own, so that ρ is those numbers."""
    policy = Policy(tiny_models["mistral"])
    data = PreferenceDataset(PROMPTS, RESPONSES_TO, {})
    now = reference_logprobs(policy, data, RESPONSES, batch_tokens=100, advance=nothing)
    rho = {
        "chosen": torch.tensor([1.0, -1.0, 0.0]),
        "rejected": torch.tensor([0.5, 2.0, -3.0]),
        "selfplay": torch.tensor([-1.0, -2.0, 0.25]),
    }
    data = PreferenceDataset(PROMPTS, RESPONSES_TO, {name: now[name] - rho[name] for name in RESPONSES})
    found = {score.metric: score for score in heldout.scores(policy, data, batch_tokens=100, advance=nothing)}
    assert {metric: score.value for metric, score in found.items()} == pytest.approx(
        {
            "critic_gap": (-1 - 0.75 - 2 - 0.5 + 0.25 + 1.5) / 3,
            "margin": (0.5 - 3 + 3) / 3,
            "accuracy": 2 / 3,
            "divergence": (1 + 2 - 0.25) / 3,
        },
        abs=1e-5,
    )
    assert found["margin"].stderr == pytest.approx(torch.tensor([0.5, -3.0, 3.0]).std().item() / 3**0.5, rel=1e-4)
    assert found["margin"].n == 3


def test_standard_errors_are_clustered_by_prompt(tiny_models):
    """Every preference twice says no more than once, and the values stay what they are."""
    policy = Policy(tiny_models["mistral"])
    twice = {name: rows * 2 for name, rows in RESPONSES_TO.items()}
    found = {}
    for times, responses in ((1, RESPONSES_TO), (2, twice)):
        data = PreferenceDataset(PROMPTS * times, responses, {})
        now = reference_logprobs(policy, data, RESPONSES, batch_tokens=100, advance=nothing)
        rho = {name: torch.tensor([0.25, -1.0, 3.0] * times) * shift for name, shift in zip(RESPONSES, (1, -2, 3), strict=True)}
        data = PreferenceDataset(data.prompts, responses, {name: now[name] - rho[name] for name in RESPONSES})
        found[times] = {score.metric: score for score in heldout.scores(policy, data, batch_tokens=100, advance=nothing)}
    for metric, score in found[2].items():
        assert score.n == 6
        assert score.value == pytest.approx(found[1][metric].value, abs=1e-5)
        assert score.stderr == pytest.approx(found[1][metric].stderr, rel=1e-4)


def test_held_out_preferences_are_on_prompts_that_training_never_sees_and_training_data_stays_what_it_was():
    world = World(seed=1, behaviour=Behaviour(0.55, 0.25, 0.12, 0.08), preference_scale=5.0)
    asked = [row.prompt[0]["content"] for row in world.preferences(200, "heldout")]
    assert {split_of(prompt) for prompt in asked} == {"heldout"}
    assert {split_of(row.prompt[0]["content"]) for row in world.preferences(200)} == {"train"}
