"""What the benchmarks of training compute: a 4.9 M Mistral, random preferences, and the machine that this ran on."""

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
PROMPTS = {"short": (24, 40), "long": (160, 224)}  # long: as long as two responses together
RESPONSES = (80, 112)


def model() -> Any:
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


def preferences(number: int, prompts: str, responses: int) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Random tokens: a prompt each, and so many responses to it, without the token that ends them."""
    rng = random.Random(0)

    def draw(least: int, most: int) -> list[int]:
        return [rng.randrange(4, VOCABULARY) for _ in range(rng.randint(least, most))]

    for _ in range(number):
        yield draw(*PROMPTS[prompts]), [draw(*RESPONSES) for _ in range(responses)]


def tokenizer() -> Any:
    """Words w4, w5, … are the tokens of those numbers."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    specials = {"<pad>": PAD, "<s>": START, "</s>": STOP, "<unk>": 3}
    words = Tokenizer(models.WordLevel({**specials, **{f"w{i}": i for i in range(4, VOCABULARY)}}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def text(tokens: Sequence[int]) -> str:
    return " ".join(f"w{token}" for token in tokens)


def child(script: str, *arguments: str, threads: int) -> dict[str, Any]:
    """Run `script --child …` in a process of its own; its last line is what it found."""
    path = os.pathsep.join([str(ROOT), os.environ.get("SPAC_REPRO_PEERS", str(PEERS))])
    environment = {
        **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads), "GOMP_SPINCOUNT": "10000",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    done = subprocess.run([sys.executable, script, *arguments], env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} {' '.join(arguments)} failed ({done.stderr.strip().splitlines()[-1:]}); is TRL there (make bench)?")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory() -> dict[str, int]:
    """Of this process: the most that was resident, pages of mapped files included; and what is its own now."""
    status = Path("/proc/self/status").read_text()
    own = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return {
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "own_bytes": int(own.split()[1]) * 1024,
    }


def spread(values: Sequence[float]) -> str:
    """Median, and how far apart the lowest and the highest are."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def machine() -> dict[str, str]:
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
