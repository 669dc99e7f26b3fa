"""Self-play responses sampled by vLLM, in a process and an environment of its own (`make vllm`, requirements/vllm.lock).

vLLM needs another numpy than this package, so one environment cannot hold both. The process releases its memory when it ends. The
parent sends prompts as token ids, one batch a line, and receives responses as token ids, one batch a line. Seeds, end of a
response, limits and chat template are those of the package's own sampler, but the same seed draws other responses. This was never
run with vLLM itself, because no GPU was available; the tests use a stand-in.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType

import torch

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.seeds import derive_seed

# All that torch's elastic agent sets for its workers (in torch/distributed/elastic/agent/server/local_elastic_agent.py), torchrun's
# own variables, and Accelerate's and DeepSpeed's.
LAUNCHER_VARIABLE = re.compile(
    r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|LOCAL_SIZE|CROSS_RANK|CROSS_SIZE|ROLE_NAME|MASTER_(ADDR|PORT)"
    r"|TORCH_NCCL_ASYNC_ERROR_HANDLING|(TORCHELASTIC|PET|ACCELERATE|FSDP|DS|DEEPSPEED)_.*"
)
PYTHON_VARIABLE = "SPAC_REPRO_VLLM_PYTHON"  # environment variable: the interpreter of an environment with vLLM
WORKER = Path(__file__).with_name("vllm_worker.py")
VERSIONS = "import json, importlib.metadata as m; print(json.dumps({n: m.version(n) for n in ('vllm', 'torch', 'transformers')}))"


def python() -> Path:
    """The interpreter that runs vLLM: that of `make vllm`, unless PYTHON_VARIABLE names another."""
    return Path(os.environ.get(PYTHON_VARIABLE, Path(sys.prefix) / "vllm" / "bin" / "python"))


@cache
def versions() -> dict[str, str]:
    """The versions of vLLM, torch and transformers in vLLM's environment.

    Raises:
        UnfitEnvironmentError: there is no such environment, or one of them is missing in it.
    """
    try:
        found: dict[str, str] = json.loads(subprocess.check_output([python(), "-P", "-c", VERSIONS], stderr=subprocess.DEVNULL))
    except (OSError, subprocess.CalledProcessError):
        raise UnfitEnvironmentError(
            f"selfplay.backend is vllm, which is not installed for {python()}: `make vllm` installs it, {PYTHON_VARIABLE} names "
            "another Python, and --set selfplay.backend=transformers does without (and draws other responses)"
        ) from None
    return found


def without_launcher(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment variables without those by which torchrun, Accelerate or DeepSpeed tell a process that it is one of a group.

    With TORCHELASTIC_USE_AGENT_STORE, for example, a process group of one process would wait for a store that nobody serves.
    """
    return {name: value for name, value in variables.items() if not LAUNCHER_VARIABLE.fullmatch(name)}


class Sampler:
    """Samples batches for `selfplay.sample_responses`; the first batch starts vLLM."""

    def __init__(
        self,
        policy: Path,
        *,
        dtype: str,
        temperature: float,
        top_p: float,
        max_prompt_tokens: int,
        max_response_tokens: int,
        stop_token_ids: Sequence[int],
    ) -> None:
        """Set up the sampler.

        Args:
            policy: a Hugging Face model folder.
            dtype: of the weights, as torch names it.
            temperature: divides the logits.
            top_p: nucleus sampling; 1: off.
            max_prompt_tokens: the longest prompt.
            max_response_tokens: the longest response, the stop token included.
            stop_token_ids: each of them ends a response.
        """
        self.settings = {
            "engine": {
                "model": str(policy.resolve()), "dtype": dtype, "max_model_len": max_prompt_tokens + max_response_tokens, "seed": 0,
                "skip_tokenizer_init": True, "trust_remote_code": False, "generation_config": "vllm",
                "gpu_memory_utilization": 0.6,  # the policy is on the same GPU
                "enable_prefix_caching": False,  # a resumed run would not have the cache of earlier batches
            },
            "sampling": {
                "temperature": temperature, "top_p": top_p, "max_tokens": max_response_tokens,
                "stop_token_ids": list(stop_token_ids), "ignore_eos": True, "detokenize": False,
            },
        }  # fmt: skip
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """Sample one response to each prompt.

        Args:
            prompts: token ids.
            seed: of the batch.

        Returns:
            Token ids, up to and including the stop token.

        Raises:
            UnfitEnvironmentError: vLLM ended.
        """
        process = self.process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        batch = [{"prompt": list(prompt), "seed": derive_seed(seed, i)} for i, prompt in enumerate(prompts)]
        try:
            process.stdin.write(json.dumps(batch) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise UnfitEnvironmentError(f"vLLM ended with exit code {process.wait()}; its own messages are above") from None
        responses: list[list[int]] = json.loads(line)
        return responses

    def _start(self) -> "subprocess.Popen[str]":
        environment = without_launcher(os.environ)
        rank = os.environ.get("LOCAL_RANK")
        if rank is not None:  # each process of a run has its own GPU and its own vLLM
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[int(rank)] if gpus else rank
        # Run the engine within that process: nothing outlives a kill, and requests are taken in a fixed order.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        torch.cuda.empty_cache()  # vLLM needs its share of the GPU's memory to be free, which torch's cached blocks are not
        command = [str(python()), "-P", str(WORKER), json.dumps(self.settings)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None:
            if kind is not None:
                self.process.kill()
            with suppress(BrokenPipeError):  # it died with requests unread
                self.process.communicate()
