"""Whole weights out of a run: an iterate, or the average of all iterates, as one model folder (`spac-repro export`).

An adapter is merged into its base.
"""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro.errors import UserError
from spac_repro.model import adapter_folder, adapters, policy, trusted_folder, weight_average
from spac_repro.runs import files, iterates
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import FINGERPRINT


@dataclass(frozen=True)
class Exported:
    """What was written."""

    source: str
    folder: str
    merged: bool  # an adapter was merged into its base
    weights_sha256: str
    averaged: tuple[int, ...] = ()  # the iterates whose weights were averaged

    def as_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self)


def export(target: Path, out: Path, *, base: Path | None = None) -> Exported:
    """Write a model folder that needs no other one. The folder appears when it is complete and its weights were read back.

    Args:
        target: a run folder (its last iterate), the folder of an iterate, or an adapter folder.
        out: the folder to write.
        base: the folder of an adapter's base; None: where the adapter or its run says that it is.

    Raises:
        UserError: `out` exists, the target is no model, or a file of it was changed.
    """
    _prepare(out)
    source = iterates.find(target)
    with files.explain_disk_errors(out):
        if adapter_folder.is_adapter(source.path):
            return _merge(source, out, base)
        if base is not None:
            raise UserError(f"{source.path} is a whole model and has no base; omit --base")
        return _copy(source, out)


def average(target: Path, out: Path, *, with_start: bool = False) -> Exported:
    """Write the average of the weights of a finished run's iterates 1 … T as one model folder.

    Args:
        target: the run folder.
        out: the folder to write.
        with_start: average the start policy with them, as WARP's interpolation towards it does.

    Raises:
        UserError: `out` exists, the target is no finished run, or an iterate was removed or changed.
    """
    _prepare(out)
    run = RunFolder.open(target)
    if not run.complete:
        raise UserError(f"{target}: the run is unfinished, and the average is over all iterates; repeat its `train` command")
    averaged = tuple(each.iteration for each in run.results.iterations if with_start or each.iteration)
    model, tokenizer = weight_average.of_run(run, averaged)
    sources = {"averaged_from_sha256": {str(t): run.iteration(t).weights_sha256 for t in averaged}}
    with files.explain_disk_errors(out):
        return Exported(str(target), str(out), False, _write(model, tokenizer, out, sources), averaged)


def _prepare(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists; choose another folder with --out")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed, which PEFT imports, warns that it guessed


def _merge(source: iterates.ModelFolder, out: Path, base: Path | None) -> Exported:
    model, tokenizer = adapter_folder.load(source.path, base=base or source.base(), dequantize=True)
    adapter_sha256 = adapters.sha256(model)
    merged = _write(adapters.merge(model), tokenizer, out, {"merged_from_sha256": adapter_sha256})
    return Exported(str(source.path), str(out), merged=True, weights_sha256=merged)


def _write(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out: Path, sources: dict[str, Any]) -> str:
    """Write a model folder, read it back, and return the hash of its weights; `sources` says beside it what it was made of."""
    sha256 = policy.weights_sha256(model)
    with files.atomic_folder(out) as folder:
        policy.save(model, tokenizer, folder)
        files.write_json(folder / FINGERPRINT, {"weights_sha256": sha256, **sources})
        if policy.weights_sha256(policy.load(folder)[0]) != sha256:
            raise UserError(f"{out}: the weights that were read back are not those that were written; check the disk, and repeat")
    return sha256


def _copy(source: iterates.ModelFolder, out: Path) -> Exported:
    trusted_folder.check_folder(source.path)
    with files.atomic_folder(out) as folder:
        for file in sorted(path for path in source.path.rglob("*") if path.is_file()):
            copy = folder / file.relative_to(source.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            if files.sha256_file(copy) != files.sha256_file(file):
                raise UserError(f"{copy}: the copy is not the original; check the disk, and repeat the command")
        sha256 = policy.weights_sha256(policy.load(folder)[0])
        if source.run is not None and source.iteration is not None:
            written = source.run.iteration(source.iteration).weights_sha256
            if sha256 != written:
                raise UserError(f"{source.path}: its weights are {sha256[:12]}…, and the run wrote {written[:12]}…; it is damaged")
    return Exported(str(source.path), str(out), merged=False, weights_sha256=sha256)
