"""The command that starts a job's container: sealed, with stand-ins for Apptainer and Podman that write down their calls."""

import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spac_repro.images import apptainer
from spac_repro.launchers import sealed, slurm
from spac_repro.launchers.job import Job, JobError, _scratch_place
from spac_repro.launchers.profile import Cluster

HERE = "/opt/python"
# What a user's shell may have, and no container may see.
OUTSIDE = {
    "PYTHONPATH": "/people/me/lib",
    "HF_TOKEN": "hf_secret",
    "HF_HOME": "/people/me/hf",
    "APPTAINER_BIND": "/home",
    "APPTAINERENV_PYTHONPATH": "/people/me/lib",
    "SINGULARITYENV_HF_TOKEN": "hf_secret",
    "LD_PRELOAD_OF_MINE": "x",
}
INSIDE = {
    "SLURM_PROCID": "1",
    "SLURMD_NODENAME": "node 'a'",
    "SUBMITIT_EXECUTOR": "slurm",
    "NCCL_DEBUG": "WARN",
    "OMP_NUM_THREADS": "1",
}

# It writes down its arguments and variables, a line each, and what is in its working folder; then it waits for a signal.
STAND_IN = f"""#!{sys.executable}
import os, signal, sys, time
from pathlib import Path
place = Path(os.environ["STAND_IN"])
signal.signal(signal.SIGUSR2, lambda *_: sys.exit(7))
work = next(word.split(":")[0] for before, word in zip(sys.argv, sys.argv[1:]) if before in ("--workdir", "--volume"))
variables = "".join(f"{{name}}={{value}}\\n" for name, value in os.environ.items())
(place / "variables").write_text(variables)
(place / "mode").write_text(f"{{os.stat(work).st_mode & 0o777:o}}")
(place / "work").write_text(work)
(place / "arguments").write_text("\\n".join(sys.argv[1:]))
time.sleep(60 if "wait" in sys.argv else 0)
sys.exit(5)
"""


def profile(**more):
    return Cluster.model_validate({"summary": "mine", "scheduler": "slurm", "minutes": 60, **more})


def image(runtime, **more):
    return {"runtime": runtime, "path": "/x y.sif", "binds": ["/a:/b:ro"], **more}


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with both programs; starts a command on it, with the words that submitit appends."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("apptainer", "podman"):
        (programs / name).write_text(STAND_IN)
        (programs / name).chmod(0o755)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "local disk").mkdir()
    variables = {
        "PATH": f"{programs}:/usr/bin:/bin",
        "STAND_IN": str(tmp_path),
        "TMPDIR": str(tmp_path / "tmp"),
        **INSIDE,
        **OUTSIDE,
    }

    def start(cluster, *words, mounts=(), **more):
        command = sealed.python_command(cluster, HERE, mounts)
        return subprocess.Popen(["sh", "-c", f"exec {command} {shlex.join(words)} 2>{tmp_path}/stderr"], env={**variables, **more})

    return start


def seen(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text().splitlines()


def test_without_an_image_it_is_python_itself() -> None:
    assert sealed.python_command(profile(), HERE) == HERE
    assert sealed.python_command(profile(python="conda run python"), HERE) == "conda run python"


def test_apptainer_is_sealed_as_the_image_command_seals_it(node, tmp_path) -> None:
    cluster = profile(image=image("apptainer", options=["--mine"]), gpus_per_node=8)
    process = node(cluster, "-m", "x", mounts=[(tmp_path, True), (Path("/in,put"), False)])
    assert (process.wait(), seen(tmp_path, "stderr")) == (5, []), "the exit status is the container's"
    words = seen(tmp_path, "arguments")
    assert words[:2] == ["exec", "--workdir"]
    assert words[-5:] == ["--mine", "/x y.sif", "python", "-m", "x"]
    assert {*apptainer.SEAL, "--nv"} <= {*words}
    assert "--containall" in apptainer.SEAL
    assert "--no-home" in apptainer.SEAL
    assert f"type=bind,source={tmp_path},destination={tmp_path}" in words
    assert 'type=bind,"source=/in,put","destination=/in,put",ro' in words
    assert words[words.index("--bind") + 1] == "/a:/b:ro"
    variables = dict(line.split("=", 1) for line in seen(tmp_path, "variables"))
    inside = {name.removeprefix("APPTAINERENV_"): value for name, value in variables.items() if name.startswith("APPTAINERENV_")}
    assert inside == {**INSIDE, "SPAC_REPRO_SCRATCH": "/tmp"}, "--containall lets in these alone"
    assert not {"APPTAINER_BIND", "SINGULARITYENV_HF_TOKEN"} & {*variables}


def test_podman_is_sealed(node, tmp_path) -> None:
    process = node(profile(image=image("podman"), gpus_per_node=8), "-m", "x", mounts=[(tmp_path, True), (Path("/in"), False)])
    assert process.wait() == 5
    words = seen(tmp_path, "arguments")
    assert words[0] == "run"
    assert words[-4:] == ["/x y.sif", "python", "-m", "x"]
    sealing = {"--rm", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--env=HOME=/tmp", "--shm-size=8g"}
    assert sealing <= {*words}
    assert "--env-host" not in words
    assert {word for word in words if word.startswith("--env=HF") or "PYTHONPATH" in word} == set()
    assert {"--env=SLURM*", "--env=CUDA_VISIBLE_DEVICES", f"--user={os.geteuid()}:{os.getegid()}"} <= {*words}
    volumes = [word.removeprefix("--volume=") for word in words if word.startswith("--volume=")]
    assert volumes == [f"{tmp_path}:{tmp_path}", "/in:/in:ro", "/a:/b:ro"]


def test_pyxis_gets_its_mounts_and_no_home() -> None:
    cluster = profile(image=image("pyxis", python="python3", options=["--mine"]), scratch="/disk", cpus_per_node=3)
    command = shlex.split(sealed.python_command(cluster, HERE))
    assert command[0] == "env"
    assert command[-2:] == ["PYTHONNOUSERSITE=1", "python3"]
    assert {"PYTHONPATH", "HF_TOKEN", "HF_HOME"} <= {*command}
    assert sealed.srun_options(cluster, [(Path("/sweep"), True), (Path("/in"), False)]) == [
        "--cpus-per-task=3",
        "--container-image=/x y.sif",
        "--no-container-mount-home",
        "--container-mounts=/sweep:/sweep,/in:/in:ro,/disk:/disk,/a:/b:ro",
        "--mine",
    ]


@pytest.mark.parametrize("runtime", ["apptainer", "podman"])
def test_scratch_is_a_private_folder_that_goes_with_the_job(node, tmp_path, runtime) -> None:
    process = node(profile(image=image(runtime), scratch="${DISK}/of $USER's jobs"), DISK=str(tmp_path / "local disk"), USER="me")
    assert process.wait() == 5
    (work,) = seen(tmp_path, "work")
    assert Path(work).parent == tmp_path / "local disk" / "of me's jobs"
    assert seen(tmp_path, "mode") == ["700"]
    assert [*Path(work).parent.iterdir()] == []
    if runtime == "apptainer":
        assert "APPTAINERENV_SPAC_REPRO_SCRATCH=/tmp" in seen(tmp_path, "variables")


def test_of_scratch_nothing_but_variables_is_shell(node, tmp_path) -> None:
    process = node(profile(image=image("podman"), scratch='$DISK/$(touch x)`touch x`"; touch x; "'), DISK=str(tmp_path / "tmp"))
    assert process.wait() == 5
    assert seen(tmp_path, "work")[0].startswith(f'{tmp_path}/tmp/$(touch x)`touch x`"; touch x; "/spac-repro-')
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("scratch", "problem"), [("$DISK", "DISK is not set on the node"), ("/dev/null/x", "cannot create a folder in /dev/null/x")]
)
def test_a_scratch_that_is_not_there_fails_the_job(node, tmp_path, monkeypatch, scratch, problem) -> None:
    """The container starts, so that the job can say so where `sweep status` reads it."""
    process = node(profile(image=image("apptainer"), scratch=scratch))
    assert process.wait() == 5
    variables = dict(line.split("=", 1) for line in seen(tmp_path, "variables"))
    assert variables["APPTAINERENV_SPAC_REPRO_SCRATCH_PROBLEM"] == problem
    assert Path(seen(tmp_path, "work")[0]).parent == tmp_path / "tmp"
    assert [*(tmp_path / "tmp").iterdir()] == []
    for name in (sealed.SCRATCH, sealed.SCRATCH_PROBLEM):
        monkeypatch.setenv(name, variables[f"APPTAINERENV_{name}"])
    with pytest.raises(JobError, match=f"{problem}; correct `scratch` in the cluster profile"):
        _scratch_place(scratch)


def test_without_an_image_an_unset_variable_fails_the_job_too(tmp_path, monkeypatch) -> None:
    """It used to become a folder called `$TMPDIR`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)
    job = Job("run", [], tmp_path / "run", tmp_path / "attempts", tmp_path, 1, {}, 3, scratch="$TMPDIR")
    with pytest.raises(JobError, match=r"scratch is \$TMPDIR: TMPDIR is not set on the node; correct `scratch`"):
        job._train()
    assert not (tmp_path / "$TMPDIR").exists()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "mine"))
    assert _scratch_place("$TMPDIR") == tmp_path / "mine"
    assert _scratch_place(None) is None


def test_slurms_signals_reach_the_container(node, tmp_path) -> None:
    process = node(profile(image=image("apptainer")), "wait")
    while not (tmp_path / "arguments").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGUSR2)
    assert process.wait() == 7
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_a_sweep_its_cache_and_its_inputs_are_mounted(tmp_path) -> None:
    (tmp_path / "pairs.jsonl").write_text("")
    arguments = ["--recipe", "tiny", "--preferences", str(tmp_path / "pairs.jsonl"), "--questions", str(tmp_path / "none")]
    job = Job("run", arguments, tmp_path / "sweep" / "run", tmp_path / "attempts", tmp_path / "sweep" / "jobs", 1, {}, 3)
    cluster = profile(image=image("apptainer"), cache="/shared/cache")
    text = slurm.sbatch_script([job], cluster, tmp_path / "sweep" / "jobs", name="mine")
    for path in (tmp_path / "sweep", Path("/shared/cache")):
        assert f"type=bind,source={path},destination={path} " in text
    assert f"source={tmp_path}/pairs.jsonl,destination={tmp_path}/pairs.jsonl,ro" in text
    assert str(tmp_path / "none") not in text
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert stat.S_ISDIR(tmp_path.stat().st_mode)
