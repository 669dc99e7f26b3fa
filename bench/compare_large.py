"""Compare two runs whose weights are large: `python bench/compare_large.py [--gigabytes 2]`.

Two synthetic run folders, with weights in two shards each that differ in the very last element, so that everything has to be read.
Says how long `spac-repro compare` took, its peak memory, and how many bytes of weights it read: each file once.
"""

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from spac_repro.runs.folder import RunFolder
from spac_repro.runs.iteration import write_fingerprint
from spac_repro.runs.manifest import SCHEMA

ROOT = Path(__file__).resolve().parents[1]
LAYER = 64 * 2**20  # bytes of a tensor, in bfloat16


def shard(file: Path, names: list[str], last: bytes) -> None:
    """A safetensors file of such tensors; `last` are its last two bytes."""
    entries = {
        name: {"dtype": "BF16", "shape": [LAYER // 8192, 4096], "data_offsets": [place * LAYER, (place + 1) * LAYER]}
        for place, name in enumerate(names)
    }
    header = json.dumps(entries).encode()
    block = bytes(range(256)) * (LAYER // 256)
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        for _ in names:
            stream.write(block)
        stream.seek(-2, os.SEEK_END)
        stream.write(last)


def run_folder(folder: Path, size: int, last: bytes) -> None:
    run = RunFolder(folder)
    policy = run.iteration(1).policy
    policy.mkdir(parents=True)
    names = [f"model.layers.{layer}.weight" for layer in range(size // LAYER)]
    half = len(names) // 2
    shard(policy / "model-00001-of-00002.safetensors", names[:half], b"\x00\x3f")
    shard(policy / "model-00002-of-00002.safetensors", names[half:], last)
    write_fingerprint(policy, last.hex())
    parts = {part: {} for part in ("settings", "inputs", "environment")}
    run.manifest_file.write_text(json.dumps({"schema": SCHEMA, "recipe": "synthetic", "method": "spac", "seed": 0, **parts}))


def main(gigabytes: float) -> None:
    with tempfile.TemporaryDirectory(prefix="compare-large-") as temporary:
        a, b = Path(temporary, "a"), Path(temporary, "b")
        for folder, last in ((a, b"\x80\x3f"), (b, b"\x81\x3f")):
            run_folder(folder, int(gigabytes * 2**30), last)
        held = sum(file.stat().st_size for file in a.rglob("*.safetensors"))
        begun = time.perf_counter()
        command = [sys.executable, "-m", "spac_repro", "compare", str(a), str(b), "--json"]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    found = json.loads(done.stdout)
    print(f"weights of each run       {held / 1e9:.2f} GB")
    print(f"bytes of weights read     {found['weights_read'] / 1e9:.2f} GB, {found['weights_read'] / held / 2:.3f} of both runs'")
    print(f"peak memory               {peak / 1e6:.0f} MB")
    print(f"time                      {seconds:.1f} s")
    print(f"found                     {found['summary']['where']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    main(parser.parse_args().gigabytes)
