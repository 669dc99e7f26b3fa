"""The one form of an error."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro.documents.errors import MAX_MESSAGE_LENGTH, one_line, user_error
from spac_repro.documents.suggestions import did_you_mean


def test_the_form():
    assert str(user_error("a.yaml", "missing")) == "a.yaml: missing"
    assert str(user_error("a.yaml", "missing", line=3, key="x.y", remedy="add it")) == "a.yaml, line 3: x.y: missing; add it"


anything = st.text(max_size=1000)


@given(anything, anything, anything, anything, st.none() | st.integers(1, 10**6))
def test_any_parts_make_one_line_of_at_most_300_characters(where, problem, key, remedy, line):
    message = str(user_error(where, problem, line=line, key=key, remedy=remedy))
    assert len(message) <= MAX_MESSAGE_LENGTH
    assert message.isprintable()
    assert line is None or f", line {line}: " in message


def test_the_longest_parts_are_cut_and_the_others_stay():
    message = str(user_error("/folder" * 100 + "/mine.yaml", "unknown key", line=12, key="k" * 5000, remedy="remove it"))
    assert MAX_MESSAGE_LENGTH - 4 < len(message) <= MAX_MESSAGE_LENGTH
    assert message.startswith("/folder/folder/")
    assert "/mine.yaml, line 12: kkk" in message
    assert message.endswith("kkk: unknown key; remove it")


@pytest.mark.parametrize(
    ("text", "shown"), [("a\n b\t\tc", "a b c"), ("\x1b[31mred\x07", "[31mred"), ("a\u202eb\ud800", "ab"), (None, "None")]
)
def test_one_line(text, shown):
    assert one_line(text) == shown


def test_nothing_is_meant_by_a_name_of_thousands_of_letters():
    assert did_you_mean("epoch", ["epochs"]) == " (did you mean epochs?)"
    assert (
        did_you_mean("training.epoch", ["data.max_pairs", "training.epochs_per_iteration"])
        == " (did you mean training.epochs_per_iteration?)"
    )
    assert did_you_mean("n" * 100_000, ["n" * 100_000 + "m"]) == ""
