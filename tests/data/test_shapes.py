"""Data sets as people publish them: self-made rows of the same shape, and what must become of them."""

import csv
import io
import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from spac_repro.data import pairs, preferences
from spac_repro.data.preferences import Preference
from spac_repro.errors import UserError


def message(role, content):
    return {"role": role, "content": content}


def turn(speaker, value):
    return {"from": speaker, "value": value}


def answer(text, **more):
    return {**message("assistant", text), **more}


ASK = message("user", "Name a colour.")
SYSTEM = message("system", "Be brief.")
HH = "\n\nHuman: Name a colour.\n\nAssistant:"
LONG = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a colour.\n\nAssistant:"
HISTORY = (message("user", "Hi"), message("assistant", "Hello."), ASK)
COLOUR = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Tuesday."}

READ = {
    "plain": (COLOUR, (ASK,)),
    "HH-RLHF": ({"chosen": f"{HH} Red.", "rejected": f"{HH} Tuesday."}, (ASK,)),
    "HH-RLHF, several turns": ({"chosen": f"{LONG} Red.", "rejected": f"{LONG} Tuesday.\n"}, HISTORY),
    "HH-RLHF, prompt apart": ({**COLOUR, "prompt": LONG}, HISTORY),
    "HH-RLHF, prompt apart, responses with their space": ({"prompt": HH, "chosen": " Red.", "rejected": " Tuesday.\n"}, (ASK,)),
    "HH-RLHF, prompt apart and within": ({"prompt": HH, "chosen": f"{HH} Red.", "rejected": f"{HH} Tuesday."}, (ASK,)),
    "HH-RLHF, one speaker twice": (
        {"chosen": f"\n\nHuman: Hi.{HH} Red.", "rejected": f"\n\nHuman: Hi.{HH} Tuesday."},
        (message("user", "Hi.\n\nName a colour."),),
    ),
    "messages with scores": (
        {"chosen": [ASK, answer("Red.")], "rejected": [ASK, answer("Tuesday.")], "chosen_rating": 5.0, "rejected_rating": 1.0},
        (ASK,),
    ),
    "prompt as text, responses as messages": ({**COLOUR, "chosen": [answer("Red.")], "rejected": [answer("Tuesday.")]}, (ASK,)),
    "a response that is begun": (
        {**COLOUR, "prompt": [ASK, answer("The colour is")], "chosen": [answer("Red.")], "rejected": [answer("Tuesday.")]},
        (ASK, answer("The colour is")),
    ),
    "HH-RLHF, a response that is begun": ({**COLOUR, "prompt": f"{HH} The colour is"}, (ASK, answer("The colour is"))),
    "HH-RLHF, a response that is begun with a space": (
        {**COLOUR, "prompt": f"{HH} The colour is "},
        (ASK, answer("The colour is ")),
    ),
    "one message each": ({**COLOUR, "chosen": answer("Red."), "rejected": answer("Tuesday.")}, (ASK,)),
    "system in the messages": (
        {**COLOUR, "chosen": [SYSTEM, ASK, answer("Red.")], "rejected": [SYSTEM, ASK, answer("Tuesday.")]},
        (SYSTEM, ASK),
    ),
    "system, question": (
        {"system": "Be brief.", "question": "Name a colour.", "chosen": "Red.", "rejected": "Tuesday."},
        (SYSTEM, ASK),
    ),
    "empty system, input": (
        {"system": "", "input": "Name a colour.", "chosen": "Red.", "rejected": "Tuesday.", "rating": [9, 1]},
        (ASK,),
    ),
    "system twice": ({**COLOUR, "prompt": [SYSTEM, ASK], "system": "Be brief."}, (SYSTEM, ASK)),
    "SPIN": ({"real": [ASK, answer("Red.")], "generated": [ASK, answer("Tuesday.")]}, (ASK,)),
    "ShareGPT": (
        {
            "conversations": [turn("system", "Be brief."), turn("human", "Name a colour.")],
            "chosen": turn("gpt", "Red."),
            "rejected": turn("gpt", "Tuesday."),
        },
        (SYSTEM, ASK),
    ),
    "OpenAI": (
        {
            "input": {"messages": [ASK], "tools": [], "parallel_tool_calls": True},
            "preferred_output": [answer("Red.")],
            "non_preferred_output": [answer("Tuesday.")],
        },
        (ASK,),
    ),
    "StackExchange": (
        {"qid": 1, "question": "Name a colour.", "response_j": "Red.", "response_k": "Tuesday."},
        (ASK,),
    ),
    "content in parts": ({**COLOUR, "prompt": [message("user", [{"type": "text", "text": "Name a colour."}])]}, (ASK,)),
    "messages as JSON text": (
        {**COLOUR, "chosen": json.dumps([ASK, answer("Red.")]), "rejected": json.dumps([ASK, answer("Tuesday.")])},
        (ASK,),
    ),
    "messages as JSON text, other members first": (
        {**COLOUR, "prompt": json.dumps([{"id": 0, **ASK}]), "chosen": json.dumps([{"name": None, **answer("Red.")}])},
        (ASK,),
    ),
    "JSON text that is no list of messages": (
        {**COLOUR, "prompt": '[{"id": 1, "role": "admin"}] as CSV?'},
        (message("user", '[{"id": 1, "role": "admin"}] as CSV?'),),
    ),
    "JSON text of other objects": (
        {**COLOUR, "prompt": '[{"id": 1, "role": "admin"}]'},
        (message("user", '[{"id": 1, "role": "admin"}]'),),
    ),
    "nested null": ({**COLOUR, "tools": None, "chosen": [answer("Red.", tool_calls=None, name=None)]}, (ASK,)),
    "no tools, as JSON text": ({**COLOUR, "tools": "[]", "chosen": [answer("Red.", tool_calls="null")]}, (ASK,)),
    "nested null, filled up": (
        {
            **COLOUR,
            "tools": [{"name": None}],
            "chat_template_kwargs": {"thinking": None},
            "chosen": [answer("Red.", function_call={"name": None, "arguments": ""})],
        },
        (ASK,),
    ),
}


@pytest.mark.parametrize("shape", READ)
def test_published_shapes_are_read(tmp_path, shape):
    row, prompt = READ[shape]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    reading = preferences.read(str(path))
    assert reading.preferences == [Preference(prompt, "Red.", "Tuesday.")]
    assert list(reading.summary.messages()) == []
    assert reading.summary.recorded() == {}


@pytest.mark.parametrize("shape", [name for name, (row, _) in READ.items() if not isinstance(row.get("chosen"), dict)])
def test_published_shapes_are_read_from_parquet(tmp_path, shape):
    row, prompt = READ[shape]
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert preferences.read_preferences(str(path)) == [Preference(prompt, "Red.", "Tuesday.")]


@pytest.mark.parametrize("shape", ["system, question", "ShareGPT", "OpenAI", "SPIN", "HH-RLHF"])
def test_published_shapes_are_read_from_a_saved_data_set(tmp_path, shape):
    import datasets

    row, prompt = READ[shape]
    datasets.Dataset.from_list([{**row, "score": 1}]).save_to_disk(tmp_path / "saved")
    reading = preferences.read(str(tmp_path / "saved"))
    assert reading.preferences == [Preference(prompt, "Red.", "Tuesday.")]
    assert reading.summary.ignored_columns == ("score",)


TOOL_CALL = [{"type": "function", "function": {"name": "w", "arguments": {}}}]
REFUSED = {
    "other columns": ({"prompt": "x", "answers": []}, "lacks the field chosen; the fields there: prompt, answers;"),
    "history": ({"history": "x", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "the fields there: history, human_ref_A"),
    "two prompts": ({"instruction": "x", "input": "y", "chosen": "a", "rejected": "b"}, "both input and instruction may hold"),
    "tools": ({**COLOUR, "tools": TOOL_CALL}, "the column tools would change the prompt, and is not rendered"),
    "tools of OpenAI": (
        {"input": {"messages": [ASK], "tools": TOOL_CALL}, "preferred_output": "a", "non_preferred_output": "b"},
        "input: has tools",
    ),
    "tool calls": ({**COLOUR, "chosen": [{"role": "assistant", "content": None, "tool_calls": TOOL_CALL}]}, "has tool_calls"),
    "no common prefix": ({"chosen": f"{HH} Red.", "rejected": "\n\nHuman: Other.\n\nAssistant: Blue."}, "share no beginning"),
    "system in one": ({"chosen": [SYSTEM, ASK, answer("Red.")], "rejected": [ASK, answer("Blue.")]}, "share no beginning"),
    "one dialogue": ({"chosen": f"{HH} Red.", "rejected": "Tuesday."}, "the responses are no dialogues that begin with one"),
    "no prompt": ({"chosen": "The sky is blue.", "rejected": "The sky is green."}, "the responses are no dialogues"),
    "user last": ({"chosen": f"{LONG} Red.\n\nHuman: Thanks.", "rejected": f"{LONG} Blue."}, "the last message must be the assist"),
    "other system": ({**COLOUR, "prompt": [SYSTEM, ASK], "system": "Be long."}, "system: the prompt has another system message"),
    "system is a list": ({**COLOUR, "system": [1]}, "system: must be text, found a list"),
    "several turns to rate": (
        {**COLOUR, "chosen": [answer("Red."), ASK, answer("Blue.")], "rejected": [answer("Tue."), ASK, answer("Fri.")]},
        "share no beginning",
    ),
    "assistant twice": (
        {"chosen": [ASK, answer("Hm."), answer("Red.")], "rejected": [ASK, answer("Hm."), answer("Blue.")]},
        "chosen: ends in two messages of the assistant; join them",
    ),
    "developer": ({**COLOUR, "prompt": [message("developer", "Be brief."), ASK]}, "found developer, user"),
    "image": (
        {**COLOUR, "prompt": [message("user", [{"type": "image_url"}])]},
        "part 1: must be an object of type text, found image_u",
    ),
    "Python notation": ({**COLOUR, "chosen": str([ASK, answer("Red.")])}, "the text of a list of messages, but not as JSON"),
    "deep JSON text": ({**COLOUR, "chosen": '[{"role":' * 5000}, "the text of a list of messages, but not as JSON"),
    "numbers": ({**COLOUR, "chosen": 4}, "chosen: must be text or a list of messages, found a number"),
    "a list": ([COLOUR], "found a list; name a file that holds one list .json"),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_other_shapes_are_refused_in_one_line(tmp_path, shape):
    row, words = REFUSED[shape]
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(COLOUR) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(UserError) as caught:
        preferences.read(str(path))
    error = str(caught.value)
    assert error.startswith(f"{path}, line 2: ")
    assert words in error
    assert "\n" not in error
    assert len(error.removeprefix(str(path))) < 260


DROPPED = [
    ({"prompt": "x", "chosen": "a", "rejected": "a"}, pairs.EQUAL),
    ({"prompt": "x", "chosen": [ASK, answer("Red.")], "rejected": [ASK, answer("Red.")]}, None),  # x is not asked
    ({"chosen": [ASK, answer("Red.")], "rejected": [ASK, answer("Red.")]}, pairs.EQUAL),
    ({"chosen": f"{HH} Red.", "rejected": f"{HH}  Red.\n"}, pairs.EQUAL),
    ({"prompt": "x", "chosen": "Red.", "rejected": "Red. "}, pairs.EQUAL_BUT_ENDS),
    ({"prompt": "x", "chosen": "if x:\n  y", "rejected": "if x:\n    y"}, ""),  # white space within is text
    ({"prompt": "x", "chosen": "", "rejected": "b"}, pairs.EMPTY),
    ({"prompt": "x", "chosen": "a", "rejected": " \n"}, pairs.EMPTY),
    ({"prompt": "x", "chosen": "a", "rejected": None}, pairs.EMPTY),
    ({"prompt": "x", "chosen": "a", "rejected": []}, pairs.EMPTY),
    ({"prompt": "x", "chosen": "a", "rejected": [{"role": "assistant", "content": None}]}, pairs.EMPTY),
    ({"chosen": f"{HH} Red.", "rejected": f"{HH}"}, pairs.EMPTY),
    ({"chosen": f"{LONG} Red.", "rejected": f"{LONG} Blue.\n\nHuman: Why?\n\nAssistant: Because."}, pairs.PARTED),
]


@pytest.mark.parametrize(("row", "reason"), DROPPED)
def test_a_row_that_states_no_preference_is_dropped_counted_and_refused_by_strict(tmp_path, row, reason):
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in (COLOUR, row, COLOUR, row)))
    if reason is None:
        with pytest.raises(UserError, match="line 2: prompt: is not a user message of chosen"):
            preferences.read(str(path))
        return
    summary = preferences.read(str(path)).summary
    if not reason:
        assert (summary.kept, summary.dropped) == (4, {})
        return
    assert summary.kept == 2
    assert summary.recorded() == {"rows_kept": 2, "rows_dropped": {reason: {"rows": 2, "first_row": 2}}}
    assert list(summary.messages()) == [f"2 of 4 rows dropped: {reason} (first: {path}, line 2)"]
    with pytest.raises(UserError, match=f"line 2: {reason}, which states no preference; remove the row"):
        preferences.read(str(path), strict=True)
    path.write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"no preference pair is left: .* \(1 rows\)"):
        preferences.read(str(path))


def test_dropping_rows_does_not_change_the_identity_of_those_that_are_kept(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(COLOUR))
    clean = preferences.fingerprint(preferences.read_preferences(str(path)))
    path.write_text(json.dumps({**COLOUR, "chosen": "Tuesday."}) + "\n" + json.dumps(COLOUR))
    assert preferences.fingerprint(preferences.read_preferences(str(path))) == clean


def test_columns_are_listed_and_those_that_may_belong_to_the_prompt_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**COLOUR, "score": 1, "context": "c", "instruction": "i", "messages": []}))
    summary = preferences.read(str(path)).summary
    assert summary.read_columns == ("prompt", "chosen", "rejected")
    assert summary.ignored_columns == ("score", "context", "instruction", "messages")
    assert [line.split(" is not read")[0] for line in summary.messages()] == ["the column context", "the column instruction"]


@pytest.mark.parametrize("name", ["System", "system_message", "Tools", "Instruction"])
def test_another_spelling_of_a_column_that_changes_the_prompt_is_named(tmp_path, name):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({**COLOUR, name: "Be brief.", "Score": 1}))
    assert preferences.read(str(path)).summary.ignored_prompt_columns == (name,)


# HH-RLHF's text: whatever the turns, the last one is the response and the rest the prompt.

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: text.strip() and "Human" not in text and "Assistant" not in text
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(words, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2), chosen=words, rejected=words)
def test_a_text_dialogue_is_the_list_of_its_turns(tmp_path, turns, chosen, rejected):
    speakers = ["Human", "Assistant"] * 3
    history = "".join(f"\n\n{speaker}: {turn}" for speaker, turn in zip(speakers, turns, strict=False))
    row = {"chosen": f"{history}\n\nAssistant: {chosen}", "rejected": f"{history}\n\nAssistant: {rejected}"}
    prompt = tuple(message("assistant" if i % 2 else "user", turn.strip()) for i, turn in enumerate(turns))
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    if chosen.strip() == rejected.strip():
        return
    expected = Preference(prompt, chosen.strip(), rejected.strip())
    assert preferences.read_preferences(str(tmp_path / "a.jsonl")) == [expected]


# Tables

cells = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(rows=[("a\n\ufeffb", "c", "d"), ("\ufeff", "c", "d")], kind="csv", ends="\n", bom=True)
@given(
    rows=st.lists(st.tuples(cells, cells, cells).filter(lambda row: row[1].strip() not in ("", row[2].strip()) and row[2].strip())),
    kind=st.sampled_from(["csv", "tsv"]),
    ends=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_a_table_holds_what_was_written(tmp_path, rows, kind, ends, bom):
    file = io.StringIO(newline="")
    # The writer puts a lone carriage return into quotes only if it is told to.
    table = csv.writer(file, delimiter="\t" if kind == "tsv" else ",", lineterminator=ends, quoting=csv.QUOTE_ALL)
    table.writerows([("prompt", "chosen", "rejected"), ("NA", "4", "null"), *rows])
    path = tmp_path / f"a.{kind}"
    path.write_bytes(file.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    expected = [Preference((message("user", row[0]),), row[1], row[2]) for row in (("NA", "4", "null"), *rows)]
    assert preferences.read_preferences(str(path)) == expected


def test_joined_json_lines_may_each_begin_with_a_byte_order_mark(tmp_path):
    line = b"\xef\xbb\xbf" + json.dumps(COLOUR).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(line + line + b"\xef\xbb\xbf\n")
    assert len(preferences.read_preferences(str(tmp_path / "a.jsonl"))) == 2


def test_empty_lines_above_a_table_s_header_are_no_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n\nprompt,chosen,rejected\nName a colour.,Red.,Tuesday.\n")
    assert preferences.read_preferences(str(path)) == [Preference((ASK,), "Red.", "Tuesday.")]
    path.write_text("\n\nprompt,chosen\nName a colour.,Red.\n")
    with pytest.raises(UserError, match="line 3: lacks the field rejected"):
        preferences.read(str(path))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("text,label\na,b\n", ", line 1: lacks the field chosen; the fields there: text, label;"),
        ("prompt;chosen;rejected\na;b;c\n", ", line 1: lacks the field chosen; the fields there: prompt;chosen;rejected;"),
        ("prompt,chosen,chosen\na,b,c\n", ", line 1: the column chosen occurs twice"),
        ('prompt,chosen,rejected\n"a\nb",c,d\n\ne,f\n', ", line 5: has 2 cells, and the header 3"),
        ('prompt,chosen,rejected\na,b,"c\n', "no well-formed table"),
        ("prompt,chosen,rejected\n", ": is empty"),
        (",".join(map(str, range(10_001))) + "\n", ", line 1: 10,001 columns; check that this is the right file"),
        ("\n", ": is empty"),
        ("prompt,chosen,rejected\ra,b,c\r", ", line 1: no well-formed table (a carriage return alone ends no line); save it with"),
        ("prompt,chosen,rejected\na,b,b\n", ": no preference pair is left: chosen and rejected are equal (1 rows)"),
        (b"\xff\xfep\x00", ", line 1: not UTF-8 at byte 0"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path, table, words):
    path = tmp_path / "a.csv"
    path.write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(UserError) as caught:
        preferences.read(str(path))
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# The shared files. Each is read, or refused with these words.

HELD = {
    "array_in_jsonl.jsonl": "found a list; name a file that holds one list .json",
    "assistant_first.jsonl": "found assistant, user",
    "bool.jsonl": "found true or false",
    "columns.json": "must be a list",
    "cp1252.jsonl": "line 1: not UTF-8",
    "cr_only.jsonl": "line 1: not JSON",
    "data_key.json": "must be a list",
    "developer_role.jsonl": "found developer, user",
    "dup_keys.jsonl": "chosen: occurs twice",
    "half.jsonl": "line 2: not JSON",
    "jsonl_name.json": "name a file with one object a line .jsonl",
    "multi_completion.jsonl": "share no beginning",
    "nan.jsonl": "rejected: must be text",
    "nectar.jsonl": "the fields there: prompt, answers",
    "nul.jsonl": "line 2: not JSON",
    "nul_pad.jsonl": "line 2: not JSON",
    "null_col.parquet": "no preference pair is left: a response is empty",
    "numbers.jsonl": "found a number",
    "pretty.jsonl": "each line must be one JSON object",
    "safe_rlhf.jsonl": "the fields there: prompt, response_0",
    "same_ws.jsonl": "differ only in white space",
    "shp.jsonl": "the fields there: post_id, history",
    "single_quotes.jsonl": "line 1: not JSON",
    "splits": "write splits:SPLIT, one of test, train",
    "surrogate.jsonl": "unpaired surrogate",
    "system_mismatch.jsonl": "share no beginning",
    "t.arrow": "unknown file type",
    "trailing_comma.jsonl": "line 1: not JSON",
    "train_key.json": "must be a list",
    "trl_implicit_text.jsonl": "the responses are no dialogues",
    "trl_tools.jsonl": "the column tools",
    "trl_tools_null.jsonl": "has tool_calls",
    "two_users.jsonl": "found user, user",
    "uf_gen_split.jsonl": "no preference pair is left: a response is empty",
    "utf16.jsonl": "not UTF-8",
    "lfs_pointer.jsonl.gz": "git lfs pull",
}
DROP = {"equal_pair.jsonl": {pairs.EQUAL: 1}, "odd_text.jsonl": {pairs.EMPTY: 1}}


@pytest.mark.real
def test_the_shared_cases(shared: Path):
    cases = shared / "cases"
    if not cases.is_dir():
        pytest.skip(f"needs {cases}")
    paths = [*sorted((cases / "shapes").iterdir()), *sorted(cases.glob("*.jsonl*"))]
    assert len(paths) > 60
    for path in paths:
        if path.name in HELD:
            with pytest.raises(UserError) as caught:
                preferences.read(str(path))
            assert HELD[path.name] in str(caught.value)
            assert len(str(caught.value)) <= 300
            assert "\n" not in str(caught.value)
            continue
        summary = preferences.read(str(path)).summary
        assert {reason: rows.number for reason, rows in summary.dropped.items()} == DROP.get(path.name, {}), path.name
        assert summary.ignored_prompt_columns == ()
    assert len(preferences.read_preferences(f"{cases / 'shapes' / 'splits'}:train")) == 3
    system = preferences.read_preferences(str(cases / "shapes" / "system_column.jsonl"))[0]
    assert [each["role"] for each in system.prompt] == ["system", "user"]


def test_the_rows_of_the_documentation_say_the_same(tmp_path):
    page = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    rows = page.split("```json\n")[1].split("```")[0]
    (tmp_path / "a.jsonl").write_text(rows)
    assert preferences.read_preferences(str(tmp_path / "a.jsonl")) == [Preference((ASK,), "Red.", "Tuesday.")] * 8
    for reason in (pairs.EQUAL, pairs.EQUAL_BUT_ENDS, pairs.EMPTY, pairs.PARTED):
        assert f"\n| {reason} | " in page
