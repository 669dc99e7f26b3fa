"""Compare two runs whose weights are large: `python bench/compare_large.py [--gigabytes 2]`.

The two synthetic runs have weights in two shards each. They differ in the last element, so all weights have to be read. The script
prints the time of `spac-repro compare`, its peak memory, and how many bytes of weights it read (each file should be read once).
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


def write_shard(file: Path, names: list[str], last: bytes) -> None:
    """Write a safetensors file with tensors of these names; `last` are its last two bytes."""
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


def write_run(folder: Path, size: int, last: bytes) -> None:
    """Write a run folder with `size` bytes of weights, of which `last` are the last two."""
    run = RunFolder(folder)
    policy = run.iteration(1).policy
    policy.mkdir(parents=True)
    names = [f"model.layers.{layer}.weight" for layer in range(size // LAYER)]
    half = len(names) // 2
    write_shard(policy / "model-00001-of-00002.safetensors", names[:half], b"\x00\x3f")
    write_shard(policy / "model-00002-of-00002.safetensors", names[half:], last)
    write_fingerprint(policy, last.hex())
    parts: dict[str, dict[str, str]] = {part: {} for part in ("settings", "inputs", "environment")}
    run.manifest_file.write_text(json.dumps({"schema": SCHEMA, "recipe": "synthetic", "method": "spac", "seed": 0, **parts}))


def main(gigabytes: float) -> None:
    with tempfile.TemporaryDirectory(prefix="compare-large-") as temporary:
        a, b = Path(temporary, "a"), Path(temporary, "b")
        for folder, last in ((a, b"\x80\x3f"), (b, b"\x81\x3f")):
            write_run(folder, int(gigabytes * 2**30), last)
        weight_bytes = sum(file.stat().st_size for file in a.rglob("*.safetensors"))
        started = time.perf_counter()
        command = [sys.executable, "-m", "spac_repro", "compare", str(a), str(b), "--json"]
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    comparison = json.loads(done.stdout)
    bytes_read = comparison["weights_read"]
    print(f"weights of each run       {weight_bytes / 1e9:.2f} GB")
    print(f"bytes of weights read     {bytes_read / 1e9:.2f} GB, {bytes_read / weight_bytes / 2:.3f} of both runs'")
    print(f"peak memory               {peak / 1e6:.0f} MB")
    print(f"time                      {seconds:.1f} s")
    print(f"found                     {comparison['summary']['where']}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    main(parser.parse_args().gigabytes)
