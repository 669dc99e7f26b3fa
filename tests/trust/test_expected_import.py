"""A table of published scores, put into a file of expected results."""

import re
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spac_repro.errors import UserError
from spac_repro.trust.expected import expected_path, load_expected
from spac_repro.trust.expected_import import import_table, read_table
from spac_repro.trust.verification import verify

HEADER = "method,iteration,arc_challenge,truthfulqa_mc2,winogrande,gsm8k,hellaswag,mmlu,average\n"
TABLE = (  # made up
    HEADER
    + "n,,1172,817,1267,1319,10042,14042,\nspac,1,62.0,50.0,74.0,33.0,84.0,60.0,60.5\nspac,2,63.0,51.0,74.0,34.0,84.0,60.0,61.0\n"
)

TASKS = {row.task: row for row in load_expected(expected_path("zephyr-7b")).rows if row.method == "start"}


def put_in(folder, text=TABLE, **options):
    table, output = folder / "table.csv", folder / "expected.yaml"
    table.write_bytes(text if isinstance(text, bytes) else text.encode())
    chosen = {"citation": "Somebody 2024, Table 2", "unit": "percent", **options}
    return import_table(table, "zephyr-7b", output, **chosen), output


def refusal(folder, text=TABLE, **options):
    with pytest.raises(UserError) as caught:
        put_in(folder, text, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert not (folder / "expected.yaml").exists()
    return str(caught.value)


def test_rows_are_put_in_with_tolerances_and_decide_nothing_about_the_gain(tmp_path):
    done, output = put_in(tmp_path, protocol="v0.4.0-spin")
    assert (done.rows, done.removed, done.skipped) == (14, ("spac 3",), ())
    expected, before = load_expected(output), load_expected(expected_path("zephyr-7b"))
    rows = {(row.iteration, row.task): row for row in expected.rows if row.method == "spac"}
    assert len(rows) == 14
    assert (rows[1, "arc_challenge"].value, rows[1, "mmlu"].n, rows[2, "gsm8k"].version) == (0.62, 14042, "3.0")
    assert [key for key, row in rows.items() if row.primary] == [(2, "average")]
    source = expected.sources["spac-paper"]
    assert (source.kind, source.citation, source.protocol) == ("published", "Somebody 2024, Table 2", "v0.4.0-spin")
    assert [row for row in expected.rows if row.method != "spac"] == [row for row in before.rows if row.method != "spac"]
    assert expected.observations == before.observations
    start, last = next(row for row in expected.rows if row.primary and row.method == "start"), rows[2, "average"]
    fresh = {start.key: [start.value], last.key: [last.value]}
    assert verify(expected, fresh).status == "unverified"
    assert "the start agrees" in verify(expected, fresh).reason
    assert verify(expected, {**fresh, last.key: [0.3]}).status == "disagrees"


def test_shares_give_the_rows_that_percent_give(tmp_path):
    shares = re.sub(r"(?<=,)(\d\d)\.(\d)(?=[,\n])", r"0.\1\2", TABLE)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    _, percent = put_in(tmp_path / "a")
    _, share = put_in(tmp_path / "b", shares, unit="share")
    assert percent.read_text() == share.read_text()


def test_averages_and_n_may_be_left_out(tmp_path):
    _, output = put_in(tmp_path, re.sub(r",[^,]*\n", "\n", TABLE.replace("n,,1172,817,1267,1319,10042,14042,\n", "")))
    assert next(row.value for row in load_expected(output).rows if row.method == "spac" and row.task == "average") == 0.605


def test_a_number_is_what_a_table_prints(tmp_path):
    for wrong in ("6_2.0", "6.2e1", "６２.0", "nan", "inf", "+62.0"):
        assert f"line 3: arc_challenge: '{wrong}' is not a number" in refusal(tmp_path, TABLE.replace("62.0", wrong))


def test_one_number_without_decimals_does_not_open_the_average_to_an_error_elsewhere(tmp_path):
    """62 may be 61.5 to 62.5, a twelfth in the average of six: 0.5 there, with an error of 3 in another task, is no rounding."""
    loose = HEADER + "spac,1,62,50.00,74.00,33.00,84.00,60.00,{average}\n"
    assert put_in(tmp_path, loose.format(average="60.58"))[0].rows
    (tmp_path / "expected.yaml").unlink()
    assert "average: is 61.00, and the mean of the tasks is 60.50" in refusal(tmp_path, loose.format(average="61.00"))


def test_one_line_of_shares_among_percent_is_found(tmp_path):
    shares = "spac,2,0.63,0.51,0.74,0.34,0.84,0.60,0.61\n"
    assert "table.csv, line 4: no number is above 1" in refusal(tmp_path, "".join(TABLE.splitlines(True)[:3]) + shares)


def test_other_separators_are_explained(tmp_path):
    assert "line 1: only one column; put commas between the columns" in refusal(tmp_path, TABLE.replace(",", ";"))


def test_a_method_that_no_run_can_have_is_said(tmp_path):
    done, _ = put_in(tmp_path, TABLE.replace("spac,", "SPAC,"))
    assert done.unknown == ("SPAC (did you mean spac?)",)


def test_a_method_is_one_line(tmp_path):
    assert "no name of a method" in refusal(tmp_path, TABLE.replace("spac,1", '"sp\nac",1'))


def test_rows_that_are_there_are_not_added_twice(tmp_path):
    known = "start,0,60.41,43.73,74.19,26.76,82.85,60.92,58.14\n"
    done, _ = put_in(tmp_path, TABLE + known)
    assert (done.rows, done.skipped) == (14, ("start 0",))
    (tmp_path / "b").mkdir()
    assert "start iteration 0 arc_challenge acc_norm is 0.6041 there, from spin-paper, and 0.6141 here" in refusal(
        tmp_path / "b", TABLE + known.replace("60.41", "61.41").replace("58.14", "58.31")
    )
    assert "has all of these rows already" in refusal(tmp_path / "b", HEADER + known)


def test_a_copy_can_be_added_to_and_nothing_is_overwritten(tmp_path):
    _, output = put_in(tmp_path)
    (tmp_path / "b").mkdir()
    line = "ipo,1,62.0,50.0,74.0,33.0,84.0,60.0,60.5\n"
    done, more = put_in(tmp_path / "b", HEADER + line, base=output)
    assert done.rows == 7
    assert {row.method for row in load_expected(more).rows} >= {"spac", "ipo"}
    shutil.copy(more, tmp_path / "kept.yaml")
    with pytest.raises(UserError, match="exists; nothing is overwritten"):
        put_in(tmp_path / "b")
    assert more.read_bytes() == (tmp_path / "kept.yaml").read_bytes()
    (tmp_path / "c").mkdir()
    assert "has a source 'imported' already" in refusal(tmp_path / "c", HEADER + line.replace("ipo", "sft"), base=more)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("60.5\n", "60.7\n", "line 3: average: is 60.7, and the mean of the tasks is 60.5; a number was mistyped"),
        ("33.0,84.0", "35.0,84.0", "line 3: average: is 60.5, and the mean of the tasks is 60.8"),
        ("62.0", "620", "line 3: arc_challenge: 620 is not between 0 and 100"),
        ("62.0", "-1", "line 3: arc_challenge: -1 is not between 0 and 100"),
        ("62.0", "nan", "line 3: arc_challenge: 'nan' is not a number"),
        ("62.0", "high", "line 3: arc_challenge: 'high' is not a number"),
        ("62.0", "", "line 3: arc_challenge: '' is not a number"),
        ("1319", "1320", "line 2: gsm8k: n is 1320, and the recipe asks 1319 questions"),
        ("gsm8k", "gsm8", "line 1: unknown column 'gsm8' (did you mean gsm8k?)"),
        ("gsm8k,", "mmlu,", "line 1: the column 'mmlu' occurs twice"),
        ("spac,1,62.0,", "spac,1,", "line 3: has 8 columns, and the first line 9"),
        ("spac,2", "spac,1", "line 4: spac iteration 1 occurs twice"),
        ("spac,1", "spac,one", "line 3: iteration is 'one', not a whole number"),
        ("spac,1", "spac,0", "line 3: iteration 0 is the method 'start'"),
        ("spac,1", ",1", "line 3: no method"),
        (TABLE, HEADER, "has no scores"),
        (TABLE, "", "empty; the first line must be method,iteration,arc_challenge"),
        (TABLE, '"', "line 1: not CSV"),
        ("average", "mean", "unknown column 'mean'"),
    ],
)
def test_a_wrong_table_is_one_line(tmp_path, old, new, message):
    assert old in TABLE
    assert message in refusal(tmp_path, TABLE.replace(old, new, 1))


def test_a_missing_task_a_wrong_unit_and_no_citation(tmp_path):
    without = "\n".join(",".join(cell for i, cell in enumerate(line.split(",")) if i != 5) for line in TABLE.splitlines())
    assert "no column 'gsm8k', and an average without it cannot be checked" in refusal(tmp_path, without)
    assert "62.0 is not between 0 and 1; say --unit percent" in refusal(tmp_path, unit="share")
    shares = HEADER + "spac,1,.62,.50,.74,.33,.84,.60,.605\n"
    assert "so these look like shares; say --unit share" in refusal(tmp_path, shares)
    assert "unknown protocol 'v0.4.0' (did you mean v0.4.0-spin?)" in refusal(tmp_path, protocol="v0.4.0")
    assert "--citation is empty" in refusal(tmp_path, citation=" ")
    assert "not UTF-8" in refusal(tmp_path, b"\xff\xfe")
    with pytest.raises(UserError, match="no such file"):
        import_table(tmp_path / "none", "zephyr-7b", tmp_path / "out", citation="c", unit="share")
    with pytest.raises(UserError, match="has no expected results to add rows to"):
        import_table(tmp_path / "table.csv", "smollm2-1", tmp_path / "out", citation="c", unit="share")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200) | st.text(alphabet="spac,0123456789.\n\"';-e", max_size=200).map(lambda end: (HEADER + end).encode())
)
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, data):
    (tmp_path / "table.csv").write_bytes(data)
    try:
        lines = read_table(tmp_path / "table.csv", TASKS, "percent")
    except UserError as caught:
        error = str(caught)
    else:
        error = ""
        assert all(0 <= score <= 1 for line in lines for score in line.scores.values())
    assert "\n" not in error
    assert len(error) <= 300
