"""What every stage of a run gets: the run, its folder, its tokenized data, and where to report progress.

A stage is a function of this and of the files in the run folder; it leaves its result there.
"""

import gc
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from spac_repro.data.rendering import Renderer, TokenizedPreferences
from spac_repro.data.sources import Inputs
from spac_repro.errors import UserError
from spac_repro.model import policy
from spac_repro.optim import distributed
from spac_repro.progress import Progress
from spac_repro.publish.model_card import model_card
from spac_repro.recipe import Recipe, Run
from spac_repro.runs import file_hashes, files, timing
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD, write_fingerprint


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
        with timing.record_stage(path, t, stage, computed_from=computed_from, write=distributed.is_main_process()) as entry:
            yield entry

    def computed_from(self, t: int) -> dict[str, Any]:
        """Return what the intermediate files of iteration t are computed from: the run, and the weights that it begins with."""
        weights = self.folder.iteration(t - 1).weights_sha256 if t else None
        return {"run": self.folder.manifest.identity_sha256(), "iteration": t, "weights": weights}

    def load_policy(self, t: int) -> PreTrainedModel:
        """Load iterate t and compare its weights with the hash beside them.

        Raises:
            UserError: the weights are damaged, or were replaced.
        """
        gc.collect()  # the models and the engine of earlier stages, which are cycles of references, go before there is another
        iteration = self.folder.iteration(t)
        file_hashes.check_iterate(self.folder, t)
        model, _ = policy.load(iteration.policy, self.recipe.policy)
        if policy.weights_sha256(model) != iteration.weights_sha256:
            raise UserError(
                f"{iteration.policy}: the weights are not those that were written; remove {iteration.path} and repeat the command"
            )
        return model

    def save_policy(self, t: int, model: PreTrainedModel) -> None:
        """Write iterate t with its weight hash and model card; the folder appears only when it is complete."""
        path = self.folder.iteration(t).policy
        with files.atomic_folder(path, before_rename=file_hashes.finish_iteration(self.folder, path)) as folder:
            policy.save(model, self.renderer.tokenizer, folder, stop_token_ids=self.renderer.stop_token_ids)
            write_fingerprint(folder, policy.weights_sha256(model))
            files.write_bytes(folder / CARD, model_card(self.run, t, audit=self.folder.iteration(t).audit()).encode())
