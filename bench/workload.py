"""The workload of the training benchmarks: a Mistral of 4.9 M parameters, random preferences, and a description of the machine."""

import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / ".venv" / "peers"  # where `make bench` puts TRL
VOCABULARY, PAD, START, STOP = 4096, 0, 1, 2
PROMPTS = {"short": (24, 40), "long": (160, 224)}  # tokens; long: as long as two responses together
RESPONSES = (80, 112)


def create_model() -> Any:
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    shape = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=STOP,
    )
    return MistralForCausalLM(shape)


def random_preferences(number: int, prompts: str, responses: int) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield `number` prompts of random tokens, each with `responses` responses, without the end-of-sequence token."""
    rng = random.Random(0)

    def draw(least: int, most: int) -> list[int]:
        return [rng.randrange(4, VOCABULARY) for _ in range(rng.randint(least, most))]

    for _ in range(number):
        yield draw(*PROMPTS[prompts]), [draw(*RESPONSES) for _ in range(responses)]


def create_tokenizer() -> Any:
    """Return a tokenizer whose words w4, w5, … have the ids 4, 5, …"""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = {"<pad>": PAD, "<s>": START, "</s>": STOP, "<unk>": 3}
    words = Tokenizer(models.WordLevel({**specials, **{f"w{i}": i for i in range(4, VOCABULARY)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special_tokens = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special_tokens)  # type: ignore[no-untyped-call]


def as_text(tokens: Sequence[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def run_in_subprocess(script: str, *arguments: str, threads: int) -> dict[str, Any]:
    """Run `script --child …` in a new process; return the JSON object that is its last line."""
    path = os.pathsep.join([str(ROOT), os.environ.get("SPAC_REPRO_PEERS", str(PEERS))])
    environment = {
        **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)} failed ({done.stderr.strip().splitlines()[-1:]}); is TRL there (make bench)?")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def memory_use() -> dict[str, int]:
    """Return this process's peak resident memory (pages of mapped files included) and its present anonymous memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    own = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "own_bytes": int(own.split()[1]) * 1024,
    }


def median_and_range(values: Sequence[float]) -> str:
    """Format the median with the lowest and the highest value."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def describe_machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {
        "cpu": f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores",
        "commit": commit,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "busy": f"load {os.getloadavg()[0]:.1f} when it began",
    }
