"""The folder iteration-<t>/ of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from spac_repro.errors import UserError
from spac_repro.runs import answers, audit, files, parquet
from spac_repro.runs.answers import Answers
from spac_repro.runs.audit import Audit
from spac_repro.runs.parquet import Columns
from spac_repro.runs.results import Score

_SCORES = TypeAdapter(tuple[Score, ...])
# In a policy's folder:
FINGERPRINT = "fingerprint.json"  # the hash of its weights
CARD = "README.md"  # its model card


@dataclass(frozen=True)
class IterationFolder:
    """The folder of one iteration."""

    path: Path
    number: int

    # Paths

    @property
    def policy(self) -> Path:
        """The iterate: a Hugging Face model folder. It appears when the training of the iteration is complete."""
        return self.path / "policy"

    @property
    def fingerprint_file(self) -> Path:
        """The hash of the iterate's weights."""
        return self.policy / FINGERPRINT

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, while the iteration is unfinished."""
        return self.path / "training"

    @property
    def selfplay_batches_folder(self) -> Path:
        """Self-play responses by batch, until `dataset_file` holds all of them."""
        return self.path / "selfplay"

    @property
    def dataset_file(self) -> Path:
        """Preferences with self-play responses and reference log-probabilities, as Parquet."""
        return self.path / "selfplay.parquet"

    @property
    def audit_file(self) -> Path:
        """How well the data's responses and the self-play responses can be told apart."""
        return self.path / "audit.json"

    @property
    def scores_file(self) -> Path:
        """The scores of the iterate."""
        return self.path / "scores.json"

    @property
    def answers_file(self) -> Path:
        """The answers that the scores are computed from; versions before 0.3 wrote none."""
        return self.path / "answers.parquet"

    @property
    def samples_file(self) -> Path:
        """The iterate's responses to the first prompts."""
        return self.path / "samples.json"

    @property
    def gold_file(self) -> Path:
        """The rewards of the start policy, which later iterates are compared with; in iteration 0 only."""
        return self.path / "gold.json"

    @property
    def heldout_file(self) -> Path:
        """Held-out preferences with their log-probabilities under π_0; in iteration 0 only."""
        return self.path / "heldout.parquet"

    # Contents

    @property
    def has_policy(self) -> bool:
        """Whether the iterate is computed."""
        return self.policy.is_dir()

    @property
    def has_dataset(self) -> bool:
        """Whether the self-play responses are all sampled and stored."""
        return self.dataset_file.exists()

    @property
    def has_scores(self) -> bool:
        """Whether the iterate is scored."""
        return self.scores_file.exists()

    @property
    def finished(self) -> bool:
        """Whether the iterate is computed and scored."""
        return self.has_policy and self.has_scores

    @property
    def weights_sha256(self) -> str:
        """The recorded hash of the weights.

        Raises:
            UserError: There is none.
        """
        fingerprint = files.read_json(self.fingerprint_file)
        if not isinstance(fingerprint, dict) or "weights_sha256" not in fingerprint:
            raise UserError(f"{self.fingerprint_file}: no weights_sha256; remove {self.path} and repeat the run's command")
        return str(fingerprint["weights_sha256"])

    def scores(self) -> tuple[Score, ...]:
        """Read the iterate's scores.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            return _SCORES.validate_python(files.read_json(self.scores_file))
        except ValidationError:
            raise UserError(f"{self.scores_file}: not a list of scores; remove it and repeat the run's command") from None

    def answers(self) -> Answers | None:
        """Read the answers of the iterate; None where they were not kept.

        Raises:
            UserError: The file is damaged.
        """
        return answers.read(self.answers_file) if self.answers_file.exists() else None

    def audit(self) -> Audit | None:
        """Read the audit of the responses; None where it was not measured.

        Raises:
            UserError: The file is damaged.
        """
        return audit.read(self.audit_file) if self.audit_file.exists() else None

    def samples(self) -> list[str]:
        """Read the iterate's responses to the first prompts. Return an empty list where they were not kept."""
        return list(map(str, files.read_json(self.samples_file))) if self.samples_file.exists() else []

    def read_dataset(self) -> Columns:
        """Read `dataset_file` as plain values by column.

        Raises:
            UserError: The file is damaged.
        """
        return parquet.read_columns(self.dataset_file)


def write_fingerprint(policy: Path, weights_sha256: str) -> None:
    """Write the hash of a policy's weights into its folder."""
    content: dict[str, Any] = {"weights_sha256": weights_sha256}
    files.write_json(policy / FINGERPRINT, content)
