"""Rows rendered a minute on one core: prompt, chosen and rejected response, with offsets and counts.

python bench/rendering.py
"""

import os
import sys
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import text_invariants

from spac_repro.data.preferences import Preference

ROWS = 20_000
NAMES = ("SentencePiece BPE, legacy (Mistral v1)", "byte-level BPE (SmolLM2)", "Tekken (Mistral)", "the built-in world's")


def main() -> None:
    """Print a table."""
    rows = [
        Preference(
            ({"role": "user", "content": f"What is {i} plus {i + 1}? Tell me in words, and say how you found it."},),
            f"It is {2 * i + 1}, because I added the two.",
            f"I think that it is {i}.",
        )
        for i in range(ROWS)
    ]
    print("| tokenizer | frame | rows a minute of CPU time |\n| --- | --- | --- |")
    for name in NAMES:
        for frame in text_invariants.FRAMES:
            renderer = text_invariants.make_renderer(name, frame)
            begin = time.process_time()
            renderer.tokenize(rows)
            print(f"| {name} | {frame} | {ROWS / (time.process_time() - begin) * 60:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
