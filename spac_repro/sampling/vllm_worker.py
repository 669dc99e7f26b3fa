"""vLLM's side of `sampling.vllm`: a script that reads batches from standard input and writes responses to standard output.

It runs in the environment of requirements/vllm.lock, so it imports nothing of this package.
"""

import json
import os
import sys
from typing import Any


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
