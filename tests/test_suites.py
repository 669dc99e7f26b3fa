"""The registry of suites: names, folders of one's own, and facts that nobody reads off a name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from spac_repro import recipes, suites
from spac_repro.errors import UserError

PACKAGE = Path(suites.__file__).parent


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with one task file, of which only the place is looked at here."""
    folder = tmp_path / "my_suite"
    folder.mkdir()
    (folder / "backwards.yaml").write_text("name: backwards\n")
    return folder


def test_the_package_s_suites_have_their_facts():
    assert suites.names() == ("mini", "openllm")
    mini, openllm = suites.builtin()
    assert (mini.has_tasks, mini.uses_world, openllm.has_tasks, openllm.uses_world) == (True, True, True, False)
    assert (suites.NONE.has_tasks, suites.NONE.uses_world) == (False, False)
    for suite in suites.builtin():
        assert {*suite.task_files} == {*suite.task_files[0].parent.glob("*.yaml")}, "a task file that no entry names"
        assert suite.file_hashes() is None


def test_a_folder_is_a_suite(own):
    suite = suites.get(str(own))
    assert (suite.name, suite.task_files, suite.has_tasks, suite.uses_world) == ("my_suite", (own / "backwards.yaml",), True, False)
    (own / "another.yaml").write_text("name: another\n")
    (own / "notes.md").write_text("not a task")
    assert [file.name for file in suites.get(str(own)).task_files] == ["another.yaml", "backwards.yaml"]


def test_a_suite_of_one_s_own_is_identified_by_its_files(own):
    before = suites.get(str(own)).file_hashes()
    (own / "backwards.yaml").write_text("name: forwards\n")
    after = suites.get(str(own)).file_hashes()
    assert before is not None
    assert after is not None
    assert before.keys() == after.keys() == {"backwards.yaml"}
    assert before != after
    (own / "suite.yaml").write_text("summary: words\n")
    assert suites.get(str(own)).file_hashes() == {**after, "suite.yaml": suites.get(str(own)).file_hashes()["suite.yaml"]}


def test_suite_yaml_names_it(own):
    (own / "suite.yaml").write_text("suite: words\nsummary: about words\n")
    suite = suites.get(str(own))
    assert (suite.name, suite.summary, len(suite.task_files)) == ("words", "about words", 1)


@pytest.mark.parametrize("place", ["my_suite", "./my_suite/", "my_suite/"])
def test_settings_hold_the_name_and_no_place(own, monkeypatch, place):
    monkeypatch.chdir(own.parent)
    run = recipes.load("tiny", overrides=[f"evaluation.suite={place}"])
    assert run.settings()["evaluation"]["suite"] == "my_suite"
    assert run.recipe.evaluation.suite.task_files[0].name == "backwards.yaml"
    assert run.settings_sha256 == recipes.load("tiny", overrides=[f"evaluation.suite={own}"]).settings_sha256


@pytest.mark.parametrize(
    ("given", "about", "words"),
    [
        ("openlm", None, "unknown suite 'openlm' (did you mean openllm?); choose mini, openllm, none, or a folder of task files"),
        ("", None, "unknown suite ''"),
        (".", None, "no task files; a suite is a folder with one YAML file per task"),
        ("my_suite", "suite: mini\n", "my_suite: 'mini' is the name of another suite; write another name into suite.yaml"),
        ("my_suite", "suite: none\n", "'none' is the name of another suite"),
        ("my_suite", "siute: words\n", "suite.yaml, line 1: siute: unknown key (did you mean suite?)"),
        ("my_suite", "suite: two words\n", "suite.yaml, line 1: suite: "),
        ("my_suite", "suite: !!python/name:os.system x\n", "suite.yaml, line 1: suite: tags"),
        ("no name", "", "'no name' is not a valid suite name; write another name into suite.yaml"),
    ],
)
def test_what_is_no_suite(own, monkeypatch, given, about, words):
    monkeypatch.chdir(own.parent)
    if about is not None:
        own = own.rename(own.parent / given)
        (own / "suite.yaml").write_text(about or "summary: words\n")
    with pytest.raises(UserError) as caught:
        suites.get(given)
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_a_wrong_suite_in_a_recipe_is_named_with_its_key():
    with pytest.raises(
        UserError, match=r"--set evaluation\.suite=openlm: evaluation\.suite: unknown suite 'openlm' \(did you mean"
    ):
        recipes.load("tiny", overrides=["evaluation.suite=openlm"])
    with pytest.raises(UserError, match=r"evaluation\.suite: .*given 5"):
        recipes.load("tiny", overrides=["evaluation.suite=5"])


def test_a_suite_that_asks_the_world_needs_one():
    with pytest.raises(UserError, match=r"need `data\.source: world`"):
        recipes.load("zephyr-7b", overrides=["evaluation.suite=mini"])


def test_facts_are_at_hand_without_torch_and_harness():
    program = "import sys, spac_repro.suites as s; s.get('openllm'); print({'torch', 'lm_eval', 'datasets'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def comparisons(source: str) -> list[int]:
    """The lines on which something is compared with the name of a suite; `none` is also other things' name."""

    def of_a_suite(node: ast.Compare) -> bool:
        constants = {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}
        return bool(constants & {*suites.names()}) or (suites.NONE.name in constants and "suite" in ast.unparse(node))

    return [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Compare) and of_a_suite(node)]


def test_nobody_compares_a_suite_s_name():
    assert comparisons('x != "openllm"\nx in ("mini", y)\nsettings.suite == "none"\nbaseline == "none"\n') == [1, 2, 3]
    found = {str(file): lines for file in PACKAGE.rglob("*.py") if (lines := comparisons(file.read_text()))}
    assert found == {}
