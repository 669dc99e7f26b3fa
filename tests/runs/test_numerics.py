"""What computes is part of a run's environment, as far as it can change bits, and nothing else of the machine is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from spac_repro import pipeline
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.optim import distributed
from spac_repro.runs import environment, numerics
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA, Manifest, leaf_differences

ZEN3, ZEN5 = (
    f"processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: AMD EPYC\n"
    f"stepping\t: 1\nflags\t\t: fpu sse2 sse4_1 fma avx avx2{more} smep\n\nprocessor\t: 1\nmodel name\t: other\n"
    for family, model, more in ((25, 1, ""), (26, 2, " avx512f"))
)
DESCRIBE = "import json; from spac_repro.runs import numerics; print(json.dumps(numerics.describe()))"


def described(**variables: str) -> dict:
    """What a process of its own with these variables says."""
    command = [sys.executable, "-c", DESCRIBE]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_processors_of_one_name_are_told_apart(tmp_path):
    found = []
    for text in (ZEN3, ZEN5):
        file = tmp_path / "cpuinfo"
        file.write_text(text)
        assert numerics.cpu_model(file) == "AMD EPYC"
        found.append(numerics.processor(file, tmp_path / "none"))
    assert found[0] == {
        "vendor": "AuthenticAMD",
        "family": "25",
        "model": "1",
        "stepping": "1",
        "vector_instructions": "avx avx2 fma sse4_1",
        "caches": None,
    }
    assert {key for key, _, _ in leaf_differences(*found)} == {"family", "model", "vector_instructions"}


def test_a_processor_that_nothing_is_known_of(tmp_path):
    assert set(numerics.processor(tmp_path / "none", tmp_path / "none").values()) == {None}


def test_caches_of_other_sizes_are_another_processor(tmp_path):
    for number, size in enumerate(("48K", "32K", "1024K")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(f"{size}\n")
    assert numerics.processor(caches=tmp_path)["caches"] == "48K 32K 1024K"


def test_other_kernels_of_torch_and_of_mkl_are_another_environment():
    usual = described()
    assert dict.fromkeys(usual) == dict.fromkeys(("processor", "kernels", "variables", "gpu_kernels"))
    keys = {
        "ATEN_CPU_CAPABILITY": ("default", "kernels.cpu_capability"),
        "MKL_CBWR": ("COMPATIBLE", "variables.MKL_CBWR"),
    }
    for name, (value, key) in keys.items():
        assert [found for found, _, _ in leaf_differences(usual, described(**{name: value}))] == [key]


def test_a_variable_that_changes_nothing_here_is_no_other_environment():
    """The number of threads is recorded as such, and the capability as torch has it."""
    given = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "0", "MKL_VERBOSE": "0"}
    assert numerics.variables({**given, "ATEN_CPU_CAPABILITY": "avx2", "HOME": "/root"}, numerics.PREFIXES) == {}


def test_a_place_is_not_recorded():
    given = {"LD_PRELOAD": "/usr/lib/x/libmimalloc.so:/opt/liba.so.2", "NCCL_TOPO_FILE": "/etc/topo.xml", "NCCL_ALGO": "Ring"}
    found = numerics.variables({**given, "NCCL_SOCKET_IFNAME": "eth0"}, numerics.PREFIXES + numerics.GPU_PREFIXES)
    assert found == {"LD_PRELOAD": "libmimalloc.so:liba.so.2", "NCCL_TOPO_FILE": "topo.xml", "NCCL_ALGO": "Ring"}
    assert numerics.variables(given, numerics.PREFIXES) == {"LD_PRELOAD": "libmimalloc.so:liba.so.2"}


def test_of_a_gpu_driver_libraries_and_switches_are_recorded(monkeypatch, tmp_path):
    """Against stand-ins; a manifest from a GPU has the same keys (bench/RESULTS.md)."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
    version = tmp_path / "version"
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 24 04:53:55 UTC 2025\nGCC version: 12\n")
    monkeypatch.setattr(numerics, "driver", lambda driver=numerics.driver: driver(version))
    monkeypatch.setattr("importlib.metadata.version", {"nvidia-cublas": "13.1.0"}.get)
    before = numerics.describe({"CUBLAS_WORKSPACE_CONFIG": ":4096:8"})
    its = before["gpu_kernels"]
    assert (its["driver"], its["capability"], its["cudnn"], its["cublas"], its["nccl"]) == (
        "570.86.15",
        "9.0",
        91002,
        "13.1.0",
        "2.27.3",
    )
    assert before["variables"] == {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    try:
        torch.backends.cuda.matmul.allow_tf32 = not its["tf32"]["matmul"]
        after = numerics.describe({})
    finally:
        torch.backends.cuda.matmul.allow_tf32 = its["tf32"]["matmul"]
    assert [key for key, _, _ in leaf_differences(before, after)] == [
        "gpu_kernels.tf32.matmul",
        "variables.CUBLAS_WORKSPACE_CONFIG",
    ]


# What follows from it


def manifest(**its: object) -> Manifest:
    return Manifest(
        schema=SCHEMA,
        recipe="tiny",
        method="spac",
        seed=0,
        settings={"name": "tiny"},
        inputs={},
        environment={**environment.describe(), **its},
    )


def test_a_run_is_not_resumed_with_other_kernels(tmp_path):
    RunFolder(tmp_path).create_or_resume(manifest(), allow_changed_environment=False)
    RunFolder(tmp_path).create_or_resume(manifest(), allow_changed_environment=False)
    for changed, words in (
        (
            {"kernels": {**numerics.describe()["kernels"], "cpu_capability": "NO AVX"}},
            r"kernels\.cpu_capability was .* is 'NO AVX'",
        ),
        ({"variables": {"MKL_CBWR": "COMPATIBLE"}}, r"variables\.MKL_CBWR was None and is 'COMPATIBLE'"),
        ({"processor": {**numerics.processor(), "family": "other"}}, r"processor\.family was .* is 'other'"),
    ):
        with pytest.raises(UserError, match=words):
            RunFolder(tmp_path).create_or_resume(manifest(**changed), allow_changed_environment=False)


def test_processes_that_compute_otherwise_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "all_gather", lambda own: {0: own[0], 1: own[0]})
    pipeline._check_same_kernels()
    other = {"kernels": {**numerics.describe()["kernels"], "cpu_capability": "NO AVX"}}
    monkeypatch.setattr(distributed, "all_gather", lambda own: {0: own[0], 1: {**own[0], **other}})
    with pytest.raises(UnfitEnvironmentError, match=r"process 1 computes otherwise .*kernels\.cpu_capability is 'NO AVX' there"):
        pipeline._check_same_kernels()


def test_no_place_of_this_machine_is_in_the_environment():
    text = json.dumps(environment.describe())
    assert str(Path.cwd()) not in text
    assert sys.prefix not in text


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("NVIDIA UNIX x86_64 Kernel Module  570.86.15  Fri Jan 24 04:53:55 UTC 2025", "570.86.15"),
        ("NVIDIA UNIX Open Kernel Module for x86_64  565.57.01  Release Build  (dvs-builder@U16-A24-9-2)", "565.57.01"),
        ("NVIDIA UNIX Open Kernel Module for aarch64  555.58  Release Build", "555.58"),
        ("something else", None),
    ],
)
def test_the_driver_of_both_kernel_modules(line, version, tmp_path):
    """NVIDIA's own and its open one, the usual one of newer drivers, write it differently."""
    (tmp_path / "version").write_text(f"NVRM version: {line}\nGCC version:  gcc version 13.3.0\n")
    assert numerics.driver(tmp_path / "version") == version
