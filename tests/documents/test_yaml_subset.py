"""The one reader of what people write: what it reads is what JSON says, what it refuses it refuses in one line and at once."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from spac_repro.documents import yaml_subset
from spac_repro.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted([*ROOT.glob("launchers/*/*.yaml"), *ROOT.glob("spac_repro/recipes/*.yaml"), *ROOT.glob("expected_results/*.yaml")])


def read(text: str):
    return yaml_subset.parse(text, "mine.yaml").value


def refusal(text: str, **how) -> str:
    with pytest.raises(UserError) as refused:
        yaml_subset.parse(text, "mine.yaml", **how)
    message = str(refused.value)
    assert one_line(message)
    return message


def one_line(message: str) -> bool:
    return message.isprintable() and len(message) <= 300


# What is read

# Control characters are refused wherever they stand, and have their own tests.
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\t\n\r'\"\\#:-&*!|>%@{}[]"), max_size=12)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=300)
@given(trees, st.booleans(), st.sampled_from([None, 2]))
def test_a_json_document_is_read_as_json(tree, ascii_only, indent):
    text = json.dumps(tree, ensure_ascii=ascii_only, indent=indent)
    if ascii_only or not re.search("[\u2028\u2029\ufeff\ufffe\uffff]", text):  # these are written as escapes
        found = read(text)
        assert found == json.loads(text)
        assert repr(found) == repr(tree)  # 1 is not 1.0, nor True


@settings(max_examples=300)
@given(trees)
def test_what_is_written_is_read(tree):
    text = yaml_subset.dump(tree)
    assert repr(read(text)) == repr(tree)
    assert repr(yaml.safe_load(text)) == repr(tree)  # by a reader of YAML 1.1 too


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_ships_means_the_same_to_both_versions_of_yaml(file):
    assert repr(yaml_subset.read(file).value) == repr(yaml.safe_load(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # As YAML 1.2 has them; YAML 1.1 reads some of these otherwise.
        *((word, None) for word in ("", "~", "null", "Null", "NULL")),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, word) for word in ("yes", "no", "on", "off", "y", "N", "tRUE", "None", "nan", "inf", "Infinity")),
        ("7", 7),
        ("-0", 0),
        ("+12", 12),
        ("1e-4", 1e-4),
        ("2.5E+6", 2.5e6),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5e3", -500.0),
        *((word, word) for word in ("010", "0x1f", "0o17", "0b11", "1_000", "1:30", "12:30:45", "1.2.3", "1e", ".", "+", "e5")),
        ("2026-02-31", "2026-02-31"),  # no date, so none that does not exist
        ("2026-11-25T25:61:00Z", "2026-11-25T25:61:00Z"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("|\n  a\n  b\n", "a\nb\n"),
        (">-\n  a\n  b\n", "a b"),
        ('"\\ud83d\\ude00"', "😀"),  # as JSON writes it
        ('"\\/"', "/"),
        ("[1, a, null]", [1, "a", None]),
        ("{1: a, true: b, no: c, ~: d}", {"1": "a", "true": "b", "no": "c", "~": "d"}),  # keys are the words that they are
        ("? a\n: 1", {"a": 1}),
        ("'<<': 1", {"<<": 1}),
        ("9" * 300, int("9" * 300)),
        ("--- 3", 3),
        ("# nothing", None),
    ],
)
def test_what_a_scalar_means(text, value):
    found = read(text)
    assert found == value
    assert type(found) is type(value)


def test_the_mark_of_byte_order_is_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert yaml_subset.read(tmp_path / "a.yaml").value == {"a": 1, "b": 2}


# What is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x 1", "line 1: a: anchors (&) and aliases (*) are not supported; write the value out, or quote the text"),
        ("a: 1\nb: *a", "line 2: b: anchors (&) and aliases (*) are not supported"),
        ("a: [1, &x [2]]", "line 1: a.1: anchors (&)"),
        ("&x a: 1", "line 1: anchors (&)"),
        ("a: !!int 'abc'", "line 1: a: tags (!!int) are not supported; write the plain value, or quote the text"),
        ("a: !!bool maybe", "line 1: a: tags (!!bool)"),
        ("a:\n- !!timestamp x", "line 2: a.0: tags (!!timestamp)"),
        ("a: !mine {b: 1}", "line 1: a: tags (!mine)"),
        ("!!python/object/apply:os.system [exit 1]", "line 1: tags (!!python/object/apply:os.system)"),
        ("!!str a: 1", "line 1: tags (!!str)"),
        ("a:\n  <<: {b: 1}", "line 2: a: merge keys (<<) are not supported; write the values out"),
        ("%YAML 1.1\n---\na: 1", "line 1: directives (%) are not supported; remove the line"),
        ("%TAG ! tag:x,2026:\n---\na: 1", "line 1: directives (%)"),
        ("a: 1\n---\nb: 2", "line 2: a second document begins here (---); write one document per file"),
        ("a: 1\nb: 2\na: 3", "line 3: a: occurs twice, first on line 1; remove one"),
        ("a: {b: 1,\n 'b': 2}", "line 2: a.b: occurs twice, first on line 1; remove one"),
        ("1: a\n'1': b", "line 2: 1: occurs twice"),
        ("? [a]\n: 1", "line 1: a key must be a word, not a list or a mapping"),
        ("a: {[b]: 1}", "line 1: a: a key must be a word"),
        ("a: " + "9" * 5000, "line 1: a: an integer of 5000 digits is too large; write a smaller one, or quote the text"),
        ("a: .inf", "line 1: a: .inf is not a finite number; write a finite one, or quote the text"),
        ("a: [-.INF, 1]", "line 1: a.0: -.INF is not a finite number"),
        ("a: .NaN", "line 1: a: .NaN is not a finite number"),
        ("a: 1e999", "line 1: a: 1e999 is not a finite number"),
        ("a: 1.0e" + "9" * 5000, "line 1: a: 1.0e"),
        ("a: 1\nb:\n  c: [1, 2", "line 3: b.c: not YAML (expected ',' or ']', but got '<stream end>')"),
        ("a: 1\n b: 2", "line 2: not YAML (mapping values are not allowed here)"),
        ("\ta: 1", "line 1: not YAML (found character '\\t' that cannot start any token)"),
        ("a: '", "line 1: a: not YAML (found unexpected end of stream)"),
        ("a: x\0", "line 1: the character U+0000 is not allowed; remove it"),
        ("a: 1\nb: \x1b[31m", "line 2: the character U+001B is not allowed"),
        ("a: 1\r\nb: \u2028", "line 2: the character U+2028 is not allowed"),
        ("a: \ud800", "line 1: the character U+D800 is not allowed"),
        ('a: "\\ud800"', "line 1: a: an unpaired surrogate is not a character; write the whole pair"),
        ('"\\udc00\\ud800": 1', "line 1: an unpaired surrogate is not a character"),
        ('a: "\\0"', "line 1: a: the control character U+0000 is not allowed in a value; remove it"),
        ('a: "\\e[31m"', "line 1: a: the control character U+001B is not allowed in a value"),
        ('a: "\\U00110000"', "a: not YAML (an escape sequence that is not a character)"),
    ],
)
def test_what_is_not_in_the_subset_is_refused_with_its_line_and_key(text, message):
    assert message in refusal(text)


BLOCKS = "".join(" " * level + "a:\n" for level in range(70))


@pytest.mark.parametrize("deep", ["[" * 65, "[" * 100_000, '{"a": ' * 65, "- " * 65 + "1", BLOCKS])
def test_more_than_64_levels_are_refused(deep):
    assert "nested more than 64 levels deep; use fewer levels" in refusal(deep)


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a": ', "}")])
def test_64_levels_are_read(opened, closed):
    text = opened * 64 + "1" * (opened != "[") + closed * 64
    assert read(text) == json.loads(text)


def test_an_alias_bomb_is_refused_before_it_goes_off():
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for previous, name in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{name}: &{name} [{','.join(9 * [f'*{previous}'])}]\n"
    begun = time.monotonic()
    assert refusal(bomb).startswith("mine.yaml, line 1: a: anchors (&)")
    assert time.monotonic() - begun < 1


def test_names_of_thousands_of_letters_are_cut():
    long = "n" * 1000
    assert one_line(message := refusal(f"{long}:\n  {long}:\n    {long}: &x 1"))
    assert message.startswith("mine.yaml, line 3: nnn")
    assert message.endswith("are not supported; write the value out, or quote the text")
    for text in (f"{5 * long}: 1", f"a: [{5 * long}", f"a: !{5 * long} b", f"a: &{5 * long} b", f"a: *{5 * long}", f"%{5 * long}"):
        assert one_line(refusal(text))


def test_a_file_of_more_than_a_megabyte_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text("a: 1\n" * 300_000)
    with pytest.raises(UserError, match="larger than 1,048,576 bytes"):
        yaml_subset.read(path)


@pytest.mark.parametrize("many", ["- a\n", "1,", "a", "# a\n", "a ", "? ", "{", "[", "a:\n ", "'", "\\u0061", "!", ": ", "\n"])
@pytest.mark.parametrize("before", ["", "[", '"', "|\n "])
def test_the_time_that_reading_takes_does_not_grow_with_the_square_of_the_length(before, many):
    text = before + many * (20_000 // len(many))
    begun = time.process_time()
    message = ""
    try:
        yaml_subset.parse(text, "mine.yaml")
    except UserError as refused:
        message = str(refused)
    assert time.process_time() - begun < 3  # at most 0.3 s where this was written
    assert message == "" or one_line(message)


def test_a_file_that_cannot_be_read(tmp_path):
    problems = {tmp_path: "cannot be read (Is a dir", tmp_path / "none": "no such file; write one", Path("\0"): "cannot be read ("}
    for path, problem in problems.items():
        with pytest.raises(UserError, match=re.escape(problem)):
            yaml_subset.read(path, missing_file_remedy="write one")
    (tmp_path / "a.yaml").write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(UserError, match=r"a\.yaml, line 2: not UTF-8 at byte 8; save it as UTF-8"):
        yaml_subset.read(tmp_path / "a.yaml")


def test_on_a_command_line_there_are_no_lines():
    how = {"key_prefix": ("training", "epochs"), "show_lines": False}
    assert refusal("[1", **how) == (
        "mine.yaml: training.epochs: is not a value (expected ',' or ']', but got '<stream end>'); write a number, a word or null"
    )
    assert refusal("{a: *b}", **how).startswith("mine.yaml: training.epochs.a: anchors (&)")


@settings(max_examples=500)
@given(st.text(max_size=200) | st.text(":-{}[]&*!|>%@'\"\\#,?~<=\n\t ab01.e+", max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text):
    message = ""
    try:
        yaml_subset.parse(text, "mine.yaml").value  # noqa: B018
    except UserError as refused:
        message = str(refused)
    assert message == "" or one_line(message)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(data)
    message = ""
    try:
        yaml_subset.read(path)
    except UserError as refused:
        message = str(refused)
    assert message == "" or one_line(message)


# Lines


def test_every_value_has_the_line_of_its_key():
    document = yaml_subset.parse("a:\n  b: 1\n  c:\n  - x\n  - {d: 2,\n     e: 3}\n\n# note\nf: |\n  text\n", "mine.yaml")
    lines = {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "c"): 3,
        ("a", "c", 0): 4,
        ("a", "c", 1): 5,
        ("a", "c", 1, "d"): 5,
        ("a", "c", 1, "e"): 6,
        ("f",): 9,
    }
    for path, line in lines.items():
        assert str(document.error(path, "wrong")) == f"mine.yaml, line {line}: {'.'.join(map(str, path))}: wrong"
    assert str(document.error(("a", "c", 7, "x"), "missing", "add it")) == "mine.yaml, line 3: a.c.7.x: missing; add it"
    assert str(document.error(("z",), "missing")) == "mine.yaml: z: missing"
    assert str(document.error((), "wrong")) == "mine.yaml: wrong"


def test_numbers_are_known_as_they_were_written():
    document = yaml_subset.parse("a: 1.10\nb: '1.10'\nc: [007, 12e3]\nd: true", "mine.yaml")
    assert document.literal(("a",)) == "1.10"
    assert document.literal(("c", 1)) == "12e3"
    assert [document.literal(path) for path in (("b",), ("c",), ("c", 0), ("c", 2), ("d",), ("a", "b"), ())] == [None] * 7
    assert yaml_subset.parse("1e3", "--set").literal(()) == "1e3"
