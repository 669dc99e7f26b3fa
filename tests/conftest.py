"""What the tests share: real public data where it is at hand, and models small enough to be computed by hand."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# No test asserts how long something takes, and hypothesis would: machines are shared.
# The examples are the same in every run, so that a test that fails does so for everybody. SPAC_REPRO_SEARCH=1 draws new ones; it
# keeps those that failed with the other caches in the environment (docs/testing.md).
CACHES = Path(sys.prefix) / "cache"
database = hypothesis.database.DirectoryBasedExampleDatabase(CACHES / "hypothesis")
hypothesis.settings.register_profile("same", deadline=None, database=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("search", deadline=None, database=database, print_blob=True)
hypothesis.settings.load_profile("search" if os.environ.get("SPAC_REPRO_SEARCH") == "1" else "same")

sys.path.insert(0, str(Path(__file__).parent / "machine"))  # what tests ask of the machine: needs.py
sys.path.insert(0, str(Path(__file__).parent / "data"))  # chat models of known families: chat_families.py

import needs  # noqa: E402

for name in ("XDG_CACHE_HOME", "HF_HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
    os.environ.setdefault(name, str(CACHES / name.lower()))

# Before anything starts torch: workers share the cores, and threads that wait by spinning slow each other down.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# A shell's background jobs ignore Ctrl-C, and would hand that on to the commands that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# submitit sets up logging when it is imported, and Python then closes every handler there is. absl's, which TensorBoard brings,
# closes its stream too, and that may be the one in which pytest captures. So submitit is imported before there is a handler.
import submitit  # noqa: E402, F401

VOCABULARY = 37


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real leaderboard questions and real preference pairs (SPAC_REPRO_SHARED, default beside the checkout)."""
    folder = Path(os.environ.get("SPAC_REPRO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "leaderboard").is_dir():
        pytest.skip(f"real leaderboard questions and preference pairs are not at {folder} (set SPAC_REPRO_SHARED)")
    return folder


@pytest.fixture(scope="session")
def one_thread() -> None:
    """Tensors as small as the tests' gain nothing from a second thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_models(one_thread: None) -> dict[str, Any]:
    """A random model of each supported architecture; Mistral's window is shorter than most sequences of the tests.

    Weights are drawn wide, so that every token that is looked at matters to the result.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from spac_repro.model.policy import use_packed_attention

    def shape(**more: Any) -> dict[str, Any]:
        return {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": 0.4,
            **more,
        }

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = {
            "llama": LlamaForCausalLM(LlamaConfig(**shape())),
            "mistral": MistralForCausalLM(MistralConfig(**shape(sliding_window=4))),
            "qwen2": Qwen2ForCausalLM(Qwen2Config(**shape(tie_word_embeddings=True))),
        }
    return {name: use_packed_attention(model.eval(), "sdpa") for name, model in models.items()}


@pytest.fixture(scope="session")
def slow_logprob() -> Callable[..., Any]:
    """log π(y|x) by the definition: one forward pass a token, on the tokens before it alone, without padding or masks."""
    import torch

    def logprob(model: Any, prompt: list[int], response: list[int]) -> Any:
        total = torch.zeros((), dtype=torch.float64)
        for place, token in enumerate(response):
            logits = model(input_ids=torch.tensor([[*prompt, *response[:place]]]), use_cache=False).logits[0, -1]
            total = total + logits.double().log_softmax(-1)[token]
        return total

    return logprob


MARKERS = ("e2e", "theory", "real", "distributed", "slurm", "images", "compare", "browser", "teeth", "gpu")
# What `make test` leaves to `make check`: all tests of these, and single others that are marked `check` themselves.
# docs/decisions/12-tests-moved.md: how the tests were split between the two.
CHECKED = ("distributed", "slurm", "images", "compare", "browser")


@pytest.hookimpl(tryfirst=True)  # before pytest reads the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep out of `make test` whatever needs root, apt-get or long: its markers imply `check`."""
    for item in items:
        if any(item.get_closest_marker(marker) for marker in CHECKED):
            item.add_marker(pytest.mark.check)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Only a test of `make check` may install or mount anything on the machine, whoever runs it."""
    needs.allowed = item.get_closest_marker("check") is not None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long the tests of each marker took: docs/testing.md gives every marker a budget."""
    seconds: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                marker = next((marker for marker in MARKERS if marker in report.keywords), "unit")
                seconds[marker] = seconds.get(marker, 0.0) + report.duration
    for marker, total in seconds.items():
        terminalreporter.write_line(f"{marker:<12} {total / 60:5.1f} min")
