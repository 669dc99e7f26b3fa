import gzip
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spac_repro.data.contamination import measure, normalise
from spac_repro.data.preferences import read_preferences

TEXT = " ".join(f"word{i}" for i in range(20))


def brute_force(prompts, items):
    """The definition, by comparing every prompt with every item and every run with every run."""

    def words(text):
        return re.sub(r"[\W_]+", " ", text).lower().split()

    def runs(text):
        return [words(text)[i : i + 13] for i in range(len(words(text)) - 12)]

    result = {}
    for task, texts in items.items():
        exact, ngram, rows = set(), set(), set()
        for i, item in enumerate(texts):
            for j, prompt in enumerate(prompts):
                if words(item) and words(item) == words(prompt):
                    exact.add(i)
                    rows.add(j)
                if any(a == b for a in runs(item) for b in runs(prompt)):
                    ngram.add(i)
                    rows.add(j)
        result[task] = (len(texts), len(exact), len(ngram), tuple(sorted(exact | ngram)), tuple(sorted(rows)))
    return result


def as_tuples(contamination):
    return {name: (t.items, t.exact, t.ngram, t.item_indexes, t.row_indexes) for name, t in contamination.tasks.items()}


# Two words only, so that runs of 13 do coincide; separators that normalisation must ignore.
texts = st.lists(st.sampled_from(["a", "B", "a.", " B,", "\n", "_"]), max_size=18).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(prompts=st.lists(texts, max_size=5), items=st.dictionaries(st.sampled_from("xyz"), st.lists(texts, max_size=4)))
def test_equals_brute_force(prompts, items):
    assert as_tuples(measure(prompts, items)) == brute_force(prompts, items)


def test_equals_brute_force_on_longer_texts():
    rng = random.Random(0)

    def text():
        start = rng.randrange(200)
        return " ".join(str(i % 7 * i % 50) for i in range(start, start + rng.randrange(30)))

    prompts = [text() for _ in range(20)]
    items = {task: [text() for _ in range(12)] for task in "abc"}
    measured = as_tuples(measure(prompts, items))
    assert measured == brute_force(prompts, items)
    assert any(ngram > exact for _, exact, ngram, _, _ in measured.values())


def test_exact_after_normalisation():
    contamination = measure(["What is  2+2?", "other"], {"t": ["other thing", "WHAT IS 2 2"]}).tasks["t"]
    assert (contamination.exact, contamination.ngram, contamination.item_indexes, contamination.row_indexes) == (1, 0, (1,), (0,))
    assert contamination.note == "contaminated: 1 of 2 items"


@pytest.mark.parametrize(("shared_words", "found"), [(13, 1), (12, 0)])
def test_thirteen_words_in_a_row(shared_words, found):
    run = " ".join(TEXT.split()[:shared_words])
    assert measure([f"before {run} after"], {"t": [f"x {run} y"]}).tasks["t"].ngram == found


def test_short_item_inside_a_longer_prompt_does_not_count():
    item = " ".join(TEXT.split()[:12])
    assert measure([TEXT], {"t": [item]}).tasks["t"].item_indexes == ()
    assert measure([item], {"t": [item]}).tasks["t"].exact == 1


def test_item_of_exactly_thirteen_words_counts_both_ways():
    item = " ".join(TEXT.split()[:13])
    contamination = measure([item, TEXT], {"t": [item]}).tasks["t"]
    assert (contamination.exact, contamination.ngram, contamination.row_indexes) == (1, 1, (0, 1))


def test_texts_without_words_match_nothing():
    contamination = measure(["", "?!"], {"t": ["", "...", "a"], "none": []})
    assert contamination.tasks["t"].item_indexes == ()
    assert contamination.tasks["t"].note == ""
    assert contamination.tasks["none"].items == 0


@pytest.mark.parametrize(("left", "right"), [("STRASSE", "straße"), ("ﬁne", "fine"), ("é", "e\u0301"), ("a_b", "a b")])
def test_normalisation_unifies(left, right):
    assert normalise(left) == normalise(right)


def test_rows_are_counted_by_task():
    contamination = measure(["one", "two", "one"], {"a": ["one"], "b": ["two"]})
    assert contamination.tasks["a"].row_indexes == (0, 2)
    assert contamination.tasks["b"].row_indexes == (1,)
    assert contamination.row_indexes == (0, 1, 2)


def test_json():
    found = json.loads(json.dumps(measure(["one"], {"a": ["one", "x"]}).as_json()))
    assert found == {
        "prompts": 1,
        "ngram_words": 13,
        "tasks": {"a": {"items": 2, "exact": 1, "ngram": 0, "item_indexes": [0], "row_indexes": [0]}},
    }


@pytest.mark.real
def test_real_questions(shared: Path):
    prompts = [row.prompt[-1]["content"] for row in read_preferences(str(shared / "preferences" / "gsm8k_solutions.jsonl.gz"))]
    with gzip.open(shared / "leaderboard" / "gsm8k" / "test.jsonl.gz", "rt") as lines:
        items = [json.loads(line)["question"] for line in lines]
    apart = measure(prompts, {"gsm8k": items}).tasks["gsm8k"]
    assert (apart.items, apart.exact, apart.ngram, apart.row_indexes) == (len(items), 0, 0, ())  # disjoint by their making
    planted = measure([*prompts, items[7]], {"gsm8k": items}).tasks["gsm8k"]
    assert (planted.exact, planted.item_indexes, planted.row_indexes) == (1, (7,), (len(prompts),))
