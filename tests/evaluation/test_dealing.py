"""Questions of the leaderboard over several processes: dealt out whole, each prompt computed once, answered as by one process."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaConfig, LlamaForCausalLM

from spac_repro.data import tokenizers
from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM, group_by_question
from spac_repro.model.policy import use_packed_attention
from spac_repro.optim import distributed

QUESTIONS, CHOICES = 23, 4


@pytest.fixture(scope="module")
def lm(one_thread: None) -> PackedHFLM:
    tokenizer = tokenizers.world_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **shape)).eval()
    return PackedHFLM(use_packed_attention(model, "sdpa"), tokenizer, 4)


def asked() -> list[Instance]:
    """Each question has examples of its own, as ARC's and HellaSwag's, and a few choices."""
    rng = random.Random(0)
    found = []
    for number in range(QUESTIONS):
        prompt = "".join(rng.choices("abcdefghij\n", k=rng.randint(60, 90)))
        for choice in range(CHOICES - number % 2):
            arguments = (prompt, "".join(rng.choices("abcdefghij", k=3)))
            found.append(Instance("loglikelihood", {}, arguments, choice, metadata=("task", number, 1)))
    return found


def answered(lm: PackedHFLM, requests: list[Instance], processes: int) -> tuple[list[Any], list[int]]:
    """The answers, and the tokens that each process computes; the processes are simulated one after the other."""
    gathered: dict[int, Any] = {}
    tokens = [0] * processes
    score = lm._score

    def gather(own: dict[int, Any]) -> dict[int, Any]:
        assert not own.keys() & gathered.keys()
        gathered.update(own)
        return {i: gathered.get(i, (None, (0, False))) for i in range(len(requests))}  # (answer, (tokens, cut))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(processes))
        patch.setattr(distributed, "all_gather", gather)
        for rank in range(processes):

            def counted(examples: Any, alternatives: Any, *, rank: int = rank) -> Any:
                tokens[rank] += sum(example.num_tokens for example in examples)
                return score(examples, alternatives)

            patch.setattr(lm, "_score", counted)
            patch.setenv("RANK", str(rank))
            answers = lm.loglikelihood(requests)
    return answers, tokens


@pytest.mark.parametrize("processes", [2, 3, 8, 40])
def test_every_prompt_is_computed_once_and_answers_are_those_of_one_process(lm: PackedHFLM, processes: int) -> None:
    requests = asked()
    expected, (alone,) = answered(lm, requests, 1)
    found, tokens = answered(lm, requests, processes)
    assert sum(tokens) == alone
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5)
    if processes < QUESTIONS:
        assert max(tokens) < 1.5 * alone / processes


def test_single_requests_would_compute_most_prompts_several_times(lm: PackedHFLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """The count above notices it."""
    requests = asked()
    _, (alone,) = answered(lm, requests, 1)
    single = "spac_repro.evaluation.leaderboard.packed_hflm.group_by_question"
    monkeypatch.setattr(single, lambda requests: [[i] for i in range(len(requests))])
    _, tokens = answered(lm, requests, 8)
    assert sum(tokens) > 2 * alone


def test_requests_of_a_question_stay_together() -> None:
    names = [("a", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 1), (None, None), (None, None)]
    requests = [SimpleNamespace(task_name=task, doc_id=number) for task, number in names]
    assert group_by_question(requests) == [range(2), range(2, 3), range(3, 5), range(5, 6), range(6, 7)]
    assert group_by_question([]) == []
