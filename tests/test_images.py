"""Images without an engine: what a command becomes inside, and what is said where something is missing."""

import socket
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import spac_repro
from spac_repro.cli.in_image import OUTSIDE
from spac_repro.cli.root import app
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.images import building, command, engine, sif
from spac_repro.images.reference import LABEL, VARIANT, Identity, Reference, check_version, parse
from spac_repro.runs import environment, files

CHECKOUT = Path(__file__).parents[1]


def inside(*words: str, out: Path) -> command.Command:
    context: Any = get_command(app).commands[words[0]].make_context(words[0], list(words[1:]))  # type: ignore[attr-defined]
    return command.command([words[0]], context.command.params, context.params, out=out, leave=OUTSIDE)


def test_references() -> None:
    assert parse("docker:spac-repro:0.1.0-cpu") == Reference("docker", "spac-repro:0.1.0-cpu")
    assert parse("apptainer:a.sif") == Reference("apptainer", "a.sif")
    assert parse(f"apptainer:a.sif@sha256:{'a' * 64}") == Reference("apptainer", "a.sif", "a" * 64)
    for bad in ("spac-repro", "docker:", "rkt:a"):
        with pytest.raises(UserError, match="names no image"):
            parse(bad)


def test_a_command_keeps_its_words_and_loses_what_is_for_outside(tmp_path: Path) -> None:
    words = ["train", "--method", "dpo", "--set", "a=1", "--set", "b=2", "--in", "docker:x", "--memory", "1g", "--json"]
    given = inside(*words, out=tmp_path / "run")
    expected = ("train", "--method", "dpo", "--set", "a=1", "--set", "b=2", "--json", "--out", str(tmp_path / "run"))
    assert sorted(given.arguments) == sorted(expected)
    assert given.reads == ()
    assert given.writes == (tmp_path / "run",)


def test_paths_become_absolute_and_are_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "questions").mkdir()
    given = inside("train", "--recipe", "mine.yaml", "--data", "questions", out=Path("run"))
    assert set(given.reads) == {tmp_path / "mine.yaml", tmp_path / "questions"}
    assert str(tmp_path / "mine.yaml") in given.arguments
    assert given.writes == (tmp_path / "run",)


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist, so it cannot be mounted"):
        inside("train", "--start-from", str(tmp_path / "none"), out=tmp_path / "run")


def test_a_folder_that_cannot_be_written_to() -> None:
    with (
        pytest.raises(UnfitEnvironmentError, match=r"cannot (make|write to)"),
        command.mounted(command.Command((), (), (Path("/sys/run"),))),
    ):
        pass


def test_folders_made_for_nothing_are_removed(tmp_path: Path) -> None:
    with command.mounted(command.Command((), (), (tmp_path / "a" / "b",))):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(UnfitEnvironmentError, match="docker is not installed"), engine.connected("docker"):
        pass
    with pytest.raises(UnfitEnvironmentError, match="apptainer is not installed"):
        sif.program()


@pytest.mark.parametrize("kind", ["docker", "podman", "apptainer"])
def test_no_engine_is_said_before_anything_is_fetched(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(building, "context", lambda *_: pytest.fail("it fetches"))
    with pytest.raises(UnfitEnvironmentError, match=f"{kind} is not installed"):
        building.build(kind, "cpu", tag=None, base=None, out=None, say=print)


def test_the_path_of_a_base_stays_out_of_a_sif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build" / "sif").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"there is no file image.tar to build from; see to --base"):
        building._origin("docker-archive:image.tar", tmp_path / "build" / "sif")
    (tmp_path / "image.tar").write_bytes(b"image")
    for _ in range(2):
        origin = building._origin("docker-archive:image.tar", tmp_path / "build" / "sif")
        assert origin == {"BOOTSTRAP": "docker-archive", "FROM": "../base.tar"}
    assert (tmp_path / "build" / "base.tar").read_bytes() == b"image"
    assert building._origin("docker://python:3.11", tmp_path) == {"BOOTSTRAP": "docker", "FROM": "python:3.11"}


def test_an_engine_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "left.sock"))
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/left.sock")
    with pytest.raises(UnfitEnvironmentError, match="podman does not answer"), engine.connected("podman"):
        pass


def test_a_sif_is_held_against_the_hash_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "a.sif"
    with pytest.raises(UserError, match="there is no file"):
        sif.inspect(parse(f"apptainer:{file}"))
    file.write_bytes(b"once")
    (tmp_path / "a.sif.sha256").write_text(f"{files.sha256_file(file)}  a.sif\n")
    file.write_bytes(b"now")
    with pytest.raises(UserError, match=r"was changed or damaged: its hash is \w+, and .*a.sif.sha256 says"):
        sif.inspect(parse(f"apptainer:{file}"))


def test_a_hash_file_with_nothing_in_it_vouches_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.sif").write_bytes(b"once")
    (tmp_path / "a.sif.sha256").write_text("\n")
    with pytest.raises(UserError, match=r"was changed or damaged: its hash is \w+, and .*a.sif.sha256 says nothing"):
        sif.inspect(parse(f"apptainer:{tmp_path / 'a.sif'}"))


@pytest.mark.parametrize("size", ["lots", "", "0", "-1g", "8gb", "1.5g"])
def test_a_memory_that_is_no_size(size: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no size; write a whole number and b, k, m or g"):
        spac_repro_train("--in", "docker:x", "--memory", size, "--out", str(tmp_path / "run"))


@pytest.mark.parametrize("words", [["--memory", "1g"], ["--network"], ["--other-version"]])
def test_what_is_about_an_image_needs_one(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="are about an image; name one with --in"):
        spac_repro_train(*words, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def spac_repro_train(*words: str) -> None:
    get_command(app).main(["train", *words], standalone_mode=False)


def test_gpus_are_passed_on_where_there_are_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (engine, sif):
        monkeypatch.setattr(module, "NVIDIA", tmp_path / "nvidiactl")
    cuda, cpu = (Identity("oci:sha256:0", {VARIANT: variant}, 1) for variant in ("cuda", "cpu"))
    assert engine._gpus("docker", cuda) == {}
    assert sif._gpus(cuda) == []
    (tmp_path / "nvidiactl").touch()
    assert engine._gpus("docker", cuda) == {"device_requests": [{**ALL_GPUS, "Capabilities": [["gpu"]]}]}
    assert engine._gpus("podman", cuda) == {"devices": ["nvidia.com/gpu=all"]}
    assert sif._gpus(cuda) == ["--nv"]
    assert engine._gpus("docker", cpu) == {}
    assert sif._gpus(cpu) == []


ALL_GPUS = {"Driver": "", "Count": -1, "DeviceIDs": [], "Options": {}}


def test_versions() -> None:
    reference = parse("docker:x")
    ours = {LABEL + "version": spac_repro.__version__, VARIANT: "cpu"}
    check_version(reference, Identity("oci:sha256:0", ours, 1), other_version=False)
    other = Identity("oci:sha256:0", {**ours, LABEL + "version": "9"}, 1)
    check_version(reference, other, other_version=True)
    with pytest.raises(UserError, match="holds spac-repro 9"):
        check_version(reference, other, other_version=False)
    with pytest.raises(UserError, match="is not an image of spac-repro"):
        check_version(reference, Identity("oci:sha256:0", {}, 1), other_version=True)


def test_a_mount_with_a_comma_is_quoted() -> None:
    assert sif._mount(Path("/a,b"), written=False) == 'type=bind,"source=/a,b","destination=/a,b",ro'


def test_both_recipes_start_from_the_same_base() -> None:
    base = "python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b"
    assert f"ARG BASE=docker.io/library/{base}\n" in (CHECKOUT / "Dockerfile").read_text()
    assert f"FROM={base}\n" in (CHECKOUT / "apptainer.def").read_text()


def test_in_an_image_the_commit_is_the_one_it_was_built_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "spac_repro" / "runs" / "environment.py"))
    assert environment.source_revision() is None
    monkeypatch.setenv("SPAC_REPRO_REVISION", "abc+changed")
    assert environment.source_revision() == {"commit": "abc", "changed": True}


def test_what_the_package_links_to_gets_into_the_build() -> None:
    linked = {path.readlink().name for path in (CHECKOUT / "spac_repro").iterdir() if path.is_symlink()}
    allowed = {
        line.removeprefix("!").split("/")[0] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert linked <= set(building.CONTENT)
    assert set(building.CONTENT) <= allowed
