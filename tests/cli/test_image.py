"""`image …` and `train --in`, where no container runtime is needed."""

import pytest

from spac_repro.images import dispatch
from spac_repro.images.command import ContainerCommand, ContainerOptions
from spac_repro.images.reference import ImageReference
from spac_repro.runs import files


def test_image_run_refuses_train_and_unknown_commands(refused):
    assert "`image run` does not train; use `spac-repro train --in IMAGE …`" in refused("image", "run", "docker:x", "train")
    for words in (["shwo"], ["recipes"], ["recipes", "shwo"]):
        message = refused("image", "run", "docker:x", *words)
        assert message == f"{' '.join(words)!r} is no command of spac-repro; see `spac-repro --help`"


def test_arguments_are_checked_on_the_host(refused):
    message = refused("image", "run", "docker:x", "recipes", "show", "tiny", "--jsn")
    assert message.startswith("No such option: --jsn")
    assert message.endswith("see `spac-repro recipes show --help`")
    assert "missing does not exist, so it cannot be mounted" in refused("image", "run", "docker:x", "evaluate", "missing")
    assert "--memory lots is not a size" in refused("image", "run", "--memory", "lots", "docker:x", "theory")


def test_a_wrong_image_reference_is_refused(refused):
    for command in (["inspect", "x"], ["inspect", "x", "--licences"], ["run", "x", "theory"]):
        assert "'x' names no image" in refused("image", *command)


@pytest.fixture
def container_run(monkeypatch):
    """Record the calls of a stand-in for the container runtime, which exits with 5."""
    seen = []
    monkeypatch.setattr(dispatch, "run", lambda *given: seen.append(given) or 5)
    return seen


def test_image_run_runs_a_command_in_the_container(invoke, container_run, tmp_path):
    (tmp_path / "model").mkdir()
    done = invoke("image", "run", "--memory", "2g", "docker:x", "evaluate", "model", "--suite", "mini", "--json")
    assert done == (5, "", "")
    given = ContainerCommand(
        ("evaluate", str(tmp_path / "model"), "--suite", "mini", "--json"), (tmp_path / "model",), (tmp_path / "runs",)
    )
    assert container_run == [(ImageReference("docker", "x"), given, ContainerOptions("2g"))]


def test_train_in_runs_in_the_container(invoke, container_run, tmp_path):
    """With what lies beside the preferences, which an image would not see."""
    pairs = tmp_path / "preferences" / "train" / "pairs.jsonl"
    questions = tmp_path / "preferences" / "leaderboard"
    files.write_bytes(pairs, b"")
    questions.mkdir()
    done = invoke("train", "--recipe", "zephyr-7b", "--preferences", pairs, "--in", "apptainer:a.sif", "--network", "--until", "0")
    assert done == (5, "", "")
    [(reference, given, limits)] = container_run
    assert reference == ImageReference("apptainer", "a.sif")
    assert limits == ContainerOptions(network=True)
    assert given.outputs == (tmp_path / "runs/zephyr-7b/spac/seed-0",)
    assert set(given.inputs) == {pairs, questions}
    options = dict(zip(given.arguments[1::2], given.arguments[2::2], strict=True))
    assert given.arguments[0] == "train"
    assert options == {
        "--recipe": "zephyr-7b",
        "--preferences": str(pairs),
        "--questions": str(questions),
        "--until": "0",
        "--out": str(given.outputs[0]),
    }


def test_the_option_of_0_1_is_refused_with_its_new_name(refused):
    assert refused("image", "build", "--engine", "podman") == (
        "--engine is now called --runtime; see `spac-repro image build --help`"
    )
    assert refused("train", "--data", "questions") == "--data is now called --questions; see `spac-repro train --help`"
    assert refused("train", "--limit", "3") == "--limit is now called --max-pairs; see `spac-repro train --help`"
    assert refused("compare", "a", "b", "--seeds", "c") == "--seeds is now called --seed-run; see `spac-repro compare --help`"
    assert refused("evaluate", "model", "--engine", "podman").startswith("No such option: --engine")
