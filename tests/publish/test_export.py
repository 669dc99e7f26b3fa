"""Exported weights: what was written is read back, and wrong bytes do not stay."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from spac_repro.cli.root import app
from spac_repro.errors import UserError
from spac_repro.model import adapters, policy
from spac_repro.policy_settings import AdapterSettings, ArchitectureSettings, PolicySettings
from spac_repro.publish import export

SHAPE = ArchitectureSettings(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    sliding_window=None,
    max_position_embeddings=64,
)
SETTINGS = PolicySettings(
    source="random",
    name="mistral",
    revision=None,
    num_parameters=None,
    architecture=SHAPE,
    dtype="float32",
    attn_implementation="sdpa",
)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A base, and an adapter on it."""
    model, tokenizer = policy.create_initial(SETTINGS, seed=0)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    policy.save(model, tokenizer, base)
    lora = AdapterSettings(rank=2, alpha=4.0, targets=("q_proj", "up_proj"))
    adapters.add(model, lora, base_sha256=policy.weights_sha256(model), seed=1)
    for tensor in adapters.tensors(model).values():
        tensor.add_(0.1)
    adapter.mkdir()
    policy.save(model, tokenizer, adapter, base=("../base", None))
    return base, adapter


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(map(str, words)))
    return done.exit_code, done.stdout


def test_an_adapter_is_merged_and_a_model_is_copied(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    code, out = run("export", adapter, "-o", tmp_path / "merged", "--json")
    found = json.loads(out)
    assert (code, found["merged"]) == (0, True)
    assert policy.weights_sha256(policy.load(tmp_path / "merged")[0]) == found["weights_sha256"]
    code, out = run("export", base, "-o", tmp_path / "copied")
    assert code == 0
    assert "a copy" in out
    for file in base.iterdir():
        assert (tmp_path / "copied" / file.name).read_bytes() == file.read_bytes()


def test_the_base_may_lie_elsewhere(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    moved = tmp_path / "deeper" / "base"
    shutil.move(base, moved)
    with pytest.raises(UserError, match="name the folder of the base with --base"):
        export.export(adapter, tmp_path / "merged")
    assert export.export(adapter, tmp_path / "merged", base=moved).merged
    with pytest.raises(UserError, match="is a whole model and has no base; omit --base"):
        export.export(moved, tmp_path / "other", base=moved)


@pytest.mark.parametrize("which", [0, 1])
def test_wrong_bytes_do_not_stay(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    """A disk that returns other bytes than were written."""
    out = tmp_path / "out"
    real_load, real_copy = policy.load, shutil.copyfile

    def load(folder: Path, *arguments: object, **options: object) -> object:
        model, tokenizer = real_load(folder, *arguments, **options)  # type: ignore[arg-type]
        if folder.parent == out.parent and folder.name.startswith("."):
            with torch.no_grad():
                model.lm_head.weight[0, 0] += 1
        return model, tokenizer

    def copy(source: Path, target: Path) -> None:
        real_copy(source, target)
        if target.name == "model.safetensors":
            target.write_bytes(target.read_bytes()[:-1] + b"\0")

    monkeypatch.setattr(policy, "load", load)
    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(UserError, match="check the disk, and repeat"):
        export.export(folders[which], out)
    assert not out.exists()


def test_nothing_is_written_over(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists; choose another folder"):
        export.export(folders[1], folders[0])
    with pytest.raises(UserError, match="no such folder"):
        export.export(tmp_path / "gone", tmp_path / "out")
