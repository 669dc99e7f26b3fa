"""The evaluation protocols: what else than a model's weights moves a leaderboard score, under a name.

A protocol fixes how a text becomes tokens, the precision of log-probabilities, and through the task files of its own the prompts,
the numbers of few-shot examples, where a generated answer ends, what is extracted from it, and which mean of MMLU counts. A recipe
names it (`evaluation.protocol`), and results.json does where it is not `current`. docs/leaderboard.md has the table.

The task files that a protocol changes are in evaluation/leaderboard/tasks/SUITE/PROTOCOL/. This module imports neither torch nor
lm-eval.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from spac_repro.documents.suggestions import did_you_mean
from spac_repro.errors import UserError

CURRENT = "current"


@dataclass(frozen=True)
class Protocol:
    """An evaluation protocol. A changed one gets another name, so that a name means the same for ever."""

    name: str
    summary: str
    citation: str  # where its choices are published
    checked_against: str  # what its answers were found equal to, item by item; empty: nothing, it is unchecked
    add_special_tokens: bool | None  # around every text, such as BOS; None: what the tokenizer does by itself
    softmax_dtype: Literal["float32", "model"]  # in which logits become log-probabilities and are summed; model: the weights' dtype

    @property
    def label(self) -> str:
        """The name, and that it is unchecked where it is."""
        return self.name if self.checked_against else f"{self.name} (unchecked)"


_PROTOCOLS = (
    Protocol(
        CURRENT,
        "the task files of the locked lm-eval; special tokens as the tokenizer adds them",
        "lm-evaluation-harness 0.4.13; special tokens since lm-evaluation-harness #3347",
        checked_against="lm-eval 0.4.13 (tests/evaluation/test_leaderboard.py)",
        add_special_tokens=None,
        softmax_dtype="float32",
    ),
    Protocol(
        "v0.4.0-spin",
        "lm-eval 0.4.0, with which SPIN's table was made: no BOS, WinoGrande without its examples, MMLU averaged over questions",
        "lm-eval 0.4.0 on PyPI; lm-evaluation-harness #1249, #1255, #3347; Chen et al. 2024 (SPIN), arXiv 2401.01335, Table 4",
        checked_against="lm-eval 0.4.0 (tests/evaluation/test_protocols.py)",
        add_special_tokens=False,
        softmax_dtype="model",
    ),
    Protocol(
        "leaderboard-v1",
        "the Open LLM Leaderboard v1, as it is documented: no BOS, GSM8K ends at a colon",
        "huggingface.co/docs/leaderboards/open_llm_leaderboard/archive; lm-evaluation-harness commit b281b09",
        checked_against="",
        add_special_tokens=False,
        softmax_dtype="model",
    ),
)


def names() -> tuple[str, ...]:
    """Return the name of every protocol."""
    return tuple(protocol.name for protocol in _PROTOCOLS)


def every() -> tuple[Protocol, ...]:
    """Return every protocol, the current one first."""
    return _PROTOCOLS


def get(name: str) -> Protocol:
    """Return the protocol of this name.

    Raises:
        UserError: there is no such protocol; the message suggests a similar name.
    """
    for protocol in _PROTOCOLS:
        if protocol.name == name:
            return protocol
    raise UserError(f"unknown protocol {name!r}{did_you_mean(name, names())}; choose {', '.join(names())}")


def _known(name: str) -> str:
    try:
        return get(name).name
    except UserError as error:
        raise ValueError(str(error)) from None


Name = Annotated[str, AfterValidator(_known)]  # of a protocol, as a setting
