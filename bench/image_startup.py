"""Start-up time of an image: `python bench/image_startup.py IMAGE [IMAGE …]`, IMAGE as in `spac-repro train --in`.

One short command (`recipes show tiny`) is timed on the host and in each image, in turns, so other load on the machine affects all
of them alike. The script prints the medians, and what an image adds in seconds and as a ratio.
"""

import statistics
import subprocess
import sys
import time

REPEATS = 5
COMMAND = ["recipes", "show", "tiny", "--json"]


def seconds(words: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "spac_repro", *words], check=True, capture_output=True)
    return time.perf_counter() - started


def main(images: list[str]) -> None:
    commands = {"host": COMMAND, **{image: ["image", "run", image, *COMMAND] for image in images}}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(REPEATS):
        for name, words in commands.items():
            times[name].append(seconds(words))
    host = statistics.median(times["host"])
    print("| where | median, s | added, s | ratio |\n| --- | --- | --- | --- |")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name.partition(':')[0]} | {median:.2f} | {median - host:.2f} | {median / host:.1f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
