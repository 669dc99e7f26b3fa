import numpy as np
import pytest

from spac_repro.errors import UserError
from spac_repro.theory.instances import Instance, check_distribution, kl_divergence, long_tail, shrinking_gap
from spac_repro.theory.preference_graph import build_graph, concatenate, sample_graph


def test_coverage_has_its_closed_forms():
    instance = long_tail()
    assert instance.concentrability == pytest.approx(1 / 0.3)
    assert instance.chi_square == pytest.approx(1 / 0.3 - 1)
    assert instance.paired_concentrability == pytest.approx(np.sqrt((1 / 0.3 - 1) / 2))
    assert instance.kl_to_mu == pytest.approx(np.log(1 / 0.3))
    assert instance.suboptimality(instance.mu) == pytest.approx(0.31)
    assert instance.suboptimality(instance.comparator) == 0


def test_coverage_averages_over_prompts_and_spreads_over_ties():
    reward = np.array([[1.0, 1.0, 0.0], [0.0, 0.5, 0.2]])
    data = np.array([[0.2, 0.3, 0.5], [0.5, 0.1, 0.4]])
    instance = Instance(reward, data, np.array([0.75, 0.25]))
    assert instance.comparator.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]
    assert instance.concentrability == pytest.approx(10)
    assert instance.chi_square == pytest.approx(0.75 * (0.25 / 0.2 + 0.25 / 0.3 - 1) + 0.25 * 9)
    # χ² is the variance of the likelihood ratio under μ.
    ratio = instance.comparator / data
    variance = (data * (ratio - 1) ** 2).sum(axis=1)
    assert instance.chi_square == pytest.approx(float(instance.prompts @ variance))


def test_an_uncovered_comparator_has_infinite_coverage():
    instance = Instance(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), np.ones(1))
    assert instance.concentrability == instance.chi_square == instance.kl_to_mu == np.inf
    assert kl_divergence(np.array([[0.0, 1.0]]), instance.mu, instance.prompts) == 0


def test_the_shrinking_gap_is_2_over_root_n():
    reward = shrinking_gap(400).reward[0]
    assert reward[0] - reward[1] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("values", "words"),
    [([0.5, 0.4], "sums to 0.9"), ([1.5, -0.5], "negative"), ([np.nan, 1.0], "not finite"), ([], "empty")],
)
def test_what_is_no_distribution_is_refused(values, words):
    with pytest.raises(UserError, match=words):
        check_distribution(values, "mu (μ)")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reward": np.array([[2.0, 0.0]])}, "reward"),
        ({"reward": np.array([1.0, 0.0])}, "axes"),
        ({"mu": np.array([[0.5, 0.25, 0.25]])}, "shape"),
        ({"prompts": np.array([0.5, 0.5])}, "prompts"),
        ({"scale": -1.0}, "scale"),
        ({"slack": 0.5}, "slack"),
    ],
)
def test_a_wrong_instance_is_refused(change, words):
    good = {"reward": np.array([[1.0, 0.0]]), "mu": np.array([[0.5, 0.5]]), "prompts": np.ones(1)}
    with pytest.raises(UserError, match=words):
        Instance(**{**good, **change})


def test_labels_follow_bradley_terry_and_responses_follow_the_data():
    instance = Instance(np.array([[1.0, 0.5]]), np.array([[0.3, 0.7]]), np.ones(1))
    data = sample_graph(instance, 100_000, seed=1)
    assert data.empirical == pytest.approx([0.3, 0.7], abs=0.005)
    assert data.wins[0] / (data.wins[0] + data.losses[0]) == pytest.approx(1 / (1 + np.exp(-1.5)), abs=0.01)
    assert data.wins.sum() + data.losses.sum() == pytest.approx(100_000 * 0.42, rel=0.02)


def test_a_draw_is_a_function_of_its_seed():
    first, again, other = (sample_graph(long_tail(), 50, seed) for seed in (1, 1, 2))
    assert (first.counts == again.counts).all()
    assert (first.wins == again.wins).all()
    assert not np.array_equal(first.counts, other.counts)


def test_graphs_count_every_pair_once():
    x, chosen, rejected = np.array([0, 0, 0, 1, 1]), np.array([0, 1, 0, 2, 1]), np.array([1, 0, 1, 0, 1])
    data = build_graph(x, chosen, rejected, (2, 3))
    assert data.counts.tolist() == [3, 3, 0, 1, 2, 1]
    assert (data.left.tolist(), data.right.tolist()) == ([0, 3], [1, 5])
    assert (data.wins.tolist(), data.losses.tolist()) == ([2, 0], [1, 1])
    assert data.prompt_share.tolist() == [0.6, 0.4]
    assert data.empirical.tolist() == [0.5, 0.5, 0, 0.25, 0.5, 0.25]


def test_concatenated_runs_stay_apart_and_can_be_selected():
    parts = [sample_graph(long_tail(), n, 1) for n in (20, 30, 40)]
    data = concatenate(parts)
    assert data.run.tolist() == [0, 1, 2]
    assert data.pairs.tolist() == [20, 30, 40]
    last = data.subset(np.array([False, False, True]))
    for name in ("counts", "left", "right", "wins", "losses"):
        assert (getattr(last, name) == getattr(parts[2], name)).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sample_graph(long_tail(), 0, 1), "at least one preference pair"),
        (lambda: sample_graph(long_tail(), 10, -1), "seed"),
        (lambda: concatenate([]), "runs"),
        (lambda: build_graph(np.array([0]), np.array([5]), np.array([0]), (1, 3)), "chosen"),
        (lambda: build_graph(np.array([0]), np.array([1, 2]), np.array([0]), (1, 3)), "equally many"),
        (lambda: long_tail(best=0.9, poor_mass=0.5), "masses"),
    ],
)
def test_wrong_data_are_refused(call, words):
    with pytest.raises(UserError, match=words):
        call()
