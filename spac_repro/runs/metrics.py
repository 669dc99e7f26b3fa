"""metrics.jsonl: one line an optimiser step. No clock times: equal runs write equal lines."""

import json
from pathlib import Path
from typing import Any

from spac_repro.documents import strict_json
from spac_repro.errors import UserError


def encode(line: dict[str, Any]) -> bytes:
    """A line of metrics.jsonl."""
    return (json.dumps(line) + "\n").encode()


def read(path: Path) -> list[dict[str, Any]]:
    """Every line up to the first that was not written whole; none where there is no file."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(errors="replace").splitlines():
            try:
                lines.append(strict_json.parse(text, str(path), dict))
            except UserError:
                break
    return lines
