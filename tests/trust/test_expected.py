import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spac_repro.errors import UserError
from spac_repro.runs.verdict import ScoreKey
from spac_repro.trust.expected import START, expected_path, load_expected, measured_rows
from spac_repro.trust.verification import verify

MEASURED = """\
recipe: tiny
alpha: 0.02
settings_sha256: {spac: 0123abcd}
sources:
  ours:
    kind: measured
    commit: 12ab
    lock_sha256: ff00
    hardware: 2 cores
    date: 2026-01-31
    seeds: [1, 2, 3]
    command: make measure
  paper: {kind: published, citation: Somebody 2024}
  table: {kind: not transcribed, citation: Somebody else}
rows:
- {source: ours, method: spac, iteration: 3, task: gold, metric: reward, value: 0.79, seeds: 3, sd: 0.01}
- {source: paper, method: dpo, iteration: 1, task: arc, metric: acc, value: 0.6, tolerance: {value: 0.02, argument: because}}
- {source: paper, method: spin, iteration: 1, task: arc, metric: acc, value: 0.6,
   borrowed: {sd: 0.01, degrees_of_freedom: 2, argument: because}}
- {source: table, method: spac, iteration: 1, task: arc, metric: acc, primary: true}
observations:
- {source: paper, method: start, iteration: 0, weights: same, scores: {arc: 0.5}}
"""


def one_line_error(tmp_path, text):
    path = tmp_path / "expected.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_expected(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


def test_loads_and_round_trips(tmp_path):
    path = tmp_path / "expected.yaml"
    path.write_text(MEASURED)
    expected = load_expected(path)
    assert [expected.source_kind(row) for row in expected.rows] == ["measured", "published", "published", "not transcribed"]
    assert expected.settings_sha256 == {"spac": "0123abcd"}
    path.write_text(expected.as_yaml())
    assert load_expected(path) == expected


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("recipe: tiny", "recipe: [tiny", ", line 2: recipe: not YAML"),
        ("recipe: tiny", "recipe: tiny\nx: 1", ", line 2: x: unknown key"),
        ("alpha: 0.02", "alfa: 0.02", "alfa: unknown key (did you mean alpha?)"),
        ("alpha: 0.02", "alpha: 1.5", ", line 2: alpha: Input should be less than 1"),
        ("method: spac", "methd: spac", ", line 16: rows.0.methd: unknown key (did you mean method?)"),
        ("    command: make", "    comand: make", "sources.ours.comand: unknown key (did you mean command?)"),
        ("citation: Somebody 2024", "citatoin: x", "sources.paper.citatoin: unknown key (did you mean citation?)"),
        ("tolerance: {value: 0.02", "tolerance: {valu: 0.02", "rows.1.tolerance.valu: unknown key (did you mean value?)"),
        ("{sd: 0.01, deg", "{sdd: 0.01, deg", "rows.2.borrowed.sdd: unknown key (did you mean sd?)"),
        ("kind: measured", "kind: measurd", ", line 5: sources.ours: "),
        ("    commit: 12ab\n", "", "sources.ours.commit: missing"),
        ("source: ours, ", "", ", line 16: rows.0.source: missing"),
        ("source: ours", "source: our", "rows.0.source: unknown source 'our' (did you mean ours?)"),
        ("seeds: 3, sd: 0.01", "seeds: 3, sd: -0.01", ", line 16: rows.0.sd: Input should be greater than or equal to 0"),
        ("value: 0.79, seeds: 3", "value: 0.79, seeds: 2", ", line 16: rows.0.seeds: Input should be greater than or"),
        ("seeds: [1, 2, 3]", "seeds: [1, 2]", ", line 11: sources.ours.seeds: at least 3 different seeds are needed"),
        ("seeds: [1, 2, 3]", "seeds: [1, 2, 2]", "at least 3 different seeds"),
        ("seeds: [1, 2, 3]", "seeds: [0, 1, 2]", "none of them 0, which is kept for fresh runs"),
        ("seeds: [1, 2, 3]", "seeds: []", "at least 3 different seeds"),
        ("seeds: [1, 2, 3]", "seeds: [1, 2, 3, 4]", "seeds is 3, and its source 'ours' lists 4"),
        ("value: 0.79", "value: .nan", ", line 16: rows.0.value: .nan is not a finite number"),
        ("value: 0.79", "value: high", "rows.0.value: Input should be a valid number"),
        ("value: 0.79, ", "", "lacks value, which a measured row must have"),
        (", sd: 0.01}", "}", "lacks sd, which a measured row must have"),
        ("sd: 0.01}", "sd: 0.01, tolerance: {value: 1, argument: x}}", "has tolerance, which a measured row cannot have"),
        ("primary: true", "value: 0.7", "has value, which a not transcribed row cannot have"),
        (", tolerance: {value: 0.02, argument: because}", "", "must have either borrowed or tolerance"),
        ("argument: because}}\n- {source: paper", "argument: ''}}\n- {source: paper", "rows.1.tolerance.argument: "),
        ("method: spin", "method: dpo", "rows.2: (dpo iteration 1 arc acc) occurs twice"),
        ("iteration: 3", "iteration: -1", "rows.0.iteration: "),
        ("2026-01-31", "someday", "sources.ours.date: "),
        ("{source: paper, method: start", "{source: papr, method: start", "observations.0.source: unknown source 'papr' (did you"),
        ("{source: paper, method: start", "{source: ours, method: start", "observations.0: its source 'ours' is not published"),
        (
            "citation: Somebody 2024}",
            "citation: Somebody 2024, protocol: curent}",
            "unknown protocol 'curent' (did you mean current?)",
        ),
        ("{arc: 0.5}", "{arcs: 0.5}", "observations.0: no row has the task 'arcs' (did you mean arc?)"),
        ("weights: same", "weights: others", "observations.0.weights: "),
        ("{arc: 0.5}}", "{arc: 0.5}}\n- {source: paper, method: start, iteration: 0, weights: own, scores: {}}", "occurs twice"),
    ],
)
def test_bad_file_is_named_with_line_and_key(tmp_path, old, new, message):
    assert old in MEASURED
    assert message in one_line_error(tmp_path, MEASURED.replace(old, new, 1))


def test_missing_empty_and_undecodable_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_expected(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_expected(tmp_path)
    assert "must hold the keys" in one_line_error(tmp_path, "")
    assert "must hold the keys" in one_line_error(tmp_path, "- a\n- b\n")
    assert "not UTF-8" in one_line_error(tmp_path, b"recipe: \xff")
    assert "tags (" in one_line_error(tmp_path, "!!python/object/apply:os.getcwd []")
    assert "nested more than 64 levels deep" in one_line_error(tmp_path, "[" * 1000)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_is_loaded_or_refused_in_one_line(tmp_path, data):
    content = yaml.safe_load(MEASURED)
    node = content
    while True:
        key = data.draw(st.sampled_from(sorted(node)) if isinstance(node, dict) else st.integers(0, len(node) - 1))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(values)
    path = tmp_path / "expected.yaml"
    path.write_text(yaml.safe_dump(content))
    try:
        load_expected(path)
    except UserError:
        one_line_error(tmp_path, path.read_text())


def test_measured_rows():
    key = ScoreKey("spac", "gold", "reward", 3)
    (row,) = measured_rows({key: [1.0, 2.0, 4.0]}, "ours", primary=lambda key: key.task == "gold", effect=0.5)
    assert (row.key, row.seeds, row.primary, row.effect) == (key, 3, True, 0.5)
    assert row.value == pytest.approx(7 / 3)
    assert row.sd == pytest.approx((((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) ** 0.5)
    for values in ([1.0, 2.0], [1.0, 2.0, float("nan")]):
        with pytest.raises(UserError, match="at least 3, all of them finite"):
            measured_rows({key: values}, "ours")


# The file that comes with the package for the 7B recipe


def test_zephyr_has_its_neighbours_and_no_number_of_the_papers_own():
    expected = load_expected(expected_path("zephyr-7b"))
    assert expected.recipe == "zephyr-7b"
    own = [row for row in expected.rows if row.method == "spac"]
    assert own
    assert all(expected.source_kind(row) == "not transcribed" and row.value is None for row in own)
    neighbours = [row for row in expected.rows if row.method != "spac"]
    assert all(expected.source_kind(row) == "published" for row in neighbours)
    assert {row.method for row in neighbours} == {START, "dpo", "spin"}


def test_zephyr_averages_are_the_means_of_their_tasks():
    expected = load_expected(expected_path("zephyr-7b"))
    by_model = {}
    for row in expected.rows:
        if row.value is not None:
            by_model.setdefault((row.method, row.iteration), {})[row.task] = row.value
    assert len(by_model) >= 6
    for scores in by_model.values():
        average = scores.pop("average")
        assert len(scores) == 6
        assert average == pytest.approx(sum(scores.values()) / 6, abs=0.0001)


def test_zephyr_start_is_told_from_the_dpo_model_and_not_from_itself():
    expected = load_expected(expected_path("zephyr-7b"))
    (start,) = (row for row in expected.rows if row.primary and row.value is not None)
    assert verify(expected, {start.key: [start.value]}).status == "verified"
    assert not verify(expected, {start.key: [start.value]}).comparisons[0].underpowered
    assert verify(expected, {start.key: [0.6131]}).status == "disagrees"


def test_zephyr_rows_that_are_not_transcribed_verify_nothing_and_say_so():
    expected = load_expected(expected_path("zephyr-7b"))
    fresh = {row.key: [0.6] for row in expected.rows if row.method == "spac"}
    verdict = verify(expected, fresh)
    assert verdict.status == "unverified"
    assert verdict.exit_code == 2
    assert "not transcribed" in verdict.reason
    assert {reason for key, reason in verdict.inapplicable if key in fresh} == {"not transcribed: verifies nothing"}


def test_zephyr_file_can_be_filled_in(tmp_path):
    """What its comments tell somebody who has the paper: give the source its kind, and each row a value and a spread."""
    content = yaml.safe_load(expected_path("zephyr-7b").read_text())
    content["sources"]["spac-paper"]["kind"] = "published"
    for row in content["rows"]:
        if row["source"] == "spac-paper":
            spread = {"sd": 0.003, "degrees_of_freedom": 2, "argument": "made up for this test"}
            row.update(value=0.7, borrowed=spread)
    path = tmp_path / "filled.yaml"
    path.write_text(yaml.safe_dump(content))
    expected = load_expected(path)
    fresh = {row.key: [row.value] for row in expected.rows if row.method == "spac"}
    assert verify(expected, fresh).status == "verified"


@pytest.mark.parametrize(
    ("place", "changes", "problem"),
    [
        ("start average", {"gain": {"value": 0.1, "sd": 0.1}}, "is of a later iterate"),
        ("spac average", {"gain": {"value": 0.1, "sd": -0.1}}, "sd"),
        ("spac gold", {"gain": {"value": 0.1, "sd": 0.1}}, "a primary row is judged by its value alone"),
        ("start average", {"humps": {"others": [], "argument": "a"}}, "others"),
        ("start average", {"humps": {"others": [{"value": 0.7, "runs": 0}], "argument": "a"}}, "runs"),
        ("start average", {"humps": {"others": [{"value": 0.7, "runs": 1}]}}, "argument"),
    ],
)
def test_gains_and_humps_are_of_secondary_rows_and_complete(tmp_path, place, changes, problem):
    content = yaml.safe_load(expected_path("tiny").read_text())
    method, task = place.split()
    rows = [
        row for row in content["rows"] if row["method"] == method and row["task"] == task and row["metric"] in ("mean", "reward")
    ]
    rows[-1].update(changes)
    path = tmp_path / "changed.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as refused:
        load_expected(path)
    assert problem in str(refused.value)
