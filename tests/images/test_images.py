"""The pinned image, built and worked in for real: the same bits everywhere, nothing in it that should not be, clear errors."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import cut_down
import laboratory
import layers
import pytest
from laboratory import IMAGE, SOURCE, Built, owned, spac_repro

from spac_repro import __version__
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.images import building, runtime
from spac_repro.images.command import ContainerCommand, ContainerOptions
from spac_repro.images.reference import OCI_LABEL, parse_reference
from spac_repro.runs.manifest import leaf_differences

pytestmark = [pytest.mark.images, pytest.mark.timeout(1800)]

CUT_DOWN = [word for setting in cut_down.SETTINGS for word in ("--set", setting)]


def assert_same_bits(run: Path, host: Path, kind: str) -> None:
    """Weights, scores and every step's metrics are the host's; of the environment, the image and Python's patch level differ."""
    assert (run / "results.json").read_text() == (host / "results.json").read_text()
    assert (run / "metrics.jsonl").read_text() == (host / "metrics.jsonl").read_text()
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (host, run)]
    different = {key: new for key, _, new in leaf_differences(*manifests) if key != "sha256"}
    assert different.pop("environment.image").startswith(f"{kind}:sha256:")
    assert set(different) <= {"environment.python"}


def test_built_twice_it_has_the_same_id(built: Built) -> None:
    assert built.first == built.second


def test_same_bits_in_docker(lab: Path, docker: str, built: Built, on_the_host: Path) -> None:
    out = owned(lab / "in-docker") / "run"
    words = ["train", "--in", f"docker:{IMAGE}", "--out", out, *CUT_DOWN]
    done = spac_repro(*words, user=laboratory.CALLER, DOCKER_HOST=docker)
    assert done.returncode == 0, done.stderr
    assert "iteration 2: training" in done.stderr, "progress is streamed"
    assert_same_bits(out, on_the_host, "oci")
    assert json.loads((out / "manifest.json").read_text())["environment"]["image"] == built.first, "docker load keeps the ID"
    assert {path.stat().st_uid for path in (out, *out.rglob("*"))} == {laboratory.CALLER}


def test_same_bits_with_plain_docker_as_user_10001(lab: Path, docker: str, on_the_host: Path) -> None:
    volume = lab / "volume"
    volume.mkdir()
    os.chown(volume, 10001, 10001)
    options = ["--rm", "--read-only", "--network=none", "--cap-drop=ALL", f"--volume={volume}:/work", "--env=OMP_NUM_THREADS=1"]
    laboratory.run("docker", f"--host={docker}", "run", *options, IMAGE, "train", "--out", "run", *CUT_DOWN)
    for name in ("results.json", "metrics.jsonl"):
        assert (volume / "run" / name).read_text() == (on_the_host / name).read_text()
    assert {path.stat().st_uid for path in volume.rglob("*")} == {10001}


def test_same_bits_in_apptainer(lab: Path, sif: Path, apptainer: str, on_the_host: Path) -> None:
    out = owned(lab / "in-apptainer") / "run"
    words = ["train", "--in", f"apptainer:{sif}", "--out", out, *CUT_DOWN]
    done = spac_repro(*words, user=laboratory.CALLER, PATH=apptainer)
    assert done.returncode == 0, done.stderr
    assert_same_bits(out, on_the_host, "sif")
    assert {path.stat().st_uid for path in (out, *out.rglob("*"))} == {laboratory.CALLER}


@pytest.mark.parametrize("kind", ["docker", "podman", "apptainer"])
def test_an_interruption_is_forwarded(lab: Path, request: pytest.FixtureRequest, kind: str, on_the_host: Path) -> None:
    image, variables = {
        "docker": lambda: (f"docker:{IMAGE}", {"DOCKER_HOST": request.getfixturevalue("docker")}),
        "podman": lambda: (f"podman:{IMAGE}", {"CONTAINER_HOST": request.getfixturevalue("podman")}),
        "apptainer": lambda: (f"apptainer:{request.getfixturevalue('sif')}", {"PATH": request.getfixturevalue("apptainer")}),
    }[kind]()
    out = owned(lab / f"interrupted-{kind}") / "run"
    out.mkdir()
    os.chown(out, laboratory.CALLER, laboratory.CALLER)
    settings = [
        word.replace("supervised_start.epochs=1", "supervised_start.epochs=50") for word in CUT_DOWN
    ]  # it trains until it is interrupted
    command = [sys.executable, "-m", "spac_repro", "train", "--in", image, "--out", str(out), *settings]
    words = [*laboratory.as_user(laboratory.CALLER), *command]  # setpriv becomes the command: signals reach it
    environment = {**cut_down.environment(), "HF_HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", **variables}
    process = subprocess.Popen(words, env=environment, cwd=laboratory.CHECKOUT, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("iteration-0/training/step-*")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "interrupted; repeat the command to resume" in said
    assert not (out / "results.json").exists()
    assert list(out.glob("iteration-0/training/step-*")), "the same command can go on"


def test_a_container_is_confined(docker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker)
    reference = parse_reference(f"docker:{IMAGE}")
    with runtime.connect("docker") as client:
        command = ContainerCommand(("--help",), (Path("/usr/share"),), (tmp_path,))
        container = runtime._start_container(client, reference, runtime.find_image(client, reference), command, ContainerOptions())
        try:
            host = container.attrs["HostConfig"]
            mounts = {mount["Destination"]: mount["RW"] for mount in container.attrs["Mounts"] if mount["Type"] == "bind"}
            assert host["ReadonlyRootfs"]
            assert host["CapDrop"] == ["ALL"]
            assert host["NetworkMode"] == "none"
            assert "no-new-privileges" in host["SecurityOpt"]
            assert mounts["/usr/share"] is False
            assert mounts[str(tmp_path)] is True
        finally:
            container.remove(force=True)


def of_this_machine(lab: Path) -> list[str]:
    """Words that stand for this machine: where its packages come from, its name, its places."""
    configured = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    sources = [
        word for line in configured.splitlines() if "index" in line or "links" in line for word in line.split("'")[1].split()
    ]
    proxies = [os.environ[name] for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY") if os.environ.get(name)]
    node = [os.uname().nodename] if len(os.uname().nodename) > 8 else []  # a short name is a word
    places = [str(laboratory.CHECKOUT), str(lab), sys.base_prefix, str(Path.home() / ".")]
    return [word for word in (*sources, *proxies, *node, *places) if len(word) > 6]


def test_nothing_secret_and_nothing_of_this_machine_is_in_it(archive: Path, lab: Path) -> None:
    assert list(layers.search(archive, of_this_machine(lab))) == []
    assert next(layers.search(archive, ["Self-Play with Adversarial Critic"])), "the search finds what is there"


def test_a_sif_says_what_its_image_says_and_nothing_of_this_machine(sif: Path, apptainer: str, built: Built, lab: Path) -> None:
    done = laboratory.run("apptainer", "inspect", "--json", "--all", sif, PATH=apptainer)
    labels = json.loads(done.stdout)["data"]["attributes"]["labels"]
    config = laboratory.run("podman", "image", "inspect", "--format={{json .Labels}}", IMAGE, **built.store)
    stated = {
        name: value for name, value in json.loads(config.stdout).items() if name.startswith(("org.opencontainers", "org.spac"))
    }
    assert stated.keys() >= {f"{OCI_LABEL}{name}" for name in ("title", "description", "version", "revision", "source", "licenses")}
    assert (stated[OCI_LABEL + "version"], stated[OCI_LABEL + "revision"]) == (__version__, building.revision())
    assert stated[OCI_LABEL + "source"] == SOURCE
    assert {name: labels.get(name) for name in stated} == stated
    assert "spac-repro train --in apptainer:" in done.stdout, "its help"
    assert [word for word in of_this_machine(lab) if word in done.stdout] == []


SEEN = {
    "token": b"ghp_" + b"a1" * 18,
    "key": b"AKIA" + b"A1" * 8,
    "private key": b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 64,
    "place": b"/home/somebody",
}


@pytest.mark.parametrize("secret", SEEN.values(), ids=SEEN)
def test_the_search_for_secrets_finds_them(tmp_path: Path, secret: bytes) -> None:
    base, ours = tarred({"etc/x": secret}), tarred({"opt/y": b"a " + secret + b" b", "opt/z": b"ghp_ AKIA"})
    manifest = json.dumps([{"Config": "config.json", "Layers": ["base.tar", "ours.tar"]}]).encode()
    image = tarred({"manifest.json": manifest, "config.json": b"{}", "base.tar": base, "ours.tar": ours})
    (tmp_path / "image.tar").write_bytes(image)
    assert list(layers.search(tmp_path / "image.tar", ["/home/somebody"])) == [("opt/y", secret)], "the base's files are its own"


def tarred(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def test_neither_pip_nor_a_compiler_is_in_it(built: Built) -> None:
    script = "! command -v pip pip3 cc gcc; ! python -m pip --version; ! find / -xdev -name '*.whl' | grep ."
    done = laboratory.run("podman", "run", "--rm", "--network=none", "--entrypoint=sh", IMAGE, "-ec", script, **built.store)
    assert "whl" not in done.stdout


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_one_folder_is_executable_and_only_in_the_cuda_image(
    engine: str, built: Built, podman: str, docker: str, tmp_path: Path
) -> None:
    """The cpu image with the label of the cuda image: both engines mount a folder for compiled code, which `doctor` tries."""
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nLABEL org.spac-repro.variant=cuda\n")
    if engine == "podman":
        laboratory.run("buildah", "bud", "--format=docker", "--tag=localhost/labelled:1", tmp_path, **built.store)
    else:
        laboratory.run("docker", "--host", docker, "build", "--network=none", "--tag=localhost/labelled:1", tmp_path)
    verdicts = {}
    for image in (IMAGE, "localhost/labelled:1"):
        words = ["image", "run", f"{engine}:{image}", "doctor", "--recipe", "zephyr-7b", "--json"]
        done = spac_repro(*words, cwd=tmp_path, CONTAINER_HOST=podman, DOCKER_HOST=docker)
        assert done.returncode == 3, "there is neither a GPU nor a compiler"
        checks = {check["what"]: check for check in json.loads(done.stdout)["checks"]}
        verdicts[image] = {checks[what]["verdict"] for what in ("cache triton", "cache torchinductor")}
    assert verdicts == {IMAGE: {"unfit"}, "localhost/labelled:1": {"ok"}}


def test_the_image_has_a_bill_of_materials_and_licences(podman: str, tmp_path: Path) -> None:
    file = tmp_path / "sbom.json"
    done = spac_repro("image", "inspect", f"podman:{IMAGE}", "--sbom", file, "--json", CONTAINER_HOST=podman)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == __version__
    bill = json.loads(file.read_text())
    versions = {component["name"].lower(): component["version"] for component in bill["components"]}
    assert bill["bomFormat"] == "CycloneDX"
    assert versions["torch"] == "2.13.0+cpu"
    assert versions["spac-repro"] == __version__
    nowhere = spac_repro("image", "inspect", f"podman:{IMAGE}", "--sbom", "/proc/none/sbom.json", CONTAINER_HOST=podman)
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (2, 1)
    assert "cannot write /proc/none/sbom.json" in nowhere.stderr
    licences = spac_repro("image", "inspect", f"podman:{IMAGE}", "--licences", CONTAINER_HOST=podman).stdout
    names = {line.split("|")[1].strip().lower() for line in licences.splitlines()[2:]}
    named = names - {""}  # a licence of several lines goes on without a name
    assert {name.replace("_", "-") for name in named} == {name.replace("_", "-") for name in versions}


def test_any_command_runs_in_a_container(podman: str, tmp_path: Path) -> None:
    words = ["image", "run", f"podman:{IMAGE}", "recipes", "show", "tiny"]
    done = spac_repro(*words, cwd=tmp_path, CONTAINER_HOST=podman)
    assert done.returncode == 0, done.stderr
    assert "training.iterations" in done.stdout
    assert list(tmp_path.iterdir()) == [], "a folder made for nothing is removed"


def test_the_exit_status_is_that_of_the_command(podman: str, sif: Path, apptainer: str, tmp_path: Path) -> None:
    for image in (f"podman:{IMAGE}", f"apptainer:{sif}"):
        done = spac_repro("image", "run", image, "verify", tmp_path, cwd=tmp_path, CONTAINER_HOST=podman, PATH=apptainer)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_docker_builds_with_the_arguments_and_without_a_network(
    docker: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Docker's own builder, on a recipe of two lines: the whole one is built by Podman and Buildah."""
    monkeypatch.setenv("DOCKER_HOST", docker)
    monkeypatch.setattr(building, "build_context", lambda *_: tmp_path)
    recipe = "ARG BASE\nFROM ${BASE}\nARG VERSION\nARG REVISION\nLABEL mine=${VERSION}+${REVISION}\n"
    devices = "import os; assert os.listdir('/sys/class/net') == ['lo']; print('alone')"
    (tmp_path / "Dockerfile").write_text(f'{recipe}RUN python -c "{devices}"\n')
    said: list[str] = []
    name = building.build("docker", "cpu", tag="mine:1", base=IMAGE, out=None, log=said.append)
    assert name == "docker:mine:1"
    assert runtime.inspect(parse_reference(name)).labels["mine"] == f"{__version__}+{building.revision()}"
    assert "alone" in said
    (tmp_path / "Dockerfile").write_text(f"{recipe}RUN exit 7\n")
    with pytest.raises(UnfitEnvironmentError, match=r"the build failed: .* returned a non-zero code: 7; see the lines above"):
        building.build("docker", "cpu", tag="mine:2", base=IMAGE, out=None, log=said.append)
    with pytest.raises(UnfitEnvironmentError, match=r"docker cannot build|the build failed"):
        building.build("docker", "cpu", tag="mine:3", base="localhost/none:1", out=None, log=said.append)


# Bad input: one line each


def test_a_missing_base_is_reported(built: Built, podman: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(Path(podman.removeprefix("unix://")).parents[1]))
    monkeypatch.setattr(building, "build_context", lambda *_: tmp_path)
    (tmp_path / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\n")
    for name, value in built.store.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnfitEnvironmentError, match=r"the build failed: .*localhost/none:1"):
        building.build("podman", "cpu", tag="mine:1", base="localhost/none:1", out=None, log=print)


def test_a_missing_image_is_reported(podman: str, tmp_path: Path) -> None:
    done = spac_repro("train", "--in", "podman:localhost/none:1", "--out", tmp_path / "a" / "run", CONTAINER_HOST=podman)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "podman has no image localhost/none:1; build it with" in done.stderr
    assert not (tmp_path / "a").exists()


def test_an_image_of_other_software_is_refused(podman: str, tmp_path: Path) -> None:
    done = spac_repro("train", "--in", f"podman:{laboratory.BASE}", "--out", tmp_path / "run", CONTAINER_HOST=podman)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "is not an image of spac-repro" in done.stderr


def test_an_image_of_another_version_is_refused_unless_wanted(podman: str, built: Built, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(f"FROM {IMAGE}\nLABEL org.opencontainers.image.version=9.9.9\n")
    laboratory.run("buildah", "bud", "--format=docker", "--tag=localhost/other:1", tmp_path, **built.store)
    words = ["image", "run", "podman:localhost/other:1", "recipes", "list"]
    refused = spac_repro(*words, cwd=tmp_path, CONTAINER_HOST=podman)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert f"holds spac-repro 9.9.9, and this is {__version__}" in refused.stderr
    taken = spac_repro(*words[:2], "--other-version", *words[2:], cwd=tmp_path, CONTAINER_HOST=podman)
    assert taken.returncode == 0, taken.stderr
    assert "tiny" in taken.stdout


def test_out_of_memory_is_reported(docker: str, tmp_path: Path) -> None:
    words = ["train", "--in", f"docker:{IMAGE}", "--memory", "150m", "--out", tmp_path / "run", *CUT_DOWN]
    done = spac_repro(*words, DOCKER_HOST=docker)
    assert done.returncode == 3, done.stderr
    assert "ran out of memory, beyond the limit of 150m (--memory) (exit status 137)" in done.stderr.splitlines()[-1]


def test_a_memory_limit_that_apptainer_cannot_set(lab: Path, sif: Path, apptainer: str) -> None:
    out = owned(lab / "limited") / "run"
    words = ["train", "--in", f"apptainer:{sif}", "--memory", "1g", "--out", out]
    done = spac_repro(*words, user=laboratory.CALLER, PATH=apptainer)
    assert done.returncode == 3, done.stderr
    assert "cannot limit memory here" in done.stderr.splitlines()[-1]
    assert not out.exists()


def test_a_sif_that_was_tampered_with(sif: Path, apptainer: str, tmp_path: Path) -> None:
    pinned = f"apptainer:{sif}@sha256:{'0' * 64}"
    done = spac_repro("train", "--in", pinned, "--out", tmp_path / "run", PATH=apptainer)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    with sif.open("r+b") as file:  # one byte, far from the header
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    try:
        done = spac_repro("train", "--in", f"apptainer:{sif}", "--out", tmp_path / "run", PATH=apptainer)
    finally:
        with sif.open("r+b") as file:
            file.seek(-1000, os.SEEK_END)
            file.write(byte)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "was changed or damaged: its hash is" in done.stderr


def test_a_host_without_user_namespaces(lab: Path, sif: Path, apptainer: str) -> None:
    out = owned(lab / "no-namespaces") / "run"
    words = ["train", "--in", f"apptainer:{sif}", "--out", out]
    done = spac_repro(*words, user=laboratory.CALLER, PATH=apptainer, NO_NAMESPACES="1")
    assert done.returncode == 3, done.stderr
    assert "it needs user namespaces, or a setuid installation" in done.stderr.splitlines()[-1]
