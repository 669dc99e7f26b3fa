"""metrics.jsonl: one line an optimiser step. No clock times: equal runs write equal lines."""

import json
from pathlib import Path
from typing import Any


def encode(line: dict[str, Any]) -> bytes:
    """A line of metrics.jsonl."""
    return (json.dumps(line) + "\n").encode()


def read(path: Path) -> list[dict[str, Any]]:
    """Every line up to the first that was not written whole; none where there is no file."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines
