"""Make the lock files: every package pinned by version and hash, without the names of hosts.

    python requirements/lock.py        (with the uv of requirements/test.lock)

base.lock     what the package imports, PyTorch apart, for any machine
cpu.lock      PyTorch's CPU build, for a machine whose pip has an index with it
cuda.lock     PyTorch as PyPI has it: on Linux the CUDA build and the NVIDIA libraries that it needs, on macOS the CPU build
smollm2.lock  the wheel with the weights of SmolLM2-135M-Instruct, and the reader of its format
compiler.lock the C compiler of the cuda image, for Triton
image.lock    the tools that build the image and are not in it; complete by itself, independent of base.lock
test.lock     the packages of the tests
tokenizers.lock  Mistral's tokenizers and the reader of SentencePiece models, for the tests
lm_eval_0_4_0.lock  lm-eval 0.4.0 and the libraries of its time, for the tests of protocol v0.4.0-spin
bench.lock    TRL, which bench/ compares with
vllm.lock     vLLM and all that it needs, for an environment of its own on Linux x86-64; independent of base.lock

Each lock is complete and is installed with --no-deps, so a package that is not listed here cannot be installed.
docs/decisions/01-locks.md gives the reasons.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CUDA = re.compile(r"^(torch|nvidia|cuda|triton)\b")

# PyTorch has two builds under one version, so it has two locks. With both hashes on one line, pip takes the build whose hash the
# index states, and never the one in a local folder.
TORCH_CPU = """\
torch==2.13.0+cpu \\
    --hash=sha256:6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"""

HEADER = "# Made by requirements/lock.py from {source}. Do not edit: change {source} and run `make lock`.\n"


def resolve(source: str, *options: str, machines: tuple[str, ...] = ("--universal",)) -> list[str]:
    """Resolve one input file with uv. Returns one text block per package."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        source,
        *machines,
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
    """Write the text blocks of the packages as a lock file."""
    (HERE / lock).write_text(HEADER.format(source=source) + "\n".join(blocks) + "\n")


def main() -> None:
    """Write every lock file."""
    blocks = resolve("base.in")
    write("base.lock", "base.in", [b for b in blocks if not CUDA.match(b)])
    write("cpu.lock", "base.in", [TORCH_CPU])
    write("cuda.lock", "base.in", [b for b in blocks if CUDA.match(b)])
    write("image.lock", "image.in", resolve("image.in"))
    write("compiler.lock", "compiler.in", resolve("compiler.in"))
    write("smollm2.lock", "smollm2.in", resolve("smollm2.in", "--no-deps"))
    write("tokenizers.lock", "tokenizers.in", resolve("tokenizers.in", "--no-deps"))
    write("lm_eval_0_4_0.lock", "lm_eval_0_4_0.in", resolve("lm_eval_0_4_0.in", "--no-deps"))
    write("bench.lock", "bench.in", resolve("bench.in", "--no-deps"))
    # vLLM's wheels are for Linux with an NVIDIA GPU. A lock for every platform would be a third longer.
    write("vllm.lock", "vllm.in", resolve("vllm.in", machines=("--python-platform", "x86_64-manylinux_2_28")))
    # test.lock lists only packages that base.lock does not.
    base = {b.split("==")[0] for b in blocks}
    write("test.lock", "test.in", [b for b in resolve("test.in", "--override", "test.override") if b.split("==")[0] not in base])


if __name__ == "__main__":
    main()
