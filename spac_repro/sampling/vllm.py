"""Self-play responses sampled by vLLM, where it is installed (the extra `vllm`), in a process of its own.

That process releases its memory when it ends. The parent sends prompts as token ids, one batch a line, and receives responses as
token ids, one batch a line. Seeds, end of a response, limits and chat template are those of the package's own sampler, but the same
seed draws other responses. This was never run with vLLM itself, because no GPU was available; the tests use a stand-in.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from spac_repro.errors import UnfitEnvironmentError
from spac_repro.seeds import derive_seed

TORCHRUN_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def check_installed() -> None:
    """Check that vLLM is installed.

    Raises:
        UnfitEnvironmentError: it is not.
    """
    if find_spec("vllm") is None:
        raise UnfitEnvironmentError(
            "selfplay.backend is vllm, which is not installed: pip install 'spac-repro[vllm]', or --set "
            "selfplay.backend=transformers (which draws other responses)"
        )


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
        environment = {name: value for name, value in os.environ.items() if name not in TORCHRUN_VARIABLES}
        rank = os.environ.get("LOCAL_RANK")
        if rank is not None:  # each process of a run has its own GPU and its own vLLM
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = gpus.split(",")[int(rank)] if gpus else rank
        # Run the engine within that process: nothing outlives a kill, and requests are taken in a fixed order.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        torch.cuda.empty_cache()  # vLLM needs its share of the GPU's memory to be free, which torch's cached blocks are not
        command = [sys.executable, "-P", "-m", "spac_repro.sampling.vllm", json.dumps(self.settings)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None:
            if kind is not None:
                self.process.kill()
            with suppress(BrokenPipeError):  # it died with requests unread
                self.process.communicate()


def main(settings: dict[str, dict[str, Any]]) -> None:
    """Run vLLM: read batches from standard input, one a line, and write responses to standard output, one line a batch.

    Args:
        settings: `engine` (arguments of `vllm.LLM`) and `sampling` (arguments of `vllm.SamplingParams`).
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM and its own processes print goes to standard error
    from vllm import LLM, SamplingParams

    llm = LLM(**settings["engine"])
    stop_token_ids = settings["sampling"]["stop_token_ids"]
    for line in sys.stdin:
        batch = json.loads(line)
        sampling = [SamplingParams(seed=request["seed"], **settings["sampling"]) for request in batch]
        outputs = llm.generate([{"prompt_token_ids": request["prompt"]} for request in batch], sampling, use_tqdm=False)
        responses = []
        for output in (request.outputs[0] for request in outputs):
            tokens = list(output.token_ids)
            left_out = output.finish_reason == "stop" and tokens[-1:] not in [[token] for token in stop_token_ids]
            responses.append([*tokens, output.stop_reason] if left_out else tokens)
        replies.write(json.dumps(responses) + "\n")
        replies.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
