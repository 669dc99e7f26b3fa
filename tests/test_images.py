"""Images without a container runtime: what a command becomes in a container, and the errors where something is missing."""

import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import spac_repro
from spac_repro.cli.in_image import HOST_PARAMETERS
from spac_repro.cli.root import app
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.images import apptainer, building, command, runtime
from spac_repro.images.reference import OCI_LABEL, VARIANT_LABEL, ImageIdentity, ImageReference, check_version, parse_reference
from spac_repro.optim.gpu_host import CACHE_VARIABLES
from spac_repro.runs import environment, files

CHECKOUT = Path(__file__).parents[1]


def in_container(*words: str, out: Path) -> command.ContainerCommand:
    context: Any = get_command(app).commands[words[0]].make_context(words[0], list(words[1:]))  # type: ignore[attr-defined]
    return command.container_command([words[0]], context.command.params, context.params, out=out, exclude=HOST_PARAMETERS)


def test_references() -> None:
    assert parse_reference("docker:spac-repro:0.1.0-cpu") == ImageReference("docker", "spac-repro:0.1.0-cpu")
    assert parse_reference("apptainer:a.sif") == ImageReference("apptainer", "a.sif")
    assert parse_reference(f"apptainer:a.sif@sha256:{'a' * 64}") == ImageReference("apptainer", "a.sif", "a" * 64)
    for bad in ("spac-repro", "docker:", "rkt:a"):
        with pytest.raises(UserError, match="names no image"):
            parse_reference(bad)


def test_a_command_keeps_its_arguments_and_loses_those_for_the_host(tmp_path: Path) -> None:
    words = ["train", "--method", "dpo", "--set", "a=1", "--set", "b=2", "--in", "docker:x", "--memory", "1g", "--json"]
    given = in_container(*words, out=tmp_path / "run")
    expected = ("train", "--method", "dpo", "--set", "a=1", "--set", "b=2", "--json", "--out", str(tmp_path / "run"))
    assert sorted(given.arguments) == sorted(expected)
    assert given.inputs == ()
    assert given.outputs == (tmp_path / "run",)


def test_paths_become_absolute_and_are_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "questions").mkdir()
    given = in_container("train", "--recipe", "mine.yaml", "--questions", "questions", out=Path("run"))
    assert set(given.inputs) == {tmp_path / "mine.yaml", tmp_path / "questions"}
    assert str(tmp_path / "mine.yaml") in given.arguments
    assert given.outputs == (tmp_path / "run",)


def test_the_folder_of_a_split_is_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    given = in_container("train", "--preferences", "pairs:test", "--set", "data.name=owner/name:test", out=Path("run"))
    assert given.inputs == (tmp_path / "pairs",)
    assert f"{tmp_path / 'pairs'}:test" in given.arguments
    assert "data.name=owner/name:test" in given.arguments


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist, so it cannot be mounted"):
        in_container("train", "--start-from", str(tmp_path / "none"), out=tmp_path / "run")


def test_a_folder_that_cannot_be_written_to() -> None:
    with (
        pytest.raises(UnfitEnvironmentError, match=r"cannot (create|write to)"),
        command.output_folders(command.ContainerCommand((), (), (Path("/sys/run"),))),
    ):
        pass


def test_output_folders_that_stay_empty_are_removed(tmp_path: Path) -> None:
    with command.output_folders(command.ContainerCommand((), (), (tmp_path / "a" / "b",))):
        assert (tmp_path / "a" / "b").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_no_runtime(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(UnfitEnvironmentError, match="docker is not installed"), runtime.connect("docker"):
        pass
    with pytest.raises(UnfitEnvironmentError, match="apptainer is not installed"):
        apptainer.executable()


@pytest.mark.parametrize("kind", ["docker", "podman", "apptainer"])
def test_a_missing_runtime_is_reported_before_anything_is_downloaded(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.setattr(building, "build_context", lambda *_: pytest.fail("it downloads"))
    with pytest.raises(UnfitEnvironmentError, match=f"{kind} is not installed"):
        building.build(kind, "cpu", tag=None, base=None, out=None, log=print)


def test_the_path_of_a_base_stays_out_of_a_sif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "build" / "sif").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"--base: there is no file image.tar; check the path"):
        building._base_arguments("docker-archive:image.tar", tmp_path / "build" / "sif")
    (tmp_path / "image.tar").write_bytes(b"image")
    for _ in range(2):
        origin = building._base_arguments("docker-archive:image.tar", tmp_path / "build" / "sif")
        assert origin == {"BOOTSTRAP": "docker-archive", "FROM": "../base.tar"}
    assert (tmp_path / "build" / "base.tar").read_bytes() == b"image"
    assert building._base_arguments("docker://python:3.11", tmp_path) == {"BOOTSTRAP": "docker", "FROM": "python:3.11"}


def test_a_runtime_that_does_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "left.sock"))
    monkeypatch.setenv("CONTAINER_HOST", f"unix://{tmp_path}/left.sock")
    with pytest.raises(UnfitEnvironmentError, match="podman is installed but does not answer"), runtime.connect("podman"):
        pass


def test_a_sif_is_checked_against_its_hash_file(tmp_path: Path) -> None:
    file = tmp_path / "a.sif"
    with pytest.raises(UserError, match="there is no file"):
        apptainer.inspect(parse_reference(f"apptainer:{file}"))
    file.write_bytes(b"once")
    (tmp_path / "a.sif.sha256").write_text(f"{files.sha256_file(file)}  a.sif\n")
    file.write_bytes(b"now")
    with pytest.raises(UserError, match=r"was changed or damaged: its hash is \w+, and .*a.sif.sha256 says"):
        apptainer.inspect(parse_reference(f"apptainer:{file}"))


def test_an_empty_hash_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.sif").write_bytes(b"once")
    (tmp_path / "a.sif.sha256").write_text("\n")
    with pytest.raises(UserError, match=r"was changed or damaged: its hash is \w+, and .*a.sif.sha256 says nothing"):
        apptainer.inspect(parse_reference(f"apptainer:{tmp_path / 'a.sif'}"))


@pytest.mark.parametrize("size", ["lots", "", "0", "-1g", "8gb", "1.5g"])
def test_a_memory_limit_that_is_not_a_size(size: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a size; write a whole number and b, k, m or g"):
        spac_repro_train("--in", "docker:x", "--memory", size, "--out", str(tmp_path / "run"))


@pytest.mark.parametrize("words", [["--memory", "1g"], ["--network"], ["--other-version"]])
def test_container_options_need_an_image(words: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need an image; name one with --in"):
        spac_repro_train(*words, "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def spac_repro_train(*words: str) -> None:
    get_command(app).main(["train", *words], standalone_mode=False)


def test_gpus_are_passed_on_where_there_are_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for module in (runtime, apptainer):
        monkeypatch.setattr(module, "NVIDIA_DEVICE", tmp_path / "nvidiactl")
    cuda, cpu = (ImageIdentity("oci:sha256:0", {VARIANT_LABEL: variant}, 1) for variant in ("cuda", "cpu"))
    assert runtime._gpus("docker", cuda) == {}
    assert apptainer._gpus(cuda) == []
    (tmp_path / "nvidiactl").touch()
    assert runtime._gpus("docker", cuda) == {"device_requests": [{**ALL_GPUS, "Capabilities": [["gpu"]]}]}
    assert runtime._gpus("podman", cuda) == {"devices": ["nvidia.com/gpu=all"]}
    assert apptainer._gpus(cuda) == ["--nv"]
    assert runtime._gpus("docker", cpu) == {}
    assert apptainer._gpus(cpu) == []


def test_one_folder_is_writable_and_executable_and_only_where_kernels_are_compiled() -> None:
    cuda, cpu = (ImageIdentity("oci:sha256:0", {VARIANT_LABEL: variant}, 1) for variant in ("cuda", "cpu"))
    executable = {runtime.COMPILED_CODE: "mode=1777,exec,nosuid,nodev"}
    folders = dict.fromkeys(("/tmp", "/work"), "mode=1777,noexec,nosuid,nodev")
    for image, writable in ((cuda, folders | executable), (cpu, folders)):
        assert runtime._writable_folders(image) == writable
        caches = runtime._compiled_code(image)
        assert caches in writable, "torch creates its cache folder even where it compiles nothing"
        variables = command.environment_variables("digest", command.ContainerOptions(), caches=caches)
        assert {variables[name] for name in CACHE_VARIABLES} == {f"{caches}/triton", f"{caches}/torchinductor"}


def test_the_cuda_image_gets_a_compiler_and_the_cpu_image_none() -> None:
    install = (CHECKOUT / "container" / "install.sh").read_text()
    assert '[ "$variant" = cpu ] || locks="$locks requirements/compiler.lock"' in install
    assert '[ "$variant" = cpu ] || sh container/compiler.sh "$prefix"' in install
    assert building.SHIPPED_LOCKS == {"cpu": ("base", "cpu"), "cuda": ("base", "cuda", "compiler")}
    allowed = (CHECKOUT / ".dockerignore").read_text().splitlines()
    assert {"!container/install.sh", "!container/compiler.sh"} <= {*allowed}


@pytest.fixture(scope="module")
def environment_with_triton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment as install.sh makes it, of the compiler and Triton alone, in the versions of the lock files."""
    prefix = tmp_path_factory.mktemp("compiler") / "env"
    for name in ("compiler", "cuda"):
        lock = (CHECKOUT / "requirements" / f"{name}.lock").read_text()
        blocks = [block for block in re.split(r"\n(?=[A-Za-z0-9])", lock) if re.match("ziglang|triton", block)]
        (prefix.parent / f"{name}.txt").write_text("\n".join(blocks) + "\n")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    words = ["-m", "pip", "--quiet", "--python", str(prefix / "bin" / "python"), "install", "--no-compile", "--no-deps"]
    files = [f"--requirement={prefix.parent / name}.txt" for name in ("compiler", "cuda")]
    done = subprocess.run([sys.executable, *words, "--require-hashes", *files], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the compiler and Triton cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    (prune,) = re.findall(r'^find "\$site".*$', (CHECKOUT / "container" / "install.sh").read_text(), re.MULTILINE)
    subprocess.run(["sh", "-c", f"site={prefix}/lib/python3.11/site-packages; {prune}"], check=True)
    yield prefix
    shutil.rmtree(prefix)


STAND_IN_FOR_THE_DRIVER = "".join(
    f"int {name}(void) {{ return 0; }}\n"
    for name in (
        *("cuCtxGetCurrent", "cuCtxGetLimit", "cuCtxSetCurrent", "cuCtxSetLimit", "cuDeviceGet", "cuDeviceGetAttribute"),
        *("cuDevicePrimaryCtxRetain", "cuDriverGetVersion", "cuFuncGetAttribute", "cuFuncSetAttribute", "cuFuncSetCacheConfig"),
        *("cuGetErrorString", "cuModuleGetFunction", "cuModuleLoadData", "cuPointerGetAttribute"),
    )
)
BUILD_TRITONS_MODULE = """
import sys
from triton.backends.nvidia import driver
driver.CudaUtils()
print(driver.PyCUtensorMap.__name__)
"""


@pytest.mark.check
def test_the_images_compiler_builds_the_module_of_triton_which_loads(environment_with_triton: Path, tmp_path: Path) -> None:
    """Triton's own code builds and loads it. The driver's library has a stand-in, with the functions that are linked."""
    prefix = environment_with_triton
    subprocess.run(["sh", CHECKOUT / "container" / "compiler.sh", prefix], check=True)
    clang = prefix / "bin" / "clang"
    environment = {"PATH": str(clang.parent), "HOME": str(tmp_path), "LD_LIBRARY_PATH": str(tmp_path)}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path / "cache"), "TRITON_LIBCUDA_PATH": str(tmp_path)}
    (tmp_path / "driver.c").write_text(STAND_IN_FOR_THE_DRIVER)
    build = ["-shared", "-Wl,-soname,libcuda.so.1", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"]
    subprocess.run([clang, *build], env=environment, check=True)
    words = [prefix / "bin" / "python", "-P", "-c", BUILD_TRITONS_MODULE]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "PyCUtensorMap\n"
    assert done.stderr == ""
    assert list((tmp_path / "cache").rglob("cuda_utils*.so"))


@pytest.mark.check
def test_it_takes_the_headers_of_debians_python(environment_with_triton: Path, tmp_path: Path) -> None:
    """They lie in two folders: one includes a file of the other by its path below /usr/include."""
    if not Path("/usr/include/python3.11/Python.h").exists():
        pytest.skip("Debian's python3.11-dev is not installed")
    subprocess.run(["sh", CHECKOUT / "container" / "compiler.sh", environment_with_triton], check=True)
    (tmp_path / "module.c").write_text("#include <Python.h>\nint size(void) { return sizeof(PyObject); }\n")
    build = ["-shared", "-fPIC", "-I/usr/include/python3.11", "-o", tmp_path / "module.so", tmp_path / "module.c"]
    environment = {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([environment_with_triton / "bin" / "clang", *build], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.check
def test_a_base_without_pythons_headers_is_refused(environment_with_triton: Path, tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho {tmp_path}/include\n")
    python.chmod(0o755)
    done = subprocess.run(["sh", CHECKOUT / "container" / "compiler.sh", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert "Python.h; use the pinned base, or one with Python's headers" in done.stderr


ALL_GPUS = {"Driver": "", "Count": -1, "DeviceIDs": [], "Options": {}}


def test_versions() -> None:
    reference = parse_reference("docker:x")
    ours = {OCI_LABEL + "version": spac_repro.__version__, VARIANT_LABEL: "cpu"}
    check_version(reference, ImageIdentity("oci:sha256:0", ours, 1), other_version=False)
    other = ImageIdentity("oci:sha256:0", {**ours, OCI_LABEL + "version": "9"}, 1)
    check_version(reference, other, other_version=True)
    with pytest.raises(UserError, match="holds spac-repro 9"):
        check_version(reference, other, other_version=False)
    with pytest.raises(UserError, match="is not an image of spac-repro"):
        check_version(reference, ImageIdentity("oci:sha256:0", {}, 1), other_version=True)


def test_a_mount_with_a_comma_is_quoted() -> None:
    assert apptainer.mount_option(Path("/a,b"), writable=False) == 'type=bind,"source=/a,b","destination=/a,b",ro'


def test_both_recipes_start_from_the_same_base() -> None:
    base = "python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b"
    assert f"ARG BASE=docker.io/library/{base}\n" in (CHECKOUT / "Dockerfile").read_text()
    assert f"FROM={base}\n" in (CHECKOUT / "apptainer.def").read_text()


def test_in_an_image_the_commit_is_the_one_it_was_built_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "CHECKOUT", tmp_path)
    assert environment.source_revision() is None
    monkeypatch.setenv("SPAC_REPRO_REVISION", "abc+changed")
    assert environment.source_revision() == {"commit": "abc", "changed": True}


def test_what_the_package_links_to_gets_into_the_build() -> None:
    linked = {path.readlink().name for path in (CHECKOUT / "spac_repro").iterdir() if path.is_symlink()}
    allowed = {
        line.removeprefix("!").split("/")[0] for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert linked <= set(building.SOURCES)
    assert set(building.SOURCES) <= allowed


@pytest.mark.parametrize("network", [False, True])
def test_the_hubs_token_is_not_in_the_container(tmp_path, monkeypatch, network):
    from spac_repro.images.command import ContainerCommand, ContainerOptions, environment_variables, mounts

    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "token").write_text("hf_secret")
    (tmp_path / "hub").mkdir()
    (tmp_path / "datasets").mkdir()
    options, out = ContainerOptions(network=network), tmp_path / "out"
    seen = dict(mounts(ContainerCommand((), (), (out,)), options))
    assert seen == {out: True, tmp_path / "hub": network, tmp_path / "datasets": True}
    variables = environment_variables("digest", options, caches="/cache")
    assert variables["HF_HUB_CACHE"] == str(tmp_path / "hub")
    assert "hf_secret" not in str(variables)
    assert variables["HF_HOME"] != str(tmp_path)
    assert variables["TRITON_CACHE_DIR"] == "/cache/triton"


def test_dockers_variables_for_tls_are_honoured(tmp_path, monkeypatch):
    from spac_repro.errors import UnfitEnvironmentError
    from spac_repro.images import runtime

    monkeypatch.setenv("DOCKER_HOST", "tcp://localhost:1")
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(UnfitEnvironmentError, match=r"certificate|TLS"), runtime.connect("docker"):
        pass
