"""An adapter that two processes train over gloo: the curve of one process to rounding, and equal bits after a kill."""

from pathlib import Path

import cut_down
import pytest
from safetensors.torch import load_file
from test_processes import ROUNDING, SETTINGS, furthest, kill_after_a_checkpoint

from spac_repro.data import dataset
from spac_repro.model import adapter_folder
from spac_repro.runs.folder import RunFolder

pytestmark = pytest.mark.distributed

ADAPTER = ("policy.adapter.rank=4", "policy.adapter.alpha=8", "policy.adapter.targets=[q_proj, v_proj, down_proj]")
ALONE = (*SETTINGS, *ADAPTER)
TOGETHER = (*ALONE, "training.engine=accelerate", "training.processes=2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one process, and one of two."""
    folder = tmp_path_factory.mktemp("adapters")
    return cut_down.trained(folder / "alone", settings=ALONE), cut_down.trained(folder / "together", settings=TOGETHER)


def test_two_processes_train_the_adapter_of_one(runs: tuple[Path, Path]) -> None:
    alone, together = runs
    assert furthest(alone, together) < ROUNDING
    ours, theirs = (dataset.read(folder / "iteration-1" / "selfplay.parquet") for folder in runs)
    assert ours.responses == theirs.responses
    for name, values in ours.reference_logprobs.items():
        assert values.equal(theirs.reference_logprobs[name])
    first, last = ([its["iterations"][i]["weights_sha256"] for its in map(cut_down.results, runs)] for i in (0, 1))
    assert first[0] == first[1]
    assert last[0] != last[1]  # sums are taken in another order, so it was not one process after all
    one, two = (RunFolder(folder).iteration(1).policy for folder in runs)
    assert adapter_folder.read(one).settings == adapter_folder.read(two).settings
    tensors, others = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert tensors.keys() == others.keys()
    moved = max(float((tensor - others[name]).abs().max()) for name, tensor in tensors.items())
    size = max(float(tensor.abs().max()) for name, tensor in tensors.items() if "lora_B" in name)
    assert moved < 0.01 * size, (moved, size)  # B began at zero, so its size is what was learned


def test_killed_and_resumed_it_ends_in_the_same_bits(runs: tuple[Path, Path], tmp_path: Path) -> None:
    _, whole = runs
    assert RunFolder(whole).manifest.equal_bits_claimed
    killed = kill_after_a_checkpoint(tmp_path / "run", TOGETHER)
    cut_down.trained(killed, settings=TOGETHER)
    assert cut_down.results(killed)["weights_sha256"] == cut_down.results(whole)["weights_sha256"]
    assert (killed / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
