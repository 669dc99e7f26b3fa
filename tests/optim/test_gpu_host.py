"""What training on a GPU needs of the machine, on machines that are made to lack one thing each."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from spac_repro import doctor, recipes
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.launchers.profile import Cluster
from spac_repro.optim import gpu_host
from spac_repro.runs import numerics

ZEPHYR = recipes.load("zephyr-7b").recipe
TINY = recipes.load("tiny").recipe


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine with eight GPUs and all that they need, as far as is looked at; the folder of its caches."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    card = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(gpu_host, "NVIDIA_DEVICE", tmp_path)
    monkeypatch.setattr(numerics, "driver", lambda: "580.95.05")
    headers = tmp_path / "include"
    headers.mkdir()
    (headers / "Python.h").touch()
    monkeypatch.setattr(sysconfig, "get_paths", lambda _: {"include": str(headers)})
    compiler = tmp_path / "bin" / "gcc"
    compiler.parent.mkdir()
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent))
    for name in ("CC", "LOCAL_WORLD_SIZE", "PET_NNODES", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, folder in gpu_host.CACHE_VARIABLES.items():
        monkeypatch.setenv(name, str(tmp_path / folder))
    return tmp_path


def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def cpu_build(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    without_gpu(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)


def no_driver(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    without_gpu(monkeypatch)
    monkeypatch.setattr(numerics, "driver", lambda: None)
    monkeypatch.setattr(gpu_host, "NVIDIA_DEVICE", folder / "none")


def old_driver(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    without_gpu(monkeypatch)
    monkeypatch.setattr(numerics, "driver", lambda: "570.172.08")


def hidden(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    without_gpu(monkeypatch)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def too_few(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)


def no_compiler(_: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "bin" / "gcc").unlink()


def wrong_compiler(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setenv("CC", "icc-2019")


def no_headers(_: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "include" / "Python.h").unlink()


def noexec(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = os.statvfs

    def statvfs(path: Path) -> object:
        flags = real(path).f_flag
        return SimpleNamespace(f_flag=flags | os.ST_NOEXEC if str(path).startswith(str(folder)) else flags)

    monkeypatch.setattr(os, "statvfs", statvfs)


def read_only(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "/sys/triton")


LACKS = [
    (cpu_build, "GPU", "no GPU is visible, because torch is the CPU build; install the CUDA build with `make setup TORCH=cuda`"),
    (no_driver, "GPU", r"no NVIDIA driver is loaded; use a machine with a GPU, install its driver \(580.65.06 or newer\)"),
    (old_driver, "GPU", "driver 570.172.08 is older than 580.65.06, which CUDA 13.0 needs; install a newer driver"),
    (hidden, "GPU", "no GPU is visible: CUDA_VISIBLE_DEVICES is ''; unset it"),
    (too_few, "GPU", "8 processes on this machine share 4 GPUs.*--set training.processes=4"),
    (no_compiler, "C compiler", "there is no C compiler, which Triton needs for its kernels; install gcc"),
    (wrong_compiler, "C compiler", "CC is 'icc-2019', which is no command; install gcc"),
    (no_headers, "Python.h", "there is no .*Python.h, which Triton needs for its kernels; install Python's headers"),
    (noexec, "cache triton", "torchinductor: its disk is mounted noexec; set TORCHINDUCTOR_CACHE_DIR to a folder"),
    (read_only, "cache triton", "compiled kernels cannot be kept in /sys/triton: .* is not writable; set TRITON_CACHE_DIR to"),
]


def test_a_fit_machine_passes(fit: Path) -> None:
    gpu_host.check(ZEPHYR)
    checks = {check.what: check for check in doctor.run_checks(None, fit, recipe=ZEPHYR)}
    assert [checks[what].verdict for what in ("GPU", "C compiler", "Python.h", "cache triton", "cache torchinductor")] == ["ok"] * 5
    assert checks["GPU"].found == ", ".join(["NVIDIA H100 80 GiB"] * 8)


@pytest.mark.parametrize(("take", "what", "problem"), LACKS, ids=[take.__name__ for take, _, _ in LACKS])
def test_what_is_missing_is_one_line_and_doctor_says_the_same(
    fit: Path, monkeypatch: pytest.MonkeyPatch, take, what: str, problem: str
) -> None:
    if take is read_only and os.access("/sys", os.W_OK):
        monkeypatch.setattr(os, "access", lambda path, _: not str(path).startswith("/sys"))
    take(monkeypatch, fit)
    with pytest.raises(UnfitEnvironmentError, match=problem) as refused:
        gpu_host.check(ZEPHYR)
    line = str(refused.value)
    assert line.startswith("training.device is cuda: ")
    assert "\n" not in line
    assert len(line) <= 300
    checks = {check.what: check for check in doctor._gpu(None, ZEPHYR)}
    assert checks[what].verdict == "unfit"
    for said in (check for check in checks.values() if check.verdict == "unfit" and check.found in line):
        assert said.remedy in line
        break
    else:
        pytest.fail(f"doctor does not say it: {checks}")


def test_a_recipe_that_asks_for_no_gpu_uses_what_there_is(fit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_host.check(TINY)
    (fit / "bin" / "gcc").unlink()
    with pytest.raises(UnfitEnvironmentError, match=r"^there is no C compiler"):  # its rows are packed, too
        gpu_host.check(TINY)
    without_gpu(monkeypatch)
    gpu_host.check(TINY)
    eager = recipes.load("tiny", overrides=["policy.attn_implementation=eager"]).recipe
    monkeypatch.undo()
    gpu_host.check(eager)


def test_nodes_of_a_cluster_are_not_this_machine(fit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a login node without a GPU or a compiler nothing is unfit, and the remedy is to ask a node."""
    no_driver(monkeypatch, fit)
    no_compiler(monkeypatch, fit)
    cluster = Cluster.model_validate({"summary": "mine", "scheduler": "slurm", "minutes": 60, "gpus_per_node": 8})
    checks = {check.what: check for check in doctor._gpu(cluster, ZEPHYR)}
    assert {check.verdict for check in checks.values()} == {"ok", "note"}
    assert "run `doctor` in a job" in checks["C compiler"].remedy


def test_each_machine_counts_its_own_processes(fit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sixteen = recipes.load("zephyr-7b", overrides=["training.processes=16", "training.global_batch_size=64"]).recipe
    with pytest.raises(UnfitEnvironmentError, match="16 processes on this machine share 8 GPUs"):
        gpu_host.check(sixteen)
    monkeypatch.setenv("PET_NNODES", "2")
    gpu_host.check(sixteen)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    with pytest.raises(UnfitEnvironmentError, match="16 processes"):
        gpu_host.check(sixteen)


def test_compiled_code_is_kept_in_folders_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/mine")
    gpu_host.set_cache_folders()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "spac-repro" / "torchinductor")
    assert os.environ["TRITON_CACHE_DIR"] == "/mine"


def test_on_this_machine_the_7b_recipe_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    """The command itself; with a GPU for each of its eight processes it would go to the hub."""
    if torch.cuda.device_count() >= 8:
        pytest.skip("this machine has eight GPUs")
    command = [sys.executable, "-m", "spac_repro", "train", "--recipe", "zephyr-7b", "--out", str(tmp_path / "a" / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert done.stderr.startswith("spac-repro: training.device is cuda: ")
    assert list(tmp_path.iterdir()) == []
