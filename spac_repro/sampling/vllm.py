"""Self-play responses by vLLM, where it is installed (the extra `vllm`): in a process of its own, which takes its memory with it.

The parent hands over prompts in tokens, a batch a line, and gets responses in tokens, a batch a line. Seeds, stop rule and limits
are those of the package's own sampler, and so is the chat template: prompts are rendered before they come here. The draws differ.
Never run with vLLM itself: no GPU was at hand. The tests put a stand-in in its place.
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

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")  # torchrun's


def check() -> None:
    """See that vLLM is there.

    Raises:
        UnfitEnvironmentError: it is not.
    """
    if find_spec("vllm") is None:
        raise UnfitEnvironmentError(
            "selfplay.backend is vllm, which is not installed: pip install 'spac-repro[vllm]', or --set "
            "selfplay.backend=transformers (other responses are drawn then)"
        )


class Sampler:
    """What `selfplay.respond` calls for a batch; vLLM starts with the first."""

    def __init__(
        self, policy: Path, *, dtype: str, temperature: float, top_p: float, max_prompt_tokens: int, longest: int, stop: int
    ):
        """`policy`: a model folder; `longest`: response tokens at most; `stop`: the token that ends a response."""
        self.settings = {
            "engine": {
                "model": str(policy.resolve()), "dtype": dtype, "max_model_len": max_prompt_tokens + longest, "seed": 0,
                "skip_tokenizer_init": True, "trust_remote_code": False, "generation_config": "vllm",
                "gpu_memory_utilization": 0.6,  # the policy is on the same card
                "enable_prefix_caching": False,  # what is kept of earlier batches, a resumed run does not have
            },
            "sampling": {
                "temperature": temperature, "top_p": top_p, "max_tokens": longest, "stop_token_ids": [stop], "ignore_eos": True,
                "detokenize": False,
            },
        }  # fmt: skip
        self.process: subprocess.Popen[str] | None = None

    def __call__(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """One response to each prompt, up to and including the stop token."""
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
            raise UnfitEnvironmentError(f"vLLM ended with exit code {process.wait()}; what it said stands above") from None
        responses: list[list[int]] = json.loads(line)
        return responses

    def _start(self) -> "subprocess.Popen[str]":
        environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
        rank = os.environ.get("LOCAL_RANK")
        if rank is not None:  # each process of a run has a card, and its own vLLM
            cards = os.environ.get("CUDA_VISIBLE_DEVICES")
            environment["CUDA_VISIBLE_DEVICES"] = cards.split(",")[int(rank)] if cards else rank
        # The engine within that process, and not in another one: nothing of it outlives a kill, and it takes requests in one order.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        torch.cuda.empty_cache()  # vLLM starts only where its share of the card is free, and what torch keeps for later is not
        words = [sys.executable, "-m", "spac_repro.sampling.vllm", json.dumps(self.settings)]
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)

    def __enter__(self) -> "Sampler":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.process is not None:
            if kind is not None:
                self.process.kill()
            with suppress(BrokenPipeError):  # what it was not told before it died is of no use to it
                self.process.communicate()


def main(settings: dict[str, dict[str, Any]]) -> None:
    """The process of vLLM: batches come in lines of the standard input, responses go out in lines of the standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever vLLM and its own processes print is not an answer
    from vllm import LLM, SamplingParams

    engine = LLM(**settings["engine"])
    (stop,) = settings["sampling"]["stop_token_ids"]
    for line in sys.stdin:
        batch = json.loads(line)
        sampling = [SamplingParams(seed=request["seed"], **settings["sampling"]) for request in batch]
        outputs = engine.generate([{"prompt_token_ids": request["prompt"]} for request in batch], sampling, use_tqdm=False)
        responses = []
        for output in (request.outputs[0] for request in outputs):
            tokens = list(output.token_ids)
            responses.append([*tokens, stop] if output.finish_reason == "stop" and tokens[-1:] != [stop] else tokens)
        answers.write(json.dumps(responses) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
