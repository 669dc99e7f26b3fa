"""The one reader of JSON: what Python's reads, but for what it reads leniently, and no input that it fails at."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spac_repro.documents import strict_json
from spac_repro.errors import UserError

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


def refusal(text, kind=None, **how) -> str:
    with pytest.raises(UserError) as refused:
        strict_json.parse(text, "a.json", kind, **how)
    message = str(refused.value)
    assert message.isprintable()
    assert len(message) <= 300
    return message


@settings(max_examples=300)
@given(trees, st.booleans())
def test_it_reads_what_pythons_reader_reads(tree, ascii_only):
    text = json.dumps(tree, ensure_ascii=ascii_only, indent=1)
    assert repr(strict_json.parse(text, "a.json")) == repr(json.loads(text)) == repr(strict_json.parse(text.encode(), "a.json"))


def test_what_python_writes_for_numbers_that_are_none_is_read():
    assert repr(strict_json.parse('{"a": [NaN, Infinity, -Infinity]}', "a.json")) == "{'a': [nan, inf, -inf]}"


def test_a_mark_of_byte_order_and_any_character_are_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": "\\u0000 \\ud83d\\ude00 \xe2\x80\xa8"}')
    assert strict_json.read(tmp_path / "a.json", dict) == {"a": "\0 😀 \u2028"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.json, line 1: not JSON (Expecting value at column 1)"),
        ('{"a": 1,\n "b" 2}', "a.json, line 2: not JSON (Expecting ':' delimiter at column 6)"),
        ("[1]\n[2]", "a.json, line 2: not JSON (Extra data at column 1)"),
        ('{"a": {"b": 1, "b": 2}}', "a.json: b: occurs twice"),
        ('{"a": ' + "1" * 5000 + "}", "a.json: an integer of 5000 digits is too large"),
        ("[1e999]", "a.json: 1e999 is too large for a number"),
        ("[" * 100_000, "a.json: nested more than 64 levels deep"),
        ("[" * 66 + "]" * 66, "a.json: nested more than 64 levels deep"),
        ('{"a":' * 500 + "1" + "}" * 500, "a.json: nested more than 64 levels deep"),
        ('{"a": ["x", "\\ud800"]}', "a.json: a.1: an unpaired surrogate is not a character"),
        ('{"a": {"\\udc00": 1}}', "a.json: a: an unpaired surrogate is not a character"),
        (b'{"a":\n "\xff"}', "a.json, line 2: not UTF-8 at byte 8; save it as UTF-8"),
        ('{"' + "n" * 10_000 + '": 1, "' + "n" * 10_000 + '": 1}', "a.json: nnn"),
    ],
)
def test_what_is_refused_is_named(text, message):
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("null", dict, "must be an object, found nothing"),
        ("[]", dict, "must be an object, found a list"),
        ("{}", list, "must be a list, found an object"),
        ("3", list, "must be a list, found a number"),
        ("1e3", dict, "must be an object, found a number"),
        ("true", dict, "must be an object, found true or false"),
        ('"x"', list, "must be a list, found text"),
    ],
)
def test_another_kind_than_what_is_wanted(text, kind, message):
    assert refusal(text, kind, remedy="make it again") == f"a.json: {message}; make it again"


def test_a_line_of_many_is_named():
    assert refusal('{"a" 1}', line=7).startswith("a.json, line 7: not JSON (")
    assert refusal("[" * 100_000, line=7).startswith("a.json, line 7: nested")
    assert refusal(b"\xff", line=7).startswith("a.json, line 7: not UTF-8")
    assert refusal("1", dict, line=7).startswith("a.json, line 7: must be")


def test_a_file_that_is_not_there_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"none\.json: no such file; is it a run\?"):
        strict_json.read(tmp_path / "none.json", missing_file_remedy="is it a run?")
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    monkeypatch.setattr(strict_json, "MAX_BYTES", 8)
    with pytest.raises(UserError, match="larger than 8 bytes"):
        strict_json.read(tmp_path / "a.json")


def test_a_key_twice_among_very_many_is_found_at_once():
    pairs = [f'"k{n}": 1' for n in range(200_000)]
    begun = time.process_time()
    assert refusal("{" + ", ".join([*pairs, pairs[-1]]) + "}") == "a.json: k199999: occurs twice"
    assert time.process_time() - begun < 5


@settings(max_examples=500)
@given(st.text(max_size=100) | st.text('{}[]",:\\u\n1234dDeE.- ntf', max_size=60) | st.binary(max_size=60))
def test_anything_is_read_or_refused_in_one_line(text):
    message = ""
    try:
        strict_json.parse(text, "a.json")
    except UserError as refused:
        message = str(refused)
    assert message == "" or (message.isprintable() and len(message) <= 300)
