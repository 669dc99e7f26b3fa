"""The signal that a rehearsal sends itself, or asks Slurm for, in its training."""

import os
import signal
import time
from pathlib import Path

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.launchers.rehearsal import SIGNAL_REQUEST
from spac_repro.optim import distributed, signals
from spac_repro.progress import NoProgress, Progress
from spac_repro.rehearsal import plan as plans

SIGNAL_SECONDS = 60.0  # to wait for a signal that comes through other processes
SETTLING_SECONDS = 2.0  # such a signal may come twice, from the scheduler and from the job; the second one is ignored so long


class Interrupter(NoProgress):
    """Sends this process a signal in its training, as a scheduler does before the time limit; passes progress on.

    Args:
        shown: gets the stages and their progress; the messages of a small run are left out.
        visit: in words, before the names of its stages.
    """

    def __init__(self, shown: Progress | None = None, visit: str = "") -> None:
        self.sent = False
        self._training = False
        self._shown = shown or NoProgress()
        self._visit = visit

    def start_stage(self, name: str) -> None:
        """Note whether the training begins."""
        self._training = name.endswith(": training")
        self._shown.start_stage(f"{self._visit}: {name}")

    def update(self, done: int, total: int) -> None:
        """Send the signal before the last step that is to be taken, and wait until it has come."""
        self._shown.update(done, total)
        if not self._training or self.sent or done != plans.INTERRUPTED_AFTER - 1 or not distributed.is_main_process():
            return
        self.sent = True
        request = Path(os.environ.get(SIGNAL_REQUEST, ""))
        through_scheduler = SIGNAL_REQUEST in os.environ and not request.exists()
        if through_scheduler:
            request.touch()
        else:
            os.kill(os.getpid(), signal.SIGUSR2)
        deadline = time.monotonic() + SIGNAL_SECONDS
        while not signals.stop_requested():
            if time.monotonic() > deadline:
                raise UnfitEnvironmentError(
                    f"a signal to the job did not reach the training within {SIGNAL_SECONDS:.0f} s: a run would lose its last "
                    "steps at the time limit; check `setup` and the image of the cluster profile"
                )
            time.sleep(0.05)
        if through_scheduler:
            time.sleep(SETTLING_SECONDS)
        signals.hear_the_end()
