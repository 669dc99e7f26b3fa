"""What every stage of a run gets: the run, its folder, its tokenized data, and where to report progress.

A stage is a function of this and of the files in the run folder; it leaves its result there.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from spac_repro.data.rendering import Renderer, TokenizedPreferences
from spac_repro.data.sources import Inputs
from spac_repro.errors import UserError
from spac_repro.model import adapter_folder, adapters, freed_memory, policy
from spac_repro.optim import distributed
from spac_repro.progress import Progress
from spac_repro.publish.model_card import model_card
from spac_repro.recipe import Recipe, Run
from spac_repro.runs import file_hashes, files, timing
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD, write_fingerprint
from spac_repro.seeds import derive_seed
from spac_repro.spans import span


@dataclass(frozen=True)
class RunContext:
    """What is fixed during a run."""

    run: Run
    folder: RunFolder
    inputs: Inputs
    renderer: Renderer
    examples: TokenizedPreferences  # the tokenized preference pairs
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        """The recipe of the run."""
        return self.run.recipe

    @cached_property
    def _accelerator(self) -> Accelerator:
        half = self.recipe.training.compute_dtype == "bfloat16"
        return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if half else "no")

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        device: torch.device = self._accelerator.device
        return device

    def autocast(self) -> AbstractContextManager[None]:
        """Return an autocast to the precision of training, for computations outside a training engine."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    @contextmanager
    def timed(self, t: int, stage: str) -> Iterator[dict[str, Any]]:
        """Report and time a stage of iteration t. timing.json also gets what is put into the yielded dict."""
        self.progress.start_stage(f"iteration {t}: {stage}")
        path, computed_from = self.folder.timing_file, self.folder.timing_computed_from
        recorded = timing.record_stage(path, t, stage, computed_from=computed_from, write=distributed.is_main_process())
        with span(stage), recorded as entry:
            yield entry

    def computed_from(self, t: int) -> dict[str, Any]:
        """Return what the intermediate files of iteration t are computed from: the run, and the weights that it begins with."""
        weights = self.folder.iteration(t - 1).weights_sha256 if t else None
        return {"run": self.folder.manifest.identity_sha256(), "iteration": t, "weights": weights}

    def load_policy(self, t: int) -> PreTrainedModel:
        """Load iterate t and compare its weights with the hash beside them. Where an adapter is trained, the base is iterate 0.

        Raises:
            UserError: the weights are damaged, or were replaced.
        """
        freed_memory.release()  # the models and the engine of earlier stages go before there is another
        model = self._load(t)
        freed_memory.release()
        return model

    def _load(self, t: int) -> PreTrainedModel:
        adapter, iteration = self.recipe.policy.adapter, self.folder.iteration(t)
        if adapter is None or t == 0:
            return self._load_whole(t, base_bits=adapter.base_bits if adapter else None)
        base = self.folder.iteration(0)
        model = self._load_whole(0, base_bits=adapter.base_bits)
        with span("load"):
            file_hashes.check_iterate(self.folder, t)
            its = adapter_folder.read(iteration.policy)
            adapter_folder.attach(model, its, base_sha256=base.weights_sha256, base=base.policy)
        self._check_weights(t, model)
        return model

    def _load_whole(self, t: int, *, base_bits: int | None) -> PreTrainedModel:
        with span("load"):
            file_hashes.check_iterate(self.folder, t)
            model, _ = policy.load(self.folder.iteration(t).policy, self.recipe.policy, base_bits=base_bits)
        if not base_bits:  # in four bits they are other tensors; the files were checked
            self._check_weights(t, model)
        return model

    def _check_weights(self, t: int, model: PreTrainedModel) -> None:
        iteration = self.folder.iteration(t)
        with span("hash"):
            found = policy.weights_sha256(model)
        if found != iteration.weights_sha256:
            raise UserError(
                f"{iteration.policy}: the weights are not those that were written; remove {iteration.path} and repeat the command"
            )

    def load_trainable(self, t: int) -> PreTrainedModel:
        """Load iterate t to train it further. Where an adapter is trained, iterate 0 gets a new one, which changes nothing yet.

        Raises:
            UserError: the weights are damaged, or were replaced.
        """
        model, settings = self.load_policy(t), self.recipe.policy.adapter
        if settings is None or t > 0:
            return model
        seed = derive_seed(self.run.seed, "adapter")
        return adapters.add(model, settings, base_sha256=self.folder.iteration(0).weights_sha256, seed=seed)

    def save_policy(self, t: int, model: PreTrainedModel) -> None:
        """Write iterate t with its weight hash and model card; the folder appears only when it is complete."""
        path = self.folder.iteration(t).policy
        finish = file_hashes.finish_iteration(self.folder, path)
        with span("save"), files.atomic_folder(path, before_rename=finish) as folder:
            stops = self.renderer.stop_token_ids
            policy.save(model, self.renderer.tokenizer, folder, stop_token_ids=stops, base=self._name_of_base(path))
            with span("hash"):
                found = policy.weights_sha256(model)
            write_fingerprint(folder, found)
            files.write_bytes(folder / CARD, model_card(self.run, t, audit=self.folder.iteration(t).audit()).encode())

    def _name_of_base(self, policy_folder: Path) -> tuple[str, str | None]:
        """Where PEFT finds an adapter's base: on the hub, if the start policy is a model of the hub; else in this run folder."""
        settings = self.recipe.policy
        if settings.source == "hub" and self.recipe.supervised_start is None:
            return settings.name, settings.revision
        return os.path.relpath(self.folder.iteration(0).policy, policy_folder), None
