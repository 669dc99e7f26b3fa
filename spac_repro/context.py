"""What every stage of a run is given: the run, its folder, its data in tokens, and how to report. It does not change.

A stage is a function of this and of what lies in the run folder; it leaves its result there.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from spac_repro.data.inputs import Inputs
from spac_repro.data.rendering import Examples, Renderer
from spac_repro.errors import UserError
from spac_repro.model import policy
from spac_repro.optim import processes
from spac_repro.progress import Progress
from spac_repro.publish.model_card import card
from spac_repro.recipe import Recipe, Run
from spac_repro.runs import files, timing
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import CARD, write_fingerprint


@dataclass(frozen=True)
class Context:
    """The fixed surroundings of a run's stages."""

    run: Run
    folder: RunFolder
    inputs: Inputs
    renderer: Renderer
    examples: Examples  # the preferences in tokens
    progress: Progress

    @property
    def recipe(self) -> Recipe:
        return self.run.recipe

    @cached_property
    def _accelerator(self) -> Accelerator:
        half = self.recipe.training.precision == "bfloat16"
        return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if half else "no")

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        return self._accelerator.device

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of training, for what is computed outside an engine."""
        context: AbstractContextManager[None] = self._accelerator.autocast()
        return context

    @contextmanager
    def timed(self, t: int, stage: str) -> Iterator[dict[str, Any]]:
        """Report and time a stage of iteration t; what is put into the dict stands in timing.json too."""
        self.progress.stage(f"iteration {t}: {stage}")
        with timing.record_stage(self.folder.timing_file, t, stage, write=processes.is_main()) as entry:
            yield entry

    def load_policy(self, t: int) -> PreTrainedModel:
        """Iterate t, checked against the hash that was written beside it.

        Raises:
            UserError: the weights are other ones, or damaged.
        """
        its = self.folder.iteration(t)
        model, _ = policy.load(its.policy, self.recipe.policy)
        if policy.weights_sha256(model) != its.weights_sha256:
            raise UserError(f"{its.policy}: the weights are not those that were written; remove {its.path} and repeat the command")
        return model

    def save_policy(self, t: int, model: PreTrainedModel) -> None:
        """Write iterate t, whole or not at all, with its hash and its card."""
        with files.atomic_folder(self.folder.iteration(t).policy) as folder:
            policy.save(model, self.renderer.tokenizer, folder)
            write_fingerprint(folder, policy.weights_sha256(model))
            files.write_bytes(folder / CARD, card(self.run, t).encode())


def there(path: Path) -> bool:
    """Whether a file is there: the main process looks for all, lest one sees what another does not see yet."""
    return processes.on_main(path.exists)
