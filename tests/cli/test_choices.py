"""Names that options take: completion lists them, and a wrong one is refused with the nearest."""

import pytest

from spac_repro import methods, recipes, suites
from spac_repro.images import reference
from spac_repro.launchers.matrix import Sweep
from spac_repro.launchers.profile import Cluster
from spac_repro.runs import files
from spac_repro.theory.runner import EXPERIMENTS


@pytest.fixture
def completed(invoke, monkeypatch):
    """What a shell is offered after these words; the last of them may be a part of one."""

    def completed(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_SPAC_REPRO_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        done = invoke(*words[1:])
        assert (done.code, done.err) == (0, "")
        return done.out.split()

    return completed


def test_completion_lists_every_choice(completed):
    assert completed("spac-repro train --method ") == list(methods.names())
    assert completed("spac-repro verify --method ") == list(methods.names())
    assert completed("spac-repro evaluate model --suite ") == list(suites.names())
    assert completed("spac-repro theory --experiment ") == list(EXPERIMENTS)
    assert completed("spac-repro image build --runtime ") == list(reference.RUNTIMES)
    assert completed("spac-repro image build --variant ") == list(reference.VARIANTS)


@pytest.mark.parametrize("words", ["train --recipe", "verify --recipe", "prefetch --recipe", "data --recipe", "recipes show"])
def test_completion_lists_recipes(completed, words):
    assert completed(f"spac-repro {words} ") == recipes.names()
    assert completed(f"spac-repro {words} ti") == ["tiny"]
    assert completed(f"spac-repro {words} ./mi") == []  # a file: the shell knows those


def test_completion_lists_sweeps_and_clusters(completed, tmp_path):
    assert completed("spac-repro sweep submit ") == completed("spac-repro doctor --sweep ") == Sweep.names()
    for words in ("sweep submit seeds --cluster", "sweep retry seeds --cluster", "doctor --cluster"):
        assert completed(f"spac-repro {words} ") == Cluster.names()
    assert completed("spac-repro sweep status ") == []
    files.write_json(tmp_path / "runs" / "mine" / "sweep.json", {})
    (tmp_path / "runs" / "tiny").mkdir()
    for command in ("status", "retry", "cancel", "collect"):
        assert completed(f"spac-repro sweep {command} ") == ["mine"]


def test_completion_begins_with_the_commands(completed):
    assert {"train", "evaluate", "verify", "sweep", "image"} <= set(completed("spac-repro "))
    assert completed("spac-repro sweep c") == ["cancel", "collect"]


@pytest.mark.parametrize(
    ("arguments", "known", "near"),
    [
        (["train", "--method", "spca"], methods.names(), "spac"),
        (["verify", "--scores", "results.json", "--method", "ipoo"], methods.names(), "ipo"),
        (["theory", "--experiment", "sample"], EXPERIMENTS, "samples"),
        (["image", "build", "--runtime", "pod"], reference.RUNTIMES, "podman"),
        (["image", "build", "--variant", "cud"], reference.VARIANTS, "cuda"),
    ],
)
def test_a_wrong_choice_is_one_line_with_all_of_them_and_the_nearest(refused, arguments, known, near):
    option, given = arguments[-2:]
    command = " ".join(word for word in arguments[:-2] if word in ("train", "verify", "evaluate", "theory", "image", "build"))
    message = refused(*arguments)
    assert message == (
        f"Invalid value for '{option}': {given!r} is not one of {', '.join(known)} (did you mean {near}?); "
        f"see `spac-repro {command} --help`"
    )
    assert len(message) <= 300
