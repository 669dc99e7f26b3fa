"""Whole weights out of a run: an iterate as one model folder, with its adapter merged if it has one (`spac-repro export`)."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from spac_repro.errors import UserError
from spac_repro.model import adapter_folder, adapters, policy, trusted_folder
from spac_repro.runs import files, iterates
from spac_repro.runs.iteration import FINGERPRINT


@dataclass(frozen=True)
class Exported:
    """What was written."""

    source: str
    folder: str
    merged: bool  # an adapter was merged into its base
    weights_sha256: str

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
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists; choose another folder with --out")
    source = iterates.find(target)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # otherwise DeepSpeed, which PEFT imports, warns that it guessed
    with files.explain_disk_errors(out):
        if adapter_folder.is_adapter(source.path):
            return _merge(source, out, base)
        if base is not None:
            raise UserError(f"{source.path} is a whole model and has no base; omit --base")
        return _copy(source, out)


def _merge(source: iterates.ModelFolder, out: Path, base: Path | None) -> Exported:
    model, tokenizer = adapter_folder.load(source.path, base=base or source.base(), dequantize=True)
    adapter_sha256 = adapters.sha256(model)
    merged = policy.weights_sha256(adapters.merge(model))
    with files.atomic_folder(out) as folder:
        policy.save(model, tokenizer, folder)
        files.write_json(folder / FINGERPRINT, {"weights_sha256": merged, "merged_from_sha256": adapter_sha256})
        if policy.weights_sha256(policy.load(folder)[0]) != merged:
            raise UserError(f"{out}: the weights that were read back are not those that were written; check the disk, and repeat")
    return Exported(str(source.path), str(out), merged=True, weights_sha256=merged)


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
