"""What rendering did to the rows of a data set: how many were cut, hold special tokens' names, and so on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FINDINGS = {
    "prompts_cut": "prompts are longer than data.max_prompt_tokens; their beginning is cut",
    "responses_cut": "rows have a response longer than data.max_response_tokens; it is cut and does not end",
    "straddled": "rows have a token across the border of prompt and response; the response is encoded apart",
    "special_text": "rows hold the name of a special token; it is encoded as letters",
    "already_ended": "rows have a response that ends in the name of a stop token; it ends once",
    "stops_within": "rows have a response with a stop token of the model within it; self-play stops there",
    "prompt_text_dropped": "prompts lose text to the chat template",
    "equal_responses": "rows have equal responses once they are rendered and cut; they state no preference",
}


@dataclass
class RenderingSummary:
    """Counts rows.

    Attributes:
        rows: all rows.
        counts: number of rows by finding (`FINDINGS`); those with none are left out.
        first: the first such row, from 1.
        notes: what is unusual about the chat template.
    """

    rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def add(self, row: int, findings: Mapping[str, bool]) -> None:
        """Count the findings in a row; rows come in order."""
        for finding, found in findings.items():
            if found:
                self.counts[finding] = self.counts.get(finding, 0) + 1
                self.first.setdefault(finding, row)

    def recorded(self) -> dict[str, Any]:
        """Return what a manifest records; it is empty where nothing was found."""
        found = {name: {"rows": self.counts[name], "first_row": self.first[name]} for name in FINDINGS if name in self.counts}
        return {**found, **({"template": list(self.notes)} if self.notes else {})}

    def messages(self) -> list[str]:
        """Return one sentence for each finding."""
        found = [name for name in FINDINGS if name in self.counts]
        return [
            *self.notes,
            *(f"{self.counts[name]} of {self.rows} {FINDINGS[name]} (first: row {self.first[name]})" for name in found),
        ]
