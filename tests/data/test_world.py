"""The built-in world: correct responses, reward, behaviour policy, and disjoint splits."""

import math
import random
from collections import Counter
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.data import world
from spac_repro.data.world import Behaviour, World, split_of, task_of

MU = Behaviour(right=0.45, near_miss=0.30, cut_off=0.17, garbage=0.08)
SPLITS = ("train", "heldout", "leaderboard")


def make(seed: int = 1, *, mu: Behaviour = MU, scale: float = 5.0) -> World:
    return World(seed=seed, behaviour=mu, preference_scale=scale)


WORLD = make()
words = st.text(world.LETTERS, min_size=1, max_size=8)
texts = st.text(world.CHARACTERS, max_size=10)
prompts = st.builds(
    lambda split, purpose, skip: next(islice(WORLD.prompts(split, purpose), skip, None)),
    st.sampled_from(SPLITS),
    st.sampled_from("abc"),
    st.integers(0, 20),
)


# Questions and answers


@given(words)
def test_copy_reverse_and_sort(word):
    assert WORLD.correct_response(f"copy:{word}=") == word
    assert WORLD.correct_response(f"reverse:{word}=") == "".join(word[-1 - i] for i in range(len(word)))
    in_order = WORLD.correct_response(f"sort:{word}=")
    assert Counter(in_order) == Counter(word)
    assert all(a <= b for a, b in pairwise(in_order))


@given(st.integers(0, 49), st.integers(0, 9))
def test_add(first, second):
    assert WORLD.correct_response(f"add:{first}+{second}=") == str(first + second)


@given(words)
def test_choose(word):
    """The places of first and last letter, from 0 to 9, add up to 0 … 4, 5 … 9, 10 … 14 or 15 … 18."""
    middle = "abcdefghij".index(word[0]) + "abcdefghij".index(word[-1])
    assert WORLD.correct_response(f"choose:{word}=") == "AAAAABBBBBCCCCCDDDD"[middle]


@given(prompts)
def test_prompts_are_of_the_five_tasks_and_of_the_worlds_characters(prompt):
    task = task_of(prompt)
    assert task in world.TASKS
    assert prompt.endswith("=")
    assert set(prompt.removeprefix(f"{task}:")[:-1]) <= set(world.CHARACTERS)
    assert WORLD.correct_response(prompt)
    if task == "add":
        assert int(prompt[5]) + int(prompt[7]) < 10  # no carrying


# The reward


@given(prompts, texts)
def test_reward_is_1_only_for_the_correct_response(prompt, response):
    correct = WORLD.correct_response(prompt)
    assert WORLD.reward(prompt, correct) == 1
    reward = WORLD.reward(prompt, response)
    assert 0 <= reward <= 1
    assert (reward == 1) == (response == correct)
    if response != correct:
        assert reward <= 0.7


def test_rewards_computed_by_hand():
    assert WORLD.reward("copy:bhad=", "bhad") == 1
    assert WORLD.reward("copy:bhad=", "bhaj") == pytest.approx(0.7 * 3 / 4)
    assert WORLD.reward("copy:bhad=", "bh") == pytest.approx(0.7 * 2 / 4)
    assert WORLD.reward("copy:bhad=", "bhadd") == pytest.approx(0.7 * 4 / 5)
    assert WORLD.reward("copy:bhad=", "had") == 0
    assert WORLD.reward("copy:bhad=", "") == 0


# μ


@given(words | st.integers(0, 58).map(str) | st.sampled_from("ABCD"), st.integers(0, 10**6))
def test_a_near_miss_is_one_slip_away(correct, seed):
    response = world.near_miss(correct, random.Random(seed))
    assert response != correct
    assert response
    wrong = any(
        len(response) == len(correct) and response[:i] == correct[:i] and response[i + 1 :] == correct[i + 1 :]
        for i in range(len(correct))
    )
    lost = any(response == correct[:i] + correct[i + 1 :] for i in range(len(correct)))
    doubled = any(response == correct[:i] + correct[i] + correct[i:] for i in range(len(correct)))
    swapped = any(response == correct[:i] + correct[i + 1] + correct[i] + correct[i + 2 :] for i in range(len(correct) - 1))
    assert wrong or lost or doubled or swapped


@pytest.mark.parametrize(("kind", "reward"), [("right", 1.0), ("near_miss", None), ("cut_off", None), ("garbage", None)])
def test_each_kind_of_response_alone(kind, reward):
    mu = Behaviour(**{name: float(name == kind) for name in ("right", "near_miss", "cut_off", "garbage")})
    alone = make(mu=mu)
    rng = random.Random(0)
    for prompt in islice(alone.prompts("train", "a"), 300):
        response, correct = alone.sample_response(prompt, rng), alone.correct_response(prompt)
        if kind == "right":
            assert response == correct
        elif kind == "cut_off" and len(correct) > 1:
            assert 0 < len(response) < len(correct)
            assert correct.startswith(response)
        elif kind == "garbage":
            assert 1 <= len(response) <= world.WORD_LENGTH + 2
        else:
            assert response != correct


def test_the_shares_of_mu_are_the_settings():
    """Right answers: their own share, and garbage that hits by chance. 4 standard errors of 20,000 draws are 0.014."""
    rng = random.Random(0)
    prompt = "copy:bhad="
    responses = [WORLD.sample_response(prompt, rng) for _ in range(20_000)]
    assert sum(response == "bhad" for response in responses) / 20_000 == pytest.approx(0.45, abs=0.014)
    cut = sum(response in ("b", "bh") for response in responses) / 20_000  # "bha" is a near miss as well
    assert cut == pytest.approx(0.17 * 2 / 3, abs=0.014)


# Data


def test_splits_share_no_prompt():
    seen = {split: set(islice(WORLD.prompts(split, "a"), 3000)) | set(islice(WORLD.prompts(split, "b"), 3000)) for split in SPLITS}
    assert not seen["train"] & seen["heldout"]
    assert not seen["train"] & seen["leaderboard"]
    assert not seen["heldout"] & seen["leaderboard"]
    trained = {prompt for prompt, _ in WORLD.demonstrations(2000)}
    trained |= {row.prompt[0]["content"] for row in WORLD.preferences(500)}
    assert not trained & set(WORLD.heldout_prompts(300))
    assert {split_of(prompt) for prompt in trained} == {"train"}


@given(texts)
def test_split_of_is_deterministic(text):
    assert split_of(text) == split_of(text) in SPLITS


def test_the_splits_sizes():
    texts = [f"copy:{i}=" for i in range(20_000)]
    shares = Counter(map(split_of, texts))
    assert shares["train"] / 20_000 == pytest.approx(0.8, abs=0.012)
    assert shares["heldout"] / 20_000 == pytest.approx(0.1, abs=0.009)


def test_held_out_prompts_are_all_different():
    assert len(set(WORLD.heldout_prompts(400))) == 400
    assert WORLD.heldout_prompts(400)[:100] == WORLD.heldout_prompts(100)


@given(st.integers(0, 50))
def test_a_world_is_a_function_of_its_settings(seed):
    one, again, other = make(seed), make(seed), make(seed + 1)
    one.heldout_prompts(3)  # what else was asked of it before has no say
    random.random()
    assert one.demonstrations(20) == again.demonstrations(20) != other.demonstrations(20)
    assert one.preferences(10) == again.preferences(10) != other.preferences(10)
    assert one.heldout_prompts(10) == again.heldout_prompts(10) != other.heldout_prompts(10)


def test_a_larger_sample_begins_with_the_smaller_one():
    assert WORLD.preferences(50)[:20] == WORLD.preferences(20)
    assert WORLD.demonstrations(50)[:20] == WORLD.demonstrations(20)


@pytest.mark.parametrize("scale", [0.0, 5.0])
def test_labels_are_bradley_terry(scale):
    """Of the pairs with rewards r₁ > r₂ the better is chosen with probability σ(scale · (r₁ − r₂)): compare the sums."""
    judge = make(scale=scale)
    expected = agreed = variance = 0.0
    for row in judge.preferences(4000):
        assert row.chosen != row.rejected
        prompt = row.prompt[0]["content"]
        margin = judge.reward(prompt, row.chosen) - judge.reward(prompt, row.rejected)
        if margin:
            p = 1 / (1 + math.exp(-scale * abs(margin)))
            expected += p
            variance += p * (1 - p)
            agreed += margin > 0
    assert abs(agreed - expected) < 4 * math.sqrt(variance)
    assert agreed > 1000
