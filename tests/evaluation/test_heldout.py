"""The distance from the start on held-out preferences: closed forms on log-probabilities that are known."""

import copy

import pytest
import torch

from spac_repro.data.dataset import RESPONSES, PreferenceDataset
from spac_repro.data.world import Behaviour, World, split_of
from spac_repro.evaluation import heldout
from spac_repro.model.policy import Policy
from spac_repro.model.reference import reference_logprobs
from spac_repro.runs import answer_scores
from spac_repro.runs.results import Score

PROMPTS = [[1, 2], [3], [4, 5, 6]]
RESPONSES_TO = {"chosen": [[7, 8], [9], [10]], "rejected": [[8], [9, 9], [11]], "selfplay": [[7], [12], [10, 10]]}


def scores(policy: Policy, data: PreferenceDataset, *, each_response: bool = False) -> list[Score]:
    answered = heldout.answers(policy, data, batch_tokens=100, each_response=each_response, advance=nothing)
    return answer_scores.task_scores(answered)


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
    found = {score.metric: score for score in scores(policy, data)}
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
        found[times] = {score.metric: score for score in scores(policy, data)}
    for metric, score in found[2].items():
        assert score.n == 6
        assert score.value == pytest.approx(found[1][metric].value, abs=1e-5)
        assert score.stderr == pytest.approx(found[1][metric].stderr, rel=1e-4)


def by_hand(model, prompt, response):
    """log π(y|x) of one response, from all logits of one row."""
    row = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        logprobs = model(row).logits.double().log_softmax(-1)[0]
    return sum(float(logprobs[len(prompt) + place - 1, token]) for place, token in enumerate(response))


@pytest.mark.parametrize("wrong", [None, "mean of a prompt", "independent"])
def test_scores_of_held_out_pairs_are_those_of_an_independent_computation(tiny_models, wrong):
    """Whole rows through transformers, one at a time; the errors from the formula for means of clusters of any size."""
    start, model = tiny_models["mistral"], copy.deepcopy(tiny_models["mistral"])
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    prompts = [[1, 2], [1, 2], [3], [4, 5, 6], [4, 5, 6], [4, 5, 6]]
    responses = {
        "chosen": [[7, 8], [9], [10], [1], [2, 2], [3]],
        "rejected": [[8], [9, 9], [11], [5], [6], [7, 1, 2]],
        "selfplay": [[7], [12], [10, 10], [8, 8], [9], [1]],
    }
    data = PreferenceDataset(prompts, responses, {})
    reference = reference_logprobs(Policy(start), data, RESPONSES, batch_tokens=30, advance=nothing)
    data = PreferenceDataset(prompts, responses, reference)
    found = {s.metric: s for s in scores(Policy(model), data, each_response=True)}
    rho = {
        name: [by_hand(model, x, y) - by_hand(start, x, y) for x, y in zip(prompts, responses[name], strict=True)]
        for name in RESPONSES
    }
    values = {
        "margin": [a - b for a, b in zip(rho["chosen"], rho["rejected"], strict=True)],
        "accuracy": [float(a > b) for a, b in zip(rho["chosen"], rho["rejected"], strict=True)],
        "divergence": [-y for y in rho["selfplay"]],
        "critic_gap": [y - (a + b) / 2 for a, b, y in zip(rho["chosen"], rho["rejected"], rho["selfplay"], strict=True)],
        **{f"rho_{name}": rho[name] for name in RESPONSES},
    }
    clusters = [[0, 1], [2], [3, 4, 5]]
    errors = {}
    for metric, each in values.items():
        mean = sum(each) / 6
        sums = [sum(each[i] - mean for i in cluster) for cluster in clusters]
        errors[metric] = (3 / 2 * sum(u * u for u in sums)) ** 0.5 / 6
        if wrong == "independent":
            errors[metric] = float(torch.tensor(each).std()) / 6**0.5
    means = {metric: sum(each) / 6 for metric, each in values.items()}
    if wrong == "mean of a prompt":
        means = {m: sum(sum(each[i] for i in c) / len(c) for c in clusters) / 3 for m, each in values.items()}
    same = {s: score.value for s, score in found.items()} == pytest.approx(means, abs=1e-4)
    same = same and {s: score.stderr for s, score in found.items()} == pytest.approx(errors, abs=1e-4)
    assert same == (wrong is None)
    assert found["rho_chosen"].higher_is_better
    assert not found["rho_selfplay"].higher_is_better


def test_held_out_preferences_are_on_prompts_that_training_never_sees_and_training_data_stays_what_it_was():
    world = World(seed=1, behaviour=Behaviour(0.55, 0.25, 0.12, 0.08), preference_scale=5.0)
    asked = [row.prompt[0]["content"] for row in world.preferences(200, "heldout")]
    assert {split_of(prompt) for prompt in asked} == {"heldout"}
    assert {split_of(row.prompt[0]["content"]) for row in world.preferences(200)} == {"train"}
