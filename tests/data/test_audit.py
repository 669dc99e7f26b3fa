"""The audit of data versus self-play: against second implementations, closed forms, and samplers with and without an artefact."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.data import audit
from spac_repro.data.audit import Codec, Sample
from spac_repro.runs.audit import Audit

# A tokenizer of words as SentencePiece has them: "▁The" with the space before it, "The" without, and single letters.
WORDS = ("The", "We", "So", "answer", "is", "Four", "Five")
LETTERS = sorted({letter for word in WORDS for letter in word})
PIECES = ["</s>", "<|im_end|>", "▁", *("▁" + word for word in WORDS), *WORDS, *LETTERS]
EOS, TURN_END = 0, 1
NUMBER = {piece: i for i, piece in enumerate(PIECES)}
FRAME = [NUMBER["▁answer"], NUMBER["▁"]]  # a prompt that ends in a lone space


def text_of(tokens) -> str:
    return "".join("" if token in (EOS, TURN_END) else PIECES[token] for token in tokens).replace("▁", " ").lstrip(" ")


def row_text(tokens) -> str:
    return "".join(PIECES[token] for token in tokens).replace("▁", " ")


def encode(text: str, first: str) -> list[int]:
    """The canonical tokens of words; the first word has `first` before it."""
    words = text.split(" ")
    return [NUMBER[first + words[0]], *(NUMBER["▁" + word] for word in words[1:])]


def codec(first: str = "", end: int = EOS, stops=(EOS,)) -> Codec:
    """A renderer that begins the data's responses with `first` and ends them with `end`."""

    def re_encode(row, response):
        return encode(text_of(response), first) + ([end] if response[-1] in stops else [])

    return Codec(re_encode, row_text, PIECES.__getitem__, stops)


def texts(generator: random.Random, n: int) -> list[str]:
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 5))) for _ in range(n)]


def prompts(n: int) -> list[list[int]]:
    return [[*(NUMBER[LETTERS[int(digit)]] for digit in f"{i:04d}"), *FRAME] for i in range(n)]


def measured(data, selfplay, coding: Codec) -> Audit:
    """The audit of rows with a prompt each."""
    return audit.measure(prompts(len(data)), {"chosen": data}, selfplay, coding)


def splits(held_out: list[bool]) -> Sample:
    return Sample(list(range(len(held_out))), [str(i) for i in range(len(held_out))], np.array(held_out, bool))


# Second implementations


def slow_accuracy(data, selfplay, held_out, encoded) -> tuple[float, list[float]]:
    """Balanced accuracy by smoothed log-odds in words, and d_i of each held-out row."""
    ours = Counter(value for value, out in zip(data, held_out, strict=True) if not out)
    theirs = Counter(value for value, out in zip(selfplay, held_out, strict=True) if not out)
    values = {*data, *selfplay, *encoded}

    def smoothed(counts: Counter, value) -> float:
        return math.log((counts[value] + 0.5) / (sum(counts.values()) + 0.5 * len(values)))

    def for_selfplay(value) -> float:
        odds = smoothed(theirs, value) - smoothed(ours, value)
        return 0.5 if abs(odds) < 1e-12 else float(odds > 0)

    rows = [i for i, out in enumerate(held_out) if out]
    right = [for_selfplay(selfplay[i]) for i in rows] + [1 - for_selfplay(data[i]) for i in rows]
    return sum(right) / len(right), [for_selfplay(selfplay[i]) - for_selfplay(encoded[i]) for i in rows]


def slow_p(differences) -> float:
    """The share of all sign flips with a sum as far from 0."""
    flipped = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(each >= abs(sum(differences)) - 1e-9 for each in flipped) / len(flipped)


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3, st.booleans(), st.booleans()), min_size=2, max_size=14))
def test_a_classifier_is_that_of_the_definition(rows):
    data, selfplay, encoded, held_out, by_rendering = map(list, zip(*rows, strict=True))
    held_out[0], held_out[1] = False, True
    found = audit.classify(data, selfplay, splits(held_out), encoded=encoded, by_rendering=np.array(by_rendering))
    accuracy, differences = slow_accuracy(data, selfplay, held_out, encoded)
    of_test = [mine for mine, out in zip(by_rendering, held_out, strict=True) if out]
    rendering = [d * mine for d, mine in zip(differences, of_test, strict=True)]
    assert found.accuracy == pytest.approx(accuracy)
    assert found.rendering == pytest.approx(sum(rendering) / len(rendering) / 2)
    assert found.rendering + found.non_canonical == pytest.approx(sum(differences) / len(differences) / 2)
    assert found.p == pytest.approx(slow_p(rendering))
    # The definition as a difference of two accuracies.
    again = audit.classify(data, encoded, splits(held_out))
    if all(selfplay[i] == encoded[i] for i, out in enumerate(held_out) if not out):  # then it is the same classifier
        assert found.rendering + found.non_canonical == pytest.approx(found.accuracy - again.accuracy)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=9))
def test_total_variation_and_what_chance_gives(pairs):
    def distance(pairs) -> float:
        ours, theirs = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
        return sum(abs(ours[v] - theirs[v]) for v in range(4)) / (2 * len(pairs))

    def swapped():
        for signs in itertools.product((False, True), repeat=len(pairs)):
            yield [pair[::-1] if swap else pair for pair, swap in zip(pairs, signs, strict=True)]

    ours, theirs = (np.array(side, np.intp) for side in zip(*pairs, strict=True))
    assert audit.total_variation(ours, theirs, 4) == pytest.approx(distance(pairs))
    chance = [distance(each) for each in swapped()]
    assert audit.total_variation_by_chance(ours, theirs, 4) == pytest.approx(sum(chance) / len(chance))


# Closed forms


@pytest.mark.parametrize("n", [1, 2, 7, 2000])
def test_p_of_differences_that_all_point_one_way(n):
    assert audit.sign_flip_p(np.ones(n)) == pytest.approx(2.0 ** (1 - n) if n < 1000 else 0, rel=1e-9, abs=1e-300)
    assert audit.sign_flip_p(np.zeros(n)) == 1
    assert audit.sign_flip_p(np.tile([1.0, -1.0], n)) == pytest.approx(1)


def test_equal_sides_are_told_apart_by_chance_alone():
    rows = [[i % 5, EOS] for i in range(400)]
    found = measured(rows, rows, Codec(lambda row, response: response, str, str, [EOS])).comparisons["chosen"]
    for each in found.classifiers.values():
        assert (each.accuracy, each.total_variation, each.total_variation_by_chance) == (0.5, 0, 0)


def test_sides_that_never_agree_are_always_told_apart():
    found = measured([[7, 8, EOS]] * 40, [[9, 9, 9, 9]] * 40, Codec(lambda row, response: response, str, str, [EOS]))
    for each in found.comparisons["chosen"].classifiers.values():
        assert (each.accuracy, each.total_variation, each.stderr) == (1, 1, 0)
        assert (each.rendering or 0.0, each.non_canonical or 0.0) == (0, 0)
    assert found.warnings() == []


def test_lengths_are_binned_at_deciles_of_the_training_rows():
    train = np.array([True] * 10 + [False] * 2)
    lengths = np.array([*range(1, 11), 100, 0])
    ours, theirs = audit.length_bins(lengths, lengths, train)
    assert ours.tolist() == theirs.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 0]
    # What is cut at the limit has a bin of its own.
    ours, theirs = audit.length_bins(np.array([5, 6, 7, 8]), np.array([8, 8, 8, 8]), np.array([True] * 4))
    assert theirs.tolist() == [max(ours)] * 4
    assert ours.tolist()[2] < ours.tolist()[3]


def test_the_sides_are_described():
    chosen, selfplay = [[3, 4, EOS], [3, EOS], [5, EOS], [3, 4, 4]], [[6] * 9] * 4
    found = measured(chosen, selfplay, Codec(lambda row, response: response, str, "token {}".format, [EOS]))
    side = found.sides["chosen"]
    assert (side.cut, side.mean_length, side.length_quantile[0.5]) == (0.25, 2.5, 2)
    assert side.first_tokens == (("token 3", 0.75), ("token 5", 0.25))
    assert (found.sides["selfplay"].cut, found.rows, found.rows_in_all, found.held_out_rows) == (1, 4, 4, 2)
    assert Audit.model_validate(found.as_json()) == found


# The sample


def test_a_prompt_is_in_one_half_and_the_halves_are_equal():
    repeated = [[i // 3] for i in range(300)]
    sample = audit.draw_sample(repeated, 1000)
    halves = {}
    for row, prompt, held_out in zip(sample.rows, sample.prompts, sample.held_out, strict=True):
        halves.setdefault((prompt, repeated[row][0]), set()).add(bool(held_out))
    assert len(halves) == 100
    assert all(len(half) == 1 for half in halves.values())
    assert abs(int(sample.held_out.sum()) - 150) <= 3
    shuffled = list(range(300))
    random.Random(0).shuffle(shuffled)
    again = audit.draw_sample([repeated[i] for i in shuffled], 1000)
    assert again.prompts == sample.prompts, "the order of the rows does not matter"


def test_many_rows_are_sampled():
    found = audit.draw_sample(prompts(5000), 4096)
    assert (len(found.rows), len(set(found.rows)), len(found.held_out)) == (4096, 4096, 4096)
    assert found.rows == audit.draw_sample(prompts(5000), 4096).rows
    assert sorted(found.rows) != list(range(4096))


@pytest.mark.parametrize("number", [0, 1])
def test_with_fewer_than_two_prompts_there_is_no_accuracy(number):
    rows = [[*encode("The answer", ""), EOS]] * number
    found = measured(rows, rows, codec())
    assert all(each.accuracy is None for each in found.comparisons.values() for each in each.classifiers.values())
    assert found.warnings() == []


def test_a_method_without_self_play_is_described_only():
    found = audit.measure(prompts(4), {"chosen": [[3, EOS]] * 4}, None, codec())
    assert (set(found.sides), found.comparisons, found.non_canonical, found.warnings()) == ({"chosen"}, {}, None, [])


# Samplers


def test_an_artefact_at_the_border_is_loud():
    """The data begin with "▁The" behind the lone "▁" of the frame, and the policy goes on with "The"."""
    generator = random.Random(0)
    data = [[*encode(text, "▁"), EOS] for text in texts(generator, 200)]
    selfplay = [[*encode(text, ""), EOS] for text in texts(generator, 200)]
    found = measured(data, selfplay, codec(first="▁"))
    first = found.comparisons["chosen"].first_token
    assert (first.accuracy, first.rendering, first.non_canonical) == (1, 0.5, 0)
    assert first.p < 1e-20
    assert (found.rewritten, found.non_canonical) == (1, 0)
    (warning,) = found.warnings()
    assert "first token classifier's accuracy 1.000, +0.500 is rendering's own" in warning
    # The same texts, rendered with what is before them: nothing is said.
    quiet = measured([[*encode(text_of(row), ""), EOS] for row in data], selfplay, codec())
    assert quiet.comparisons["chosen"].first_token.rendering == 0
    assert quiet.warnings() == []


def test_an_artefact_is_loud_where_the_content_tells_them_apart_anyway():
    data, selfplay = [[NUMBER["▁The"], EOS]] * 60, [[NUMBER["We"], EOS]] * 60
    found = measured(data, selfplay, codec(first="▁"))
    assert found.comparisons["chosen"].first_token.rendering == 0.25, "▁We is a tie for the classifier"
    assert len(found.warnings()) == 1


@pytest.mark.parametrize("seed", range(20))
def test_canonical_samples_of_the_datas_own_texts_are_quiet(seed):
    generator = random.Random(seed)
    data, selfplay = ([[*encode(text, ""), EOS] for text in texts(generator, 100)] for _ in range(2))
    found = measured(data, selfplay, codec())
    first, end, length = found.comparisons["chosen"].classifiers.values()
    assert (found.non_canonical, found.rewritten) == (0, 0)
    assert (first.rendering, first.non_canonical, first.p, end.rendering, end.p) == (0, 0, 1, 0, 1)
    assert abs(first.accuracy - 0.5) < 4.5 * first.stderr
    assert abs(length.accuracy - 0.5) < 4.5 * length.stderr


def test_content_alone_is_quiet():
    """The policy begins with other words than the data. The classifier sees that, and rendering has no share in it."""
    generator = random.Random(0)
    data = [[*encode(f"The {text}", ""), EOS] for text in texts(generator, 100)]
    selfplay = [[*encode(f"We {text}", ""), EOS] for text in texts(generator, 100)]
    found = measured(data, selfplay, codec())
    first = found.comparisons["chosen"].first_token
    assert (first.accuracy, first.rendering, first.p) == (1, 0, 1)
    assert found.warnings() == []


def test_non_canonical_sampling_is_not_called_rendering():
    """The policy spells its first word, so the classifier knows it by single letters. No renderer could change that."""
    generator = random.Random(0)
    data = [[*encode(text, ""), EOS] for text in texts(generator, 400)]
    spelt = []
    for number, text in enumerate(texts(generator, 400)):
        first, *others = text.split(" ")
        letters = [NUMBER[letter] for letter in first] if number % 2 else [NUMBER[first]]
        spelt.append([*letters, *(NUMBER["▁" + word] for word in others), EOS])
    found = measured(data, spelt, codec())
    first = found.comparisons["chosen"].first_token
    assert (found.non_canonical, found.rewritten) == (0.5, 0)
    assert (first.rendering, first.p) == (0, 1)
    assert first.accuracy > 0.7
    assert first.non_canonical > 0.1
    assert found.warnings() == []
    # Both at once: each has its own share.
    both = measured([[*encode(text_of(row), "▁"), EOS] for row in data], spelt, codec(first="▁"))
    assert len(both.warnings()) == 1


def test_another_end_or_half_a_character_is_no_other_beginning():
    """What a response ends with does not make its spelt first word an artefact of rendering."""
    generator = random.Random(0)
    data = [[*encode(text, ""), EOS] for text in texts(generator, 100)]
    spelt = [[*(NUMBER[letter] for letter in "The"), NUMBER["▁is"], TURN_END]] * 100
    found = measured(data, spelt, codec(stops=(EOS, TURN_END)))
    assert (found.non_canonical, found.rewritten) == (1, 0)
    assert (found.comparisons["chosen"].first_token.rendering, found.comparisons["chosen"].end.p < 0.01) == (0, True)
    # The limit cut the last character, which decodes to U+FFFD, and encoding leaves it out.
    half = len(PIECES)
    cut = codec()._replace(
        re_encode=lambda row, response: codec().re_encode(row, response[:-1]),
        row_text=lambda tokens: "".join("\ufffd" if token == half else row_text([token]) for token in tokens),
    )
    found = measured(data, [[*(NUMBER[letter] for letter in "The"), half]] * 100, cut)
    assert (found.non_canonical, found.rewritten, found.warnings()) == (1, 0, [])


def test_a_cut_that_reaches_less_far_is_no_other_text():
    """Single tokens that the tokenizer writes as several: encoded anew, fewer words are within the limit."""
    double = len(PIECES)  # a token that the tokenizer never writes
    sampled = [[NUMBER["The"], double, double, NUMBER["▁is"]]] * 40
    spelt = [NUMBER["The"], NUMBER["o"], NUMBER["o"], NUMBER["o"]]

    def text(tokens) -> str:
        return "".join("oo" if token == double else row_text([token]) for token in tokens)

    cut = codec()._replace(re_encode=lambda row, response: spelt, row_text=text)
    found = measured(sampled, sampled, cut)
    assert (found.non_canonical, found.rewritten) == (1, 0)
    ended = cut._replace(re_encode=lambda row, response: [*spelt, EOS])
    assert measured(sampled, [[*row, EOS] for row in sampled], ended).rewritten == 1


def test_an_end_that_the_limit_cuts_off_is_no_other_end():
    """Encoded anew, a response can become longer than the limit. Data that never end are another matter."""
    generator = random.Random(0)
    data = [[*encode(text, ""), EOS] for text in texts(generator, 200)]
    cut = [encode(text, "") for text in texts(generator, 200)]
    longer = codec()._replace(re_encode=lambda row, response: [*response[:-1], NUMBER["▁is"]])
    found = measured(cut, data, longer)
    assert found.comparisons["chosen"].end.accuracy == 1
    assert (found.comparisons["chosen"].end.rendering, found.warnings()) == (0, [])
    never = codec()._replace(re_encode=lambda row, response: response[:-1])
    assert measured(cut, data, never).comparisons["chosen"].end.rendering == 0.5


def test_a_special_token_that_the_policy_writes_is_the_policys_doing():
    """Text that looks like a special token is encoded as text. So data never have one, and encoding writes something else."""
    data = [[*encode("The answer", ""), EOS]] * 100
    selfplay = [[TURN_END, *encode("The answer", ""), EOS]] * 100
    found = measured(data, selfplay, codec()._replace(special_token_ids=(EOS, TURN_END)))
    first = found.comparisons["chosen"].first_token
    assert (first.accuracy, first.rendering, first.non_canonical) == (1, 0, 0.5)
    assert (found.non_canonical, found.rewritten) == (1, 0)
    assert measured(data, selfplay, codec()).rewritten == 1, "without that rule"


def test_a_text_that_the_tokenizer_cannot_encode_is_the_policys_doing():
    """A token may stand for a text whose letters the tokenizer does not have, as the names of the tasks of the built-in world."""
    data, selfplay = [[*encode("The answer", ""), EOS]] * 100, [[NUMBER["We"], EOS]] * 100
    unknown = codec()._replace(re_encode=lambda row, response: [TURN_END, EOS], unknown_token_id=TURN_END)
    found = measured(data, selfplay, unknown)
    first = found.comparisons["chosen"].first_token
    assert (first.rendering, first.non_canonical, found.rewritten, found.non_canonical) == (0, 0.25, 0, 1)


def test_another_end_of_a_turn_is_loud():
    """The policy ends its turns with a token, and the data end with end-of-sequence. Cut responses say nothing about it."""
    generator = random.Random(0)
    stops = (EOS, TURN_END)
    data = [[*encode(text, ""), EOS] for text in texts(generator, 200)]
    selfplay = [encode(text, "") + ([] if i % 4 == 0 else [TURN_END]) for i, text in enumerate(texts(generator, 200))]
    found = measured(data, selfplay, codec(stops=stops))
    assert found.sides["selfplay"].cut == 0.25
    end = found.comparisons["chosen"].end
    assert end.accuracy == 1
    assert end.rendering == pytest.approx(0.375, abs=0.05)
    assert [warning.split(":")[1].split(" classifier")[0] for warning in found.warnings()] == [" of the end"]
    fixed = [[*row[:-1], TURN_END] for row in data]
    assert measured(fixed, selfplay, codec(end=TURN_END, stops=stops)).warnings() == []


def test_an_end_that_is_doubled_is_loud():
    generator = random.Random(0)
    data = [[*encode(text, ""), EOS, EOS] for text in texts(generator, 100)]
    selfplay = [[*encode(text, ""), EOS] for text in texts(generator, 100)]
    coding = codec()._replace(re_encode=lambda row, response: [*response, EOS])
    assert measured(data, selfplay, coding).comparisons["chosen"].end.rendering == 0.5


def test_false_alarms_are_at_the_level():
    """Where sampled and encoded are exchangeable, p is at most α in a share α of the seeds, and in not many fewer."""
    generator = np.random.default_rng(0)
    n, seeds = 200, 2000
    p = []
    for _ in range(seeds):
        magnitude = generator.choice([0, 0.5, 1], size=n)
        p.append(audit.sign_flip_p(magnitude * generator.choice([-1, 1], size=n)))
    for level in (0.01, 0.05, 0.2):
        rate, error = float(np.mean(np.array(p) <= level)), math.sqrt(level * (1 - level) / seeds)
        assert level - 4 * error - 0.01 < rate < level + 3 * error


def test_of_a_whole_audit_too():
    """A renderer and a policy that both write a first word in either way, at random: nothing tells them apart."""
    alarms = 0
    for seed in range(200):
        generator = random.Random(seed)
        data, selfplay = ([[*encode(text, generator.choice("▁ ").strip()), EOS] for text in texts(generator, 60)] for _ in range(2))

        def re_encode(row, response, generator=generator):
            return [*encode(text_of(response), generator.choice("▁ ").strip()), EOS]

        alarms += bool(measured(data, selfplay, codec()._replace(re_encode=re_encode)).warnings())
    assert alarms <= 7  # 2 are expected at level 0.01; 8 or more have probability 0.001
