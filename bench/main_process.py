"""What the main process of a large run does alone: `python bench/main_process.py` measures its hashing and its contamination.

Times are those of the processor, of one core. Hashing is measured on 1 GB of zeros. Contamination is measured for 2,000 prompts of
150 random words against 25,000 questions, and the prompts' part is scaled to 50,000.
"""

import hashlib
import random
import time

from spac_repro.data import contamination

PROMPTS, MEASURED, QUESTIONS = 50_000, 2_000, {"short": (14_000, 60), "long": (11_000, 100)}
WORDS = [f"w{i}" for i in range(30_000)]


def seconds_of_contamination() -> float:
    """Seconds for `PROMPTS` prompts."""
    draw = random.Random(0)
    questions = {name: [" ".join(draw.choices(WORDS, k=words)) for _ in range(n)] for name, (n, words) in QUESTIONS.items()}
    prompts = [" ".join(draw.choices(WORDS, k=150)) for _ in range(MEASURED)]
    times = []
    for measured in ([], prompts):
        start = time.process_time()
        contamination.measure(measured, questions)
        times.append(time.process_time() - start)
    return times[0] + (times[1] - times[0]) * PROMPTS / MEASURED


def main() -> None:
    """Print both."""
    content = bytes(10**9)
    start = time.process_time()
    hashlib.sha256(content).digest()
    print(f"SHA-256: {1 / (time.process_time() - start):.2f} GB/s")
    number = sum(n for n, _ in QUESTIONS.values())
    print(f"contamination of {number:,} questions by {PROMPTS:,} prompts: {seconds_of_contamination():.0f} s")


if __name__ == "__main__":
    main()
