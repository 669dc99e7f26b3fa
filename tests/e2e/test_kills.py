"""A run that is killed, again and again, at every kind of moment, ends as one that was not."""

import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cut_down
import needs
import pytest

pytestmark = pytest.mark.e2e


def lines(run: Path, iteration: int) -> int:
    """How many optimizer steps of an iteration are in the metrics."""
    try:
        rows = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return sum(f'"iteration": {iteration},' in row for row in rows)


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "supervised start": lambda run: lines(run, 0) >= 5,
    "generation": lambda run: (run / "iteration-1" / "selfplay" / "batch-00002.json").exists(),
    "training step": lambda run: lines(run, 1) >= 3,
    "evaluation": lambda run: (run / "iteration-1" / "policy").exists(),
    "checkpoint write": lambda run: any((run / "iteration-2" / "training").glob(".step-*.partial")),
}


def kill_at(run: Path, moment: Callable[[Path], bool]) -> None:
    """Start the run, wait for the moment, and kill -9."""
    process = subprocess.Popen(cut_down.command(run), env=cut_down.environment(), stderr=subprocess.PIPE, text=True)
    try:
        while not moment(run):
            assert process.poll() is None, f"the run ended before its moment came: {process.stderr.read()}"
            time.sleep(0.0005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (run / "results.json").exists()


def test_killed_at_every_moment_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "killed"
    for moment in MOMENTS.values():
        kill_at(run, moment)
    cut_down.trained(run)
    assert cut_down.results(run) == cut_down.results(uninterrupted)
    assert (run / "metrics.jsonl").read_text() == (uninterrupted / "metrics.jsonl").read_text()


def test_nothing_but_results_is_left_of_the_way_there(uninterrupted: Path) -> None:
    left = {path.name for path in uninterrupted.rglob("*")}
    assert "training" not in left, "training state is dropped when an iterate is complete"
    assert "selfplay" not in left, "batches are dropped when selfplay.parquet is there"
    assert not [name for name in left if name.endswith(".partial")]


def test_terminated_politely_it_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "terminated"
    process = subprocess.Popen(cut_down.command(run), env=cut_down.environment(), stderr=subprocess.PIPE, text=True)
    while lines(run, 0) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("spac-repro: interrupted; repeat the command to resume")


@pytest.mark.check
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_asked_to_stop_it_checkpoints_the_step_it_is_at(uninterrupted: Path, tmp_path: Path, number: signal.Signals) -> None:
    run = tmp_path / "stopped"
    rarely = tuple("training.save_steps=1000" if "save_steps" in s else s for s in cut_down.SETTINGS)
    process = subprocess.Popen(
        cut_down.command(run, settings=rarely), env=cut_down.environment(), stderr=subprocess.PIPE, text=True
    )
    while lines(run, 0) < 3:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 130
    (checkpoint,) = (run / "iteration-0" / "training").glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) == lines(run, 0) >= 3
    cut_down.trained(run, settings=rarely)
    assert cut_down.results(run)["weights_sha256"] == cut_down.results(uninterrupted)["weights_sha256"]


@pytest.mark.check
def test_a_truncated_checkpoint_falls_back_to_the_one_before(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "truncated"
    kill_at(run, lambda run: len(list((run / "iteration-0" / "training").glob("step-*"))) == 2 and lines(run, 0) >= 8)
    newest = max((run / "iteration-0" / "training").glob("step-*")) / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:1000])
    done = cut_down.train(run)
    assert done.returncode == 0, done.stderr
    assert "is damaged" in done.stderr
    assert "going back to the checkpoint before it" in done.stderr
    assert cut_down.results(run)["weights_sha256"] == cut_down.results(uninterrupted)["weights_sha256"]


@pytest.mark.check
def test_a_damaged_iterate_is_not_built_on(uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "damaged"
    kill_at(run, MOMENTS["evaluation"])
    weights = run / "iteration-1" / "policy" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    done = cut_down.train(run)
    assert done.returncode == 2
    assert f"{weights}: it is not what the run wrote; remove {weights.parent}" in done.stderr.splitlines()[-1]


@pytest.mark.check
def test_a_folder_in_use_is_refused_and_the_owner_is_named(tmp_path: Path) -> None:
    run = tmp_path / "owned"
    owner = subprocess.Popen(cut_down.command(run), env=cut_down.environment(), stderr=subprocess.DEVNULL)
    try:
        while lines(run, 0) < 2:
            assert owner.poll() is None
            time.sleep(0.01)
        second = cut_down.train(run)
    finally:
        owner.kill()
        owner.wait()
    assert second.returncode == 2
    assert f"is in use by process {owner.pid}" in second.stderr.splitlines()[-1]


@pytest.mark.check
def test_a_full_disk_loses_nothing(uninterrupted: Path, small_disk: Path) -> None:
    run = small_disk / "run"
    small = cut_down.train(run)
    assert (small.returncode, small.stderr.count("\n")) == (3, 1)
    assert "checkpoints and iterates take up to 16.3 MB" in small.stderr
    assert not run.exists()
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    process = subprocess.Popen(cut_down.command(run), env=cut_down.environment(), stderr=subprocess.PIPE, text=True)
    while lines(run, 0) < 1:  # the run has begun, so somebody else fills the disk
        assert process.poll() is None
        time.sleep(0.01)
    with suppress(OSError), (small_disk / "ballast").open("wb") as ballast:
        while True:
            ballast.write(b"0" * 2**20)
    _, error = process.communicate()
    assert process.returncode == 3
    assert "No space left on device" in error.splitlines()[-1]
    assert "Traceback" not in error
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    cut_down.trained(run)
    assert cut_down.results(run) == cut_down.results(uninterrupted)


@pytest.fixture
def small_disk(tmp_path: Path):  # type: ignore[no-untyped-def]
    """A disk that is too small for a run."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        with needs.small_disk(disk, "8m"):
            yield disk
    except needs.NotHereError as reason:
        pytest.skip(str(reason))
