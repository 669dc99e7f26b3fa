"""What commands write never lies in a run folder; and a home folder that the shell left in an option."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from spac_repro import cli
from spac_repro.cli import output_path
from spac_repro.cli.root import app

# An option that a command writes to, and how the command is called with it: each of these would damage a run, or be lost in it.
WRITING = {
    "archive": ("archive", "run", "-o"),
    "evaluate": ("evaluate", "model", "--answers"),
    "expected import": ("expected", "import", "table.csv", "--recipe", "tiny", "--citation", "c", "--unit", "share", "-o"),
    "expected measure": ("expected", "measure", "run", "-o"),
    "export": ("export", "run", "-o"),
    "image build": ("image", "build", "apptainer", "--out"),
    "image inspect": ("image", "inspect", "apptainer:image.sif", "--sbom"),
    "prefetch": ("prefetch", "--cache"),
    "rehearse": ("rehearse", "--out"),
    "report": ("report", "run", "-o"),
    "sweep collect": ("sweep", "collect", "seeds", "--out"),
    "sweep submit": ("sweep", "submit", "seeds", "--out"),
    "theory": ("theory", "--out"),
    "train": ("train", "--out"),
}
READ = {"doctor --out"}  # it looks at the disk there


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The least that is a run folder: a manifest, and a folder of an iteration."""
    (tmp_path / "run" / "iteration-1").mkdir(parents=True)
    (tmp_path / "run" / "manifest.json").write_text("{}")
    return tmp_path / "run"


@pytest.mark.parametrize("command", WRITING)
@pytest.mark.parametrize("place", ["run/new", "run/iteration-1/policy", "link/new", "run/../run/iteration-7/policy/config.json"])
def test_nothing_is_written_into_a_run_folder(refused: Any, run: Path, tmp_path: Path, command: str, place: str) -> None:
    (tmp_path / "link").symlink_to(run)
    message = refused(*WRITING[command], place)
    assert f"{place}: {run} is a run folder, which holds only what its run wrote; name a place outside" in message


@pytest.mark.parametrize("command", sorted(WRITING.keys() - {"train"}))
def test_nor_is_the_run_folder_itself_replaced(refused: Any, run: Path, command: str) -> None:
    assert f"run: {run} is a run folder" in refused(*WRITING[command], "run")


def options(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every option of every command, by its words."""
    for name, below in getattr(command, "commands", {}).items():
        yield from options(below, (*words, name))
    for parameter in command.params:
        if isinstance(parameter, typer.core.TyperOption):
            yield " ".join((*words, parameter.opts[0])), parameter


def test_every_option_that_names_an_output_is_checked() -> None:
    """A new command is found by its option's name or help."""
    outputs = {name: each for name, each in options(get_command(app)) if writes(each)}
    assert {name.rpartition(" ")[0] for name in outputs.keys() - READ} == {*WRITING}
    unchecked = [name for name, each in outputs.items() if each.callback is None and name not in READ]
    assert unchecked == []


def writes(option: Any) -> bool:
    """Whether an option names what is written, by its name or its help."""
    return option.opts[0] in ("--out", "--output") or any(word in option.help.lower() for word in ("write", "download to"))


def test_a_run_goes_on_in_its_own_folder(run: Path, tmp_path: Path) -> None:
    context = typer.Context(get_command(app))
    (option,) = [each for name, each in options(get_command(app)) if name == "train --out"]
    assert output_path.new_run_folder(context, option, run) == run
    assert output_path.new_run_folder(context, option, tmp_path / "new") == tmp_path / "new"
    assert output_path.new_run_folder(context, option, None) is None


def test_a_manifest_of_another_program_makes_no_run_folder(invoke: Any, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a page"}')
    assert "is a run folder" not in invoke("report", "gone", "-o", "page.html").err


# A home folder that the shell left as it is: in quotes, after `=` and after `:`


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("~", "HOME"),
        ("~/a", "HOME/a"),
        ("-o~/a", "-oHOME/a"),
        ("--out=~", "--out=HOME"),
        ("--policy=~/a", "--policy=HOME/a"),
        ("--answers=~/a b", "--answers=HOME/a b"),
        ("--in=apptainer:~/a.sif", "--in=apptainer:HOME/a.sif"),
        ("docker-archive:~/a", "docker-archive:HOME/a"),
        ("policy.name=~/a", "policy.name=HOME/a"),
        ("--set=policy.name=~/a", "--set=policy.name=HOME/a"),
        # What is no path of a home folder:
        ("data.max_pairs=~", "data.max_pairs=~"),
        ("--set=data.max_pairs=~", "--set=data.max_pairs=~"),
        ("a/~/b", "a/~/b"),
        ("./~/a", "./~/a"),
        ("--title=~5 % better", "--title=~5 % better"),
    ],
)
def test_a_home_folder_is_found_in_every_option(word: str, becomes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/of-mine")
    assert cli._with_home(word) == becomes.replace("HOME", "/of-mine")


def test_a_user_who_has_no_home_folder_is_named(refused: Any) -> None:
    for word in ("~nobody_at_all/a", "--out=~nobody_at_all/a"):
        message = refused("report", "run", word)
        assert f"{word}: there is no home folder ~nobody_at_all; write ./~nobody_at_all for a folder of that name" in message


def test_every_option_of_a_path_takes_one(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them makes a folder `~`, and each names the one that it looked for."""
    monkeypatch.setenv("HOME", "/nowhere/at/all")
    for option in ("--policy", "--recipe", "--like"):
        done = invoke("train", f"{option}=~/gone", "--until", "0", "--out", "out")
        assert done.code == 2
        assert "/nowhere/at/all/gone" in done.err, done.err
