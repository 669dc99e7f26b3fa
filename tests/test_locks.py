"""The lock files: hashes without hosts, and resolutions that hold. `tests/images` installs some of them for real."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
LINUX = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28")


def pins(file: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==([^\s+;]+)", file.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda file: file.stem)
def test_a_lock_is_hashes_without_hosts(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?:|file:|--(extra-)?index|--find-links", text)
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.strip())[1:]
    assert blocks
    for block in blocks:
        assert re.search(r"==\S+.* \\\n    --hash=sha256:[0-9a-f]{64}", block), block[:100]


def test_vllm_computes_with_the_torch_and_transformers_of_the_main_environment() -> None:
    main, vllm = pins(ROOT / "requirements" / "base.in"), pins(ROOT / "requirements" / "vllm.lock")
    for name in ("torch", "transformers"):
        assert vllm[name] == main[name]
    assert vllm["numpy"] != main["numpy"], "one environment could hold both: drop vllm.lock, and make vLLM an extra"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "vllm" not in extras, "it cannot be installed beside the main environment's numpy"


def uv(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Run uv; skip the test where no package index can be reached."""
    done = subprocess.run([sys.executable, "-m", "uv", *map(str, words)], capture_output=True, text=True, timeout=300)
    if re.search(r"Failed to fetch|error sending request|dns error", done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    return done


@pytest.mark.check
def test_vllms_lock_is_complete_and_can_be_installed(tmp_path: Path) -> None:
    """With the lock as constraints, the index gives the lock again, every hash included; an installation would take every pin."""
    lock = ROOT / "requirements" / "vllm.lock"
    out = ("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links")
    done = uv("pip", "compile", lock.with_suffix(".in"), "--constraint", lock, *LINUX, *out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines() == lock.read_text().strip().splitlines()[1:]
    install = ("pip", "install", "--dry-run", "--no-deps", "--require-hashes", "--target", tmp_path / "empty", *LINUX, "-r")
    done = uv(*install, lock)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(" + ") == len(pins(lock))


@pytest.mark.check
def test_each_extra_can_be_installed_beside_the_main_environment(tmp_path: Path) -> None:
    """And vLLM cannot, which is why it has an environment of its own."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras.pop("smollm2")  # its wheel is installed without its dependencies (docs/decisions/01-locks.md)
    for name, requirements in {**extras, "vllm": ["vllm==0.30.0"]}.items():
        file = tmp_path / f"{name}.in"
        file.write_text("\n".join(requirements))
        done = uv("pip", "compile", ROOT / "requirements" / "base.in", file, *LINUX, "--no-header")
        assert (done.returncode == 0) == (name != "vllm"), done.stderr
    assert "numpy" in done.stderr
