"""A method's loss on rows of a dataset, against the formulas on log-probabilities from the slow implementation."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from spac_repro import iteration, methods, recipes
from spac_repro.data import dataset
from spac_repro.data.dataset import PreferenceDataset
from spac_repro.data.rendering import TokenizedPreferences
from spac_repro.model.policy import Policy
from spac_repro.recipe import Run

VOCABULARY = 37  # of the tiny models
ROWS = [4, 0, 3]


def draw(length: int, seed: int) -> list[int]:
    return torch.randint(VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


EXAMPLES = TokenizedPreferences(
    [draw(2 + i, i) for i in range(5)],
    [draw(1 + 2 * i % 5, 10 + i) for i in range(5)],
    [draw(2 + i % 3, 20 + i) for i in range(5)],
)
SELFPLAY = [draw(1 + i, 30 + i) for i in range(5)]


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@pytest.fixture(scope="module")
def data():
    """A dataset with a reference that is not the policy."""
    bare = PreferenceDataset.from_tokenized(EXAMPLES, SELFPLAY)
    generator = torch.Generator().manual_seed(9)
    reference = {name: -10 - 3 * torch.rand(5, generator=generator) for name in dataset.RESPONSES}
    return PreferenceDataset(bare.prompts, bare.responses, reference)


@pytest.fixture(scope="module")
def rho(tiny_models, slow_logprob, data):
    """ρ of each response, by definition: {name: [5]}."""
    with torch.no_grad():
        return {
            name: [
                slow_logprob(tiny_models["llama"], data.prompts[i], data.responses[name][i]).item()
                - data.reference_logprobs[name][i].item()
                for i in range(5)
            ]
            for name in dataset.RESPONSES
        }


@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("engine", ["deepspeed-zero2", "deepspeed-zero3"])
def test_response_by_response_a_micro_batch_is_one_example_under_zero_3(tiny_models, data, packs, engine):
    """Or else processes would take unequally many forward passes, and wait for each other forever."""
    model = copy.deepcopy(tiny_models["llama"])
    if not packs:
        model.set_attn_implementation("eager")
    its_run = run("spac", training__engine=engine, training__processes=2, training__global_batch_size=5)
    schedule = iteration._schedule(SimpleNamespace(run=its_run, recipe=its_run.recipe), 1, data, model)
    sizes = {len(rows) for rank in (0, 1) for rows in schedule.micro_batches(0, rank, 2)}
    assert sizes == ({1} if engine == "deepspeed-zero3" and not packs else {2, 3})


def run(method: str, **changes) -> Run:
    overrides = [
        f"{key.replace('method__', 'methods.*.').replace('__', '.')}={'null' if value is None else value}"
        for key, value in changes.items()
    ]
    return recipes.load("tiny", method=method, overrides=overrides)


def evaluate(tiny_models, data, the_run, *, t=1, rows=ROWS):
    losses, details = iteration.make_objective(the_run, t, Policy(tiny_models["llama"]), data=data)(rows)
    return losses.tolist(), {name: values.tolist() for name, values in details.items()}


SPAC = {"method__beta": 0.3, "method__last_iteration_beta": None, "method__preference_weight": 2.5}


@pytest.mark.parametrize("baseline", ["both", "chosen", "rejected", "none"])
@pytest.mark.parametrize("critic", ["smoothed", "linear"])
def test_spac(tiny_models, data, rho, critic, baseline):
    losses, _ = evaluate(tiny_models, data, run("spac", **SPAC, method__critic_loss=critic, method__critic_baseline=baseline))
    for loss, i in zip(losses, ROWS, strict=True):
        chosen, rejected, selfplay = (rho[name][i] for name in dataset.RESPONSES)
        against = {"both": [chosen, rejected], "chosen": [chosen], "rejected": [rejected], "none": [0.0]}[baseline]
        gaps = [0.3 * (selfplay - value) for value in against]
        terms = gaps if critic == "linear" else [softplus(gap) for gap in gaps]
        assert loss == pytest.approx(2.5 * softplus(-0.3 * (chosen - rejected)) + sum(terms) / len(terms), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "formula"),
    [
        ("dpo", lambda chosen, rejected, selfplay: softplus(-0.3 * (chosen - rejected))),
        ("ipo", lambda chosen, rejected, selfplay: (chosen - rejected - 1 / 0.6) ** 2),
        ("spin", lambda chosen, rejected, selfplay: softplus(-0.3 * (chosen - selfplay))),
        ("sppo", lambda chosen, rejected, selfplay: (chosen - 1 / 0.6) ** 2 + (rejected + 1 / 0.6) ** 2),
    ],
)
def test_the_other_methods_with_a_reference(tiny_models, data, rho, method, formula):
    losses, _ = evaluate(tiny_models, data, run(method, method__beta=0.3, method__last_iteration_beta=None))
    expected = [formula(*(rho[name][i] for name in dataset.RESPONSES)) for i in ROWS]
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_sft_imitates_the_chosen_in_units_of_their_mean_length(tiny_models, data, slow_logprob):
    losses, details = evaluate(tiny_models, data, run("sft"))
    unit = sum(map(len, EXAMPLES.chosen)) / 5
    with torch.no_grad():
        expected = [-slow_logprob(tiny_models["llama"], EXAMPLES.prompt[i], EXAMPLES.chosen[i]).item() / unit for i in ROWS]
    assert losses == pytest.approx(expected, rel=1e-4)
    assert details == {}


def test_simpo_takes_means_over_tokens_and_no_reference(tiny_models, data, slow_logprob):
    losses, details = evaluate(tiny_models, data, run("simpo", method__beta=2.0, method__gamma_beta_ratio=0.5))

    def mean(name: str, i: int) -> float:
        tokens = data.responses[name][i]
        return slow_logprob(tiny_models["llama"], data.prompts[i], tokens).item() / len(tokens)

    with torch.no_grad():
        expected = [softplus(1 - 2 * (mean("chosen", i) - mean("rejected", i))) for i in ROWS]
    assert losses == pytest.approx(expected, rel=1e-4)
    assert details == {}


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        ("chipo", {"reward_bound": 1e-3}),
        ("rpo", {"sft_weight": 7.0}),
        ("dpop", {"chosen_penalty_weight": 70.0}),
        ("spac", {"critic_weight": 0.3}),
        ("spac", {"chosen_penalty_weight": 70.0}),
    ],
)
def test_a_setting_of_a_method_reaches_its_loss(tiny_models, data, method, setting):
    with_it = run(method, **{f"method__{name}": value for name, value in setting.items()})
    assert evaluate(tiny_models, data, with_it)[0] != evaluate(tiny_models, data, run(method))[0]


def test_a_method_asks_for_no_response_that_it_does_not_use(tiny_models, data, rho):
    """DPO's dataset holds no self-play responses, and SPIN's loss does not need the rejected ones."""
    without = PreferenceDataset(
        data.prompts,
        {name: data.responses[name] for name in ("chosen", "rejected")},
        {name: data.reference_logprobs[name] for name in ("chosen", "rejected")},
    )
    assert evaluate(tiny_models, without, run("dpo")) == evaluate(tiny_models, data, run("dpo"))
    nothing = {**data.responses, "rejected": [[]] * 5}
    without = PreferenceDataset(data.prompts, nothing, data.reference_logprobs)
    found, expected = (evaluate(tiny_models, dataset, run("spin"))[0] for dataset in (without, data))
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_logged(tiny_models, data, rho):
    _, details = evaluate(tiny_models, data, run("spac", **SPAC))
    chosen, rejected, selfplay = ([rho[name][i] for i in ROWS] for name in dataset.RESPONSES)
    close = {"rel": 1e-4, "abs": 1e-4}
    assert details["rho_chosen"] == pytest.approx(chosen, **close)
    assert details["rho_rejected"] == pytest.approx(rejected, **close)
    assert details["rho_selfplay"] == pytest.approx(selfplay, **close)
    margins = [0.3 * (p - m) for p, m in zip(chosen, rejected, strict=True)]
    assert details["margin"] == pytest.approx(margins, **close)
    assert details["accuracy"] == [float(margin > 0) for margin in margins]
    gaps = [0.3 * (s - (p + m) / 2) for p, m, s in zip(chosen, rejected, selfplay, strict=True)]
    assert details["critic_gap"] == pytest.approx(gaps, **close)


@pytest.mark.parametrize("method", methods.names())
def test_the_gradient_reaches_every_weight(tiny_models, data, method):
    model = tiny_models["llama"]
    losses, _ = iteration.make_objective(run(method), 1, Policy(model), data=data)(ROWS)
    gradients = torch.autograd.grad(losses.sum(), list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert not data.reference_logprobs["chosen"].requires_grad


def test_the_last_iteration_may_have_its_own_learning_rate_and_beta(tiny_models, data, rho):
    own = run(
        "dpo",
        method__beta=0.3,
        method__last_iteration_beta=5.0,
        method__learning_rate=5e-7,
        method__last_iteration_learning_rate=1e-7,
    )
    assert [iteration.peak_learning_rate(own, t) for t in (1, 2, 3)] == [5e-7, 5e-7, 1e-7]
    assert [iteration.beta(own.method_settings, t, 3) for t in (1, 2, 3)] == [0.3, 0.3, 5.0]
    losses, _ = evaluate(tiny_models, data, own, t=3)
    assert losses == pytest.approx([softplus(-5 * (rho["chosen"][i] - rho["rejected"][i])) for i in ROWS], rel=1e-4, abs=1e-5)
    same = run("dpo", method__last_iteration_beta=None, method__last_iteration_learning_rate=None, method__learning_rate=2e-5)
    assert [iteration.peak_learning_rate(same, t) for t in (1, 3)] == [2e-5, 2e-5]
    assert iteration.beta(same.method_settings, 3, 3) == same.method_settings.beta
