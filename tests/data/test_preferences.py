import gzip
import hashlib
import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from spac_repro.data import row_files
from spac_repro.data.preferences import Preference, fingerprint, read_preferences
from spac_repro.errors import UnfitEnvironmentError, UserError

PAIRS = [
    Preference(({"role": "user", "content": "Copy: cat"},), "cat", "dog"),
    Preference(({"role": "user", "content": "Größe? 你好\u2028"},), " 1\n", "naïve 🎲"),
]


def message(role, content):
    return {"role": role, "content": content}


def plain(pair):
    return {"prompt": pair.prompt[0]["content"], "chosen": pair.chosen, "rejected": pair.rejected}


def conversational(pair):
    return {
        "prompt": list(pair.prompt),
        "chosen": [message("assistant", pair.chosen)],
        "rejected": [message("assistant", pair.rejected)],
    }


def implicit(pair):
    prompt = list(pair.prompt)
    return {
        "chosen": [*prompt, message("assistant", pair.chosen)],
        "rejected": [*prompt, message("assistant", pair.rejected)],
    }


def binarized(pair):
    """As the public binarized feedback data has it: the prompt as text, and again at the head of both conversations."""
    return {"prompt": pair.prompt[-1]["content"], **implicit(pair), "score_chosen": 8.0}


def write_json_lines(path, rows):
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_json(path, rows):
    data = json.dumps(rows, ensure_ascii=False).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_parquet(path, rows):
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


WRITERS = {
    "a.jsonl": write_json_lines,
    "a.jsonl.gz": write_json_lines,
    "a.json": write_json,
    "a.json.gz": write_json,
    "a.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("shape", [plain, conversational, implicit, binarized])
def test_every_format_gives_the_same_rows(tmp_path, name, shape):
    path = tmp_path / name
    WRITERS[name](path, [shape(pair) for pair in PAIRS])
    rows = read_preferences(str(path))
    assert rows == PAIRS
    assert fingerprint(rows) == fingerprint(PAIRS)
    assert read_preferences(str(path), limit=1) == PAIRS[:1]


# Lone surrogates are not text; they have their own test below.
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def preferences(draw):
    turns = 2 * draw(st.integers(0, 2)) + 1
    prompt = [message("user" if i % 2 == 0 else "assistant", draw(words)) for i in range(turns)]
    if draw(st.booleans()):
        prompt.insert(0, message("system", draw(words)))
    chosen = draw(words.filter(str.strip))
    return Preference(tuple(prompt), chosen, draw(words.filter(lambda text: text.strip() not in ("", chosen.strip()))))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pairs=st.lists(preferences(), min_size=1, max_size=4), shape=st.sampled_from([conversational, implicit, binarized]))
def test_round_trip(tmp_path, pairs, shape):
    for name, write in WRITERS.items():
        write(tmp_path / name, [shape(pair) for pair in pairs])
        rows = read_preferences(str(tmp_path / name))
        assert rows == pairs
        assert fingerprint(rows) == fingerprint(pairs)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300), name=st.sampled_from(list(WRITERS)), zipped=st.booleans())
def test_random_bytes_raise_only_user_errors(tmp_path, data, name, zipped):
    (tmp_path / name).write_bytes(gzip.compress(data) if zipped else data)
    one_line_error(tmp_path / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["prompt", "chosen", "rejected", "role", "content"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=json_values)
def test_any_json_value_is_read_or_refused(tmp_path, value):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(value) + "\n")
    rows_or_error(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_parquet_is_read_or_refused(tmp_path, data):
    path = tmp_path / "a.parquet"
    write_parquet(path, [conversational(pair) for pair in PAIRS * 3])
    content = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), position]))])
    rows_or_error(path)


def rows_or_error(path):
    try:
        assert len(fingerprint(read_preferences(str(path)))) == 64
    except UserError:
        one_line_error(path)


def one_line_error(source, **options):
    with pytest.raises(UserError) as caught:
        read_preferences(str(source), **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    return str(caught.value)


GOOD = plain(PAIRS[0])
USER, ASSISTANT = message("user", "u"), message("assistant", "a")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("not JSON {", "not JSON"),
        ("[1, 2]", "must be an object"),
        ({"prompt": "x", "rejected": "b"}, "lacks the field chosen; the fields there: prompt, rejected;"),
        ({"real": "b"}, "lacks the field generated; the fields there: real;"),
        ({"chosen": "a", "rejected": "b"}, "the field prompt is missing"),
        ({**GOOD, "prompt": 3}, "prompt: must be text or a list of messages, found a number"),
        ({**GOOD, "chosen": {"content": "a"}}, "chosen, message 1: role: must be text, found nothing"),
        ({**GOOD, "prompt": []}, "prompt: has no message"),
        ({**GOOD, "prompt": True}, "prompt: must be text or a list of messages, found true or false"),
        ({**GOOD, "chosen": ["a"]}, "chosen, message 1: must be an object with role and content, found text"),
        ({**GOOD, "chosen": [{"role": "assistant"}]}, "chosen, message 1: content: must be text, found nothing"),
        ({**GOOD, "chosen": [USER]}, "chosen: the last message must be the assistant's, found role 'user'"),
        ({"prompt": "x", "chosen": [USER, ASSISTANT], "rejected": [message("user", "v"), ASSISTANT]}, "different prompts"),
        ({"prompt": "x", "chosen": [USER, ASSISTANT], "rejected": "b"}, "different prompts"),
        ({"prompt": "x", "chosen": [USER, ASSISTANT], "rejected": [USER, message("assistant", "b")]}, "not a user message"),
        ({"prompt": [ASSISTANT, USER], "chosen": "a", "rejected": "b"}, "prompt: roles must be user, assistant"),
        ({"prompt": [USER, ASSISTANT, ASSISTANT], "chosen": "a", "rejected": "b"}, "found user, assistant, assistant"),
        ({"prompt": [message("system", "s")], "chosen": "a", "rejected": "b"}, "found system"),
        (
            {"prompt": [USER], "chosen": [USER, USER, ASSISTANT], "rejected": [USER, USER, message("assistant", "b")]},
            "different",
        ),
        ({**GOOD, "chosen": "\ud800"}, "unpaired surrogate"),
        ('{"prompt": ' + "1" * 5000 + "}", "an integer of 5000 digits is too large"),
        ("[" * 100_000, "nested more than 64 levels deep"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 12"),
    ],
)
def test_bad_row_is_reported_with_its_line(tmp_path, row, words):
    path = tmp_path / "a.jsonl"
    bad = row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode()
    path.write_bytes(json.dumps(GOOD).encode() + b"\n\n" + bad + b"\n")
    error = one_line_error(path)
    assert error.startswith(f"{path}, line 3: ")
    assert words in error
    assert read_preferences(str(path), limit=1) == PAIRS[:1]  # what is not asked for is not read


def test_bad_row_of_other_formats_is_reported_with_its_number(tmp_path):
    rows = [{**GOOD, "prompt": [USER]}, {**GOOD, "prompt": [ASSISTANT]}]
    for name in ("a.json", "a.parquet"):
        WRITERS[name](tmp_path / name, rows)
        assert one_line_error(tmp_path / name).startswith(f"{tmp_path / name}, row 2: prompt: roles must be user")
    write_parquet(tmp_path / "b.parquet", [{"prompt": "x", "rejected": "y"}])
    assert "row 1: lacks the field chosen; the fields there: prompt, rejected;" in one_line_error(tmp_path / "b.parquet")
    write_parquet(tmp_path / "c.parquet", [{"text": "x"}])
    assert "row 1: lacks the field chosen; the fields there: text;" in one_line_error(tmp_path / "c.parquet")


def test_bad_json_array(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n{"prompt": "x",,\n')
    assert f"{path}, line 2: not JSON" in one_line_error(path)
    write_json_lines(path, [GOOD, GOOD])
    assert "name a file with one object a line .jsonl" in one_line_error(path)
    path.write_text(json.dumps(GOOD))
    assert (
        "must be a list, found an object; the rows must be one list; name a file with one object a line .jsonl"
        in one_line_error(path)
    )


@pytest.mark.parametrize("name", WRITERS)
def test_missing_and_empty_files(tmp_path, name):
    assert "no such file or folder" in one_line_error(tmp_path / name)
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    assert "cannot be read as Parquet" in (error := one_line_error(tmp_path / name)) or "is empty" in error


def test_truncated_gzip(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    write_json_lines(path, [{**GOOD, "chosen": str(i)} for i in range(100)])
    path.write_bytes(path.read_bytes()[:-20])
    assert "a truncated or damaged gzip file" in one_line_error(path)


def test_truncated_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    write_parquet(path, [GOOD] * 100)
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read as Parquet" in one_line_error(path)


def test_folder(tmp_path):
    write_json_lines(tmp_path / "b.jsonl", [plain(PAIRS[1])])
    (tmp_path / "a").mkdir()
    write_parquet(tmp_path / "a" / "0.parquet", [plain(PAIRS[0])])
    (tmp_path / "README.md").write_text("not data")
    assert read_preferences(str(tmp_path)) == PAIRS
    (tmp_path / "empty").mkdir()
    assert "has no preference data" in one_line_error(tmp_path / "empty")
    assert "unknown file type" in one_line_error(tmp_path / "README.md")


def test_bom_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(plain(pair)).encode() for pair in PAIRS))
    assert read_preferences(str(path)) == PAIRS


def test_limit_must_be_positive(tmp_path):
    assert "limit 0" in one_line_error(tmp_path, limit=0)


def test_saved_data_set(tmp_path):
    import datasets

    data = datasets.Dataset.from_list([conversational(pair) for pair in PAIRS])
    data.save_to_disk(tmp_path / "one")
    assert read_preferences(str(tmp_path / "one")) == PAIRS
    datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "two")
    assert "has several splits; write two:SPLIT, one of test, train" in one_line_error(tmp_path / "two")
    assert read_preferences(f"{tmp_path / 'two'}:test") == PAIRS
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"")
    assert "cannot be read as a saved data set" in one_line_error(tmp_path / "one")


def test_hub_name_needs_a_revision():
    assert "name its revision" in one_line_error("owner/data")
    assert "no such file or folder" in one_line_error("folder/data.jsonl", revision="abc")


def test_unreachable_hub_is_reported_with_the_remedy(monkeypatch):
    import datasets

    def unreachable(name, **options):
        raise ConnectionError(f"Couldn't reach {name}\non the Hub")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UnfitEnvironmentError, match="to fill the cache, or name a local file") as caught:
        read_preferences("owner/data", revision="abc")
    assert "\n" not in str(caught.value)


def test_hub_data_set(monkeypatch):
    import datasets

    data = datasets.Dataset.from_list([binarized(pair) for pair in PAIRS])
    splits = datasets.DatasetDict(train_prefs=data)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: splits)
    assert read_preferences("owner/data:train_prefs", revision="abc") == PAIRS
    assert "one of train_prefs" in one_line_error("owner/data", revision="abc")

    def missing(name, revision):
        raise datasets.exceptions.DatasetNotFoundError("no such data set")

    monkeypatch.setattr(datasets, "load_dataset", missing)
    assert "the hub has no such data set or revision" in one_line_error("owner/data", revision="abc")


def test_fingerprint_depends_on_order_role_and_text():
    first, second = PAIRS
    marks = {
        fingerprint(rows)
        for rows in (
            PAIRS,
            [second, first],
            [first],
            [Preference(first.prompt, first.rejected, first.chosen), second],
            [Preference(({"role": "system", "content": "Copy: cat"},), "cat", "dog"), second],
        )
    }
    assert len(marks) == 5
    # Derived once by hand: the canonical form of a row must not drift, or old manifests stop matching.
    line = '[[["user","Copy: cat"]],"cat","dog"]\n'
    assert fingerprint([first]) == hashlib.sha256(line.encode()).hexdigest()


def test_json_lines_are_streamed(tmp_path):
    path = tmp_path / "a.jsonl"
    write_json_lines(path, [GOOD] * 3)
    rows = row_files.read(path)
    assert next(rows) == (f"{path}, line 1", GOOD, None)


@pytest.mark.real
def test_real_pairs(shared: Path):
    rows = read_preferences(str(shared / "preferences" / "gsm8k_solutions.jsonl.gz"))
    assert len(rows) == 553
    assert all(row.prompt[-1]["role"] == "user" for row in rows)


def test_an_image_column_is_refused_and_its_url_not_fetched(tmp_path, monkeypatch):
    import socket

    import datasets

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    features = datasets.Features(
        {"prompt": datasets.Image(), "chosen": datasets.Value("string"), "rejected": datasets.Value("string")}
    )
    row = {"prompt": [{"path": "http://localhost:1/x.png", "bytes": None}], "chosen": ["a"], "rejected": ["b"]}
    data = datasets.Dataset.from_dict(row, features=features)
    monkeypatch.setattr(datasets, "load_from_disk", lambda _: data)  # to save it would fetch the URL, too
    (tmp_path / "state.json").write_text("{}")
    with pytest.raises(UserError, match="column prompt holds Image, not text"):
        read_preferences(str(tmp_path))
