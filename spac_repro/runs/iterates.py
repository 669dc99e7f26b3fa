"""The model folder that a command is given: an iterate of a run, or any other one."""

from dataclasses import dataclass
from pathlib import Path

from spac_repro.errors import UserError
from spac_repro.runs import file_hashes
from spac_repro.runs.folder import RunFolder, number_of_iterate, run_of_policy


@dataclass(frozen=True)
class ModelFolder:
    """A model folder, and the run that it is an iterate of; None where it belongs to no run."""

    path: Path
    run: RunFolder | None = None
    iteration: int | None = None

    def base(self) -> Path | None:
        """Return the start policy of the run, which an adapter's base is, with every file checked; None without a run.

        Raises:
            UserError: it was removed, or a file of it was changed.
        """
        if self.run is None:
            return None
        start = self.run.iteration(0)
        if not start.has_policy:
            raise UserError(f"{start.policy}: removed, and the adapter in {self.path} needs it as its base; train the run again")
        file_hashes.check_iterate(self.run, 0)
        return start.policy


def find(target: Path) -> ModelFolder:
    """Find the model folder that `target` names: itself, or the last iterate of a run. Every file of an iterate is checked.

    Raises:
        UserError: there is no such folder or no such iterate, or a file of it was changed.
    """
    if not target.is_dir():
        raise UserError(f"{target}: no such folder; give a Hugging Face model folder or a run folder")
    if not RunFolder(target).has_manifest:
        run = run_of_policy(target)
        number = number_of_iterate(target)
        if run is None or number is None:
            return ModelFolder(target)
        file_hashes.check_iterate(run, number)
        return ModelFolder(target, run, number)
    run = RunFolder.open(target)
    last = run.last_iterate()
    if last is None:
        raise UserError(f"{target}: the run has no finished iterate yet; repeat its train command")
    if run.complete and last.number != run.results.iterations[-1].iteration:
        raise UserError(f"{target}: its last iterate was removed; to take an earlier one, name its folder, such as {last.policy}")
    file_hashes.check_iterate(run, last.number)
    return ModelFolder(last.policy, run, last.number)
