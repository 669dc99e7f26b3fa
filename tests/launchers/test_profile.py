"""Cluster profiles: what sbatch and srun are told, and the words that start Python in the job."""

import hashlib
import re
import subprocess

import pytest
import yaml
from pydantic import ValidationError

from spac_repro.errors import UserError
from spac_repro.launchers import slurm
from spac_repro.launchers.profile import Cluster

HERE = "/opt/python"


def profile(**more):
    return Cluster.model_validate({"summary": "mine", "scheduler": "slurm", "minutes": 60, **more})


def sbatch_lines(cluster, tmp_path, **more):
    text = slurm.sbatch_script([], cluster, tmp_path, name="mine", **more)
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")], text


@pytest.mark.parametrize("name", ["local", "cpu", "gpu-8", "gpu-2x8"])
def test_packaged_profiles_are_valid(name):
    cluster = Cluster.load(name)
    assert cluster.summary
    assert cluster.processes == {"gpu-8": 8, "gpu-2x8": 16}.get(name, 1)


def test_every_setting_reaches_sbatch(tmp_path):
    cluster = profile(
        partition="gpu",
        account="science",
        qos="long",
        constraint="a100",
        exclude="node7",
        nodes=2,
        gpus_per_node=8,
        cpus_per_node=64,
        memory_gb=900,
        minutes=1440,
        sbatch={"exclusive": True, "reservation": "mine"},
        setup=["module load cuda"],
        environment={"NAME": "two words"},
        requeue={"signal_seconds": 600},
    )
    lines, text = sbatch_lines(cluster, tmp_path, after=["17"])
    wanted = {
        "partition=gpu",
        "account=science",
        "qos=long",
        "constraint=a100",
        "exclude=node7",
        "nodes=2",
        "ntasks-per-node=1",
        "gpus-per-node=8",
        "cpus-per-task=64",
        "mem=900GB",
        "time=1440",
        "exclusive",
        "reservation=mine",
        "signal=USR2@600",
        "requeue",
        "dependency=afterany:17",
    }
    assert wanted <= set(lines)
    assert text.index("module load cuda") < text.index("export NAME='two words'") < text.index("srun")
    assert "--kill-on-bad-exit=1" in text
    assert " --cpus-per-task=64 " in text.partition("\nsrun ")[2].partition("\n")[0], (
        "srun inherits it from Slurm before 22.05 only"
    )
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_the_batch_script_requeues_its_job_only_on_request(tmp_path):
    """The end of the real script, with a command in place of srun that asks or does not."""
    _, text = sbatch_lines(profile(), tmp_path)
    end = text.partition("# teardown")[2]
    (tmp_path / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$CALLS"\n')
    (tmp_path / "scontrol").chmod(0o755)
    calls = tmp_path / "calls"
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), "SLURM_JOB_ID": "17"}
    quiet = subprocess.run(["bash", "-c", f"(exit 3)\n{end}"], env=environment)
    assert (quiet.returncode, calls.exists()) == (3, False)
    (tmp_path / "requeue-17").touch()
    again = subprocess.run(["bash", "-c", f"true\n{end}"], env=environment)
    assert (again.returncode, calls.read_text()) == (0, "requeue 17\n")
    assert not (tmp_path / "requeue-17").exists()


def test_an_image_is_known_by_its_file_or_its_name(tmp_path):
    file = tmp_path / "spac.sif"
    file.write_bytes(b"image")
    of_file = profile(image={"runtime": "apptainer", "path": str(file)}).image.identity()
    assert of_file == "sif:sha256:" + hashlib.sha256(b"image").hexdigest()
    assert profile(image={"runtime": "podman", "path": "localhost/spac:1"}).image.identity() == "podman:localhost/spac:1"
    assert profile(image={"runtime": "pyxis", "path": str(tmp_path / "only on the nodes.sqsh")}).image.identity().count("/") == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheduler": "local", "nodes": 2}, "`nodes` must be 1"),
        ({"scheduler": "local", "image": {"runtime": "podman", "path": "x"}}, "start spac-repro in the image"),
        ({"minutes": 1, "requeue": {"signal_seconds": 60}}, "no time is left for training"),
        ({"image": {"runtime": "docker", "path": "x"}}, "'apptainer', 'podman' or 'pyxis'"),
        ({"image": {"runtime": "podman", "path": "x"}, "python": "python"}, "image.python"),
        ({"nodes": 2, "environment": {"NCCL_SOCKET_IFNAME": "ib0"}}, "NCCL_SOCKET_IFNAME and no GLOO_SOCKET_IFNAME"),
        ({"image": {"runtime": "pyxis", "path": "x"}, "scratch": "/disk/$USER"}, "cannot have a variable with pyxis"),
        ({"timeouts": {"nccl": 0}}, "timeouts.nccl"),
    ],
)
def test_inconsistent_profiles_are_refused(change, message):
    with pytest.raises(ValidationError, match=message):
        profile(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parallelism": 2}, "`parallelism` was renamed to `max_parallel_runs` in version 0.2"),
        ({"image": {"runner": "podman", "path": "x"}}, "image: `runner` was renamed to `runtime` in version 0.2"),
    ],
)
def test_a_key_of_0_1_is_refused_with_its_new_name(tmp_path, change, message):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"summary": "mine", "scheduler": "slurm", "minutes": 60, **change}))
    with pytest.raises(UserError, match=re.escape(message)):
        Cluster.load(str(file))


@pytest.mark.parametrize(
    "more",
    [
        *(
            {key: "gpu\ntouch /tmp/x"}
            for key in ("partition", "account", "qos", "constraint", "exclude", "python", "cache", "scratch")
        ),
        {"sbatch": {"comment": "a\ntouch /tmp/x"}},
        {"sbatch": {"comment\ntouch x": "a"}},
        {"sbatch": {"comment=a --wrap": "a"}},
        {"environment": {"A\ntouch x": "1"}},
        {"environment": {"A=1; touch x; B": "1"}},
        {"image": {"runtime": "pyxis", "path": "a\ntouch x"}},
        {"image": {"runtime": "podman", "path": "a", "options": ["--x\r"]}},
    ],
    ids=str,
)
def test_nothing_but_setup_and_python_is_shell(more):
    with pytest.raises(ValidationError, match=r"control character|pattern"):
        profile(**more)


def test_the_value_of_a_variable_may_have_lines(tmp_path):
    _, text = sbatch_lines(profile(environment={"A": "1\n$(touch x)"}), tmp_path)
    assert "export A='1\n$(touch x)'" in text


@pytest.mark.parametrize("job", ["--me", "--user=root", "17_0 --me", "17_", "", "name"])
def test_only_ids_of_jobs_reach_scancel(monkeypatch, job):
    monkeypatch.setattr(slurm, "run_command", lambda *command: pytest.fail(str(command)))
    with pytest.raises(UserError, match="is not a job of Slurm"):
        slurm.cancel(["17", job])


def test_a_folder_with_a_new_line_is_refused(tmp_path):
    with pytest.raises(UserError, match="control character"):
        slurm.sbatch_script([], profile(), tmp_path / "a\nb", name="mine")
