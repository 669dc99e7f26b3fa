"""The harness's Hugging Face model, with packed prompts and data parallelism over questions."""

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, takewhile
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro import protocols
from spac_repro.data.example import TokenizedExample
from spac_repro.evaluation.leaderboard import greedy
from spac_repro.model import architectures, generation_config
from spac_repro.model.loading import check_finite
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy, supports_packing
from spac_repro.optim import distributed
from spac_repro.optim.loop import batch_by_tokens
from spac_repro.protocols import Protocol

MAX_BATCH_TOKENS = 4096
MIN_SHARED = 0.8  # requests are packed together if they share at least this part of their prompts
# A question whose choices are one token each, as in MMLU, is read from one position. Such questions are packed together where they
# share their examples. Short prompts are left alone: there is little to gain, and scores keep their bits.
MIN_MERGED_PROMPT = 128  # tokens
MIN_SHARED_MERGED = 0.5
TAIL = 8  # tokens of an answer in which a stop string is looked for, beside one a letter
Request = tuple[tuple[str, str], list[int], list[int]]  # the texts; the tokens of prompt and continuation
# By task and question: the tokens of its longest request, prompt and answer, and whether one of its prompts was cut.
Lengths = dict[tuple[str, int], tuple[int, bool]]


class PackedHFLM(HFLM):  # type: ignore[misc]  # lm_eval has no types
    """lm-eval's HFLM that computes a shared prompt once, divides questions among processes, and reports progress."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, protocol: Protocol | None = None
    ) -> None:
        protocol = protocol or protocols.get(protocols.CURRENT)
        if not architectures.batches_exactly(model):
            batch_size = 1  # the longest row of a batch, or its padding, would change the other rows' scores
        # A copy of the tokenizer, because the harness adds a padding token to one that has none.
        super().__init__(
            pretrained=model,
            tokenizer=copy.deepcopy(tokenizer),
            batch_size=batch_size,
            add_bos_token=protocol.add_special_tokens,
        )
        self._in_model_dtype = protocol.softmax_dtype == "model"
        self.on_progress: Callable[[int, int], None] = lambda done, total: None
        self._done = self._total = 0
        self.lengths: Lengths = {}  # of what was asked since it was last cleared
        self._request_lengths: list[tuple[int, bool]] = []  # of the last call
        self.set_cache_hook(self)
        self.stop_token_ids = sorted({self.tokenizer.eos_token_id, *generation_config.stop_token_ids(model)})

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Report progress; the harness calls this for every answered request."""
        self._done += 1
        self.on_progress(self._done, self._total)

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, truncation: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokenize the prompts of a batch of generations. Warn once for each prompt that is cut; the harness warns once a batch."""
        encoded: tuple[torch.Tensor, torch.Tensor] = super().tok_batch_encode(strings, padding_side, left_truncate_len, truncation)
        if left_truncate_len and encoded[0].shape[1] == left_truncate_len:
            lengths = [super(PackedHFLM, self).tok_batch_encode([text])[0].shape[1] for text in strings]
            for excess in [length - left_truncate_len for length in lengths if length > left_truncate_len][1:]:
                logging.getLogger("lm_eval").warning("Truncating %d tokens from the left.", excess)
        return encoded

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """The log-probability of each request's continuation, and whether greedy decoding gives it; divided among processes."""
        return self._data_parallel(requests, super().loglikelihood)

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: list[Request], *arguments: Any, **options: Any) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether greedy decoding gives it.

        What the choices of a question share of their prompts (mostly few-shot examples) is computed once for all of them.
        """
        lengths = [len(prompt) + len(continuation) for _, prompt, continuation in requests]
        self._request_lengths = [(length, length > self.max_length + 1) for length in lengths]
        if not supports_packing(self.model):
            answers: list[tuple[float, bool]] = super()._loglikelihood_tokens(requests, *arguments, **options)
            check_finite(torch.tensor([logprob for logprob, _ in answers]), "the model's log-probabilities")
            return answers
        merged = merge_single_tokens([self._truncate(prompt, continuation) for _, prompt, continuation in requests])
        examples = group_questions(merged)
        alternatives, answers = iter([choices for _, choices in merged]), []
        for batch in batch_by_tokens(range(len(examples)), [example.num_tokens for example in examples], MAX_BATCH_TOKENS):
            for answer in self._score([examples[i] for i in batch], alternatives):
                self.cache_hook.add_partial("loglikelihood", requests[len(answers)][0], answer)
                answers.append(answer)
        return answers

    def _truncate(self, prompt: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Cut the prompt from the left to the model's context. The last token of the continuation is never an input."""
        excess = len(prompt) + len(continuation) - (self.max_length + 1)
        if excess > 0:
            logging.getLogger("lm_eval").warning("Truncating %d tokens from the left.", excess)
        return prompt[max(excess, 0) :], continuation

    def _score(
        self, examples: Sequence[TokenizedExample], alternatives: Iterator[Sequence[list[int]]]
    ) -> Iterator[tuple[float, bool]]:
        """Log-probability and greediness of every continuation in the examples, in one forward pass.

        Args:
            examples: what is packed into the pass.
            alternatives: for each response in turn, the continuations that are read from it: itself, or several single tokens.
        """
        packed = pack(examples, device=self.device)
        logits = check_finite(Policy(self.model).logits(packed), "the model's logits")
        logprobs = (logits.to(self.model.dtype) if self._in_model_dtype else logits).log_softmax(-1)
        likeliest = logprobs.argmax(-1)
        is_greedy = likeliest == packed.targets
        values = logprobs.gather(-1, packed.targets[:, None])[:, 0]
        for response in range(packed.num_responses):
            tokens = packed.response_numbers == response
            choices = next(alternatives)
            if len(choices) == 1:
                yield float(values[tokens].sum()), bool(is_greedy[tokens].all())
                continue
            (position,) = tokens.nonzero()[:, 0].tolist()
            for (token,) in choices:
                yield float(logprobs[position, token]), bool(likeliest[position] == token)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        """The generated answer to each request; divided among processes."""
        return self._data_parallel(requests, self._generate_until)

    def _generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        texts: list[str] = super().generate_until(requests, disable_tqdm=disable_tqdm)
        prompts = [
            (len(self.tok_encode(request.args[0])), request.args[1].get("max_gen_toks", self.max_gen_toks)) for request in requests
        ]
        answers = [len(self.tok_encode(text, add_special_tokens=False)) for text in texts]
        self._request_lengths = [
            (prompt + answer, prompt > self.max_length - longest)
            for (prompt, longest), answer in zip(prompts, answers, strict=True)
        ]
        return texts

    def _model_generate(self, context: torch.Tensor, max_length: int, stop: list[str], **options: Any) -> torch.Tensor:
        """Generate up to the first stop token. It and what follows become padding, which is no text.

        The harness looks for the tokenizer's end-of-sequence in the text only, and there it is already left out.
        """
        width, greedily = context.shape[1], not options.get("do_sample") and not options.get("temperature")
        if greedily and width >= MIN_MERGED_PROMPT and greedy.serves(self.model):
            generated = greedy.decode(
                self.model,
                context,
                options["attention_mask"],
                max_new_tokens=max_length - width,
                pad_token_id=self.tokenizer.pad_token_id,
                has_ended=partial(self._has_ended, stop),
            )
        else:
            options["eos_token_id"] = self.stop_token_ids
            generated = super()._model_generate(context, max_length=max_length, stop=stop, **options)
        answers = generated[:, width:]
        stopped = torch.isin(answers, torch.tensor(self.stop_token_ids, device=answers.device)).cumsum(1) > 0
        generated[:, width:] = answers.masked_fill(stopped, self.tokenizer.pad_token_id)
        return generated

    def _has_ended(self, stop: Sequence[str], answer: Sequence[int]) -> bool:
        """Whether an answer ends with a stop token, or its text holds a stop string. The end of the text is looked at first."""
        if answer[-1] in self.stop_token_ids:
            return True
        tail = self.tokenizer.decode(answer[-max(map(len, stop), default=1) - TAIL :])
        return any(text in tail for text in stop) and any(text in self.tokenizer.decode(answer) for text in stop)

    def _data_parallel(self, requests: list[Any], answer: Callable[..., list[Any]]) -> list[Any]:
        """Answer this process's share of the questions, and gather the answers of all processes.

        The harness's own data parallelism fails if a subject has fewer questions than there are processes.
        """
        shard = [i for question in distributed.shard(group_by_question(requests)) for i in question]
        self._done, self._total = 0, len(shard)
        self._request_lengths = []
        answers = answer([requests[i] for i in shard], disable_tqdm=True) if shard else []
        gathered = distributed.all_gather(dict(zip(shard, zip(answers, self._request_lengths, strict=True), strict=True)))
        for i, request in enumerate(requests):
            (tokens, cut), item = gathered[i][1], (request.task_name, request.doc_id)
            longest, any_cut = self.lengths.get(item, (0, False))
            self.lengths[item] = (max(longest, tokens), any_cut or cut)
        return [gathered[i][0] for i in range(len(requests))]


def group_by_question(requests: Sequence[Any]) -> list[range]:
    """Group the requests of each question, such as its choices: they share most of a prompt, which one process computes once.

    Args:
        requests: the harness's instances, with those of a question next to each other.

    Returns:
        The indices of each question's requests. A request that belongs to no question is one of its own.
    """
    found: list[range] = []
    keys = [(request.task_name, request.doc_id) if request.doc_id is not None else i for i, request in enumerate(requests)]
    for _, group in groupby(keys):
        begin = found[-1].stop if found else 0
        found.append(range(begin, begin + len(list(group))))
    return found


Merged = tuple[list[int], list[list[int]]]  # the tokens of a prompt, and of the continuations that are read from one position


def merge_single_tokens(requests: Sequence[tuple[list[int], list[int]]]) -> list[Merged]:
    """Merge neighbouring requests that have the same long prompt and continuations of one token each.

    Args:
        requests: the tokens of prompt and continuation, in order.
    """
    merged: list[Merged] = []
    for prompt, continuation in requests:
        single = len(continuation) == 1 and len(prompt) >= MIN_MERGED_PROMPT
        if single and merged and merged[-1][0] == prompt and len(merged[-1][1][0]) == 1:
            merged[-1][1].append(continuation)
        else:
            merged.append((prompt, [continuation]))
    return merged


def group_questions(merged: Sequence[Merged]) -> list[TokenizedExample]:
    """Group neighbouring prompts: merged ones that share their examples, and others that share most of their prompts."""
    examples: list[TokenizedExample] = []
    for is_merged, run in groupby(merged, lambda each: len(each[1]) > 1):
        requests = [(prompt, choices[0]) for prompt, choices in run]
        limits = (MIN_SHARED_MERGED, MAX_BATCH_TOKENS) if is_merged else (MIN_SHARED, None)
        examples += group_by_shared_prompt(requests, *limits)
    return examples


def group_by_shared_prompt(
    requests: Sequence[tuple[list[int], list[int]]], min_shared: float = MIN_SHARED, max_tokens: int | None = None
) -> list[TokenizedExample]:
    """Group neighbouring requests that share most of their prompts into one example each.

    Args:
        requests: the tokens of prompt and continuation, in order.
        min_shared: the part of their prompts that requests share at least.
        max_tokens: tokens of a group at most; None: no limit.

    Returns:
        One example per group, in order; only the tokens of the continuations are scored.
    """
    examples: list[TokenizedExample] = []
    group: list[tuple[list[int], list[int]]] = []
    shared: list[int] = []
    for prompt, continuation in requests:
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(shared, prompt, strict=False)))
        apart = group and common < min_shared * max(len(prompt), *(len(other) for other, _ in group))
        if apart or (max_tokens and _num_tokens(common, [*group, (prompt, continuation)]) > max_tokens):
            examples += [_example(shared, group)] if group else []
            group = []
        shared = prompt[:common] if group else prompt
        group.append((prompt, continuation))
    return [*examples, _example(shared, group)] if group else examples


def _num_tokens(common: int, group: Sequence[tuple[list[int], list[int]]]) -> int:
    return common + sum(len(prompt) - common + len(continuation) for prompt, continuation in group)


def _example(shared: list[int], group: Sequence[tuple[list[int], list[int]]]) -> TokenizedExample:
    suffixes = [(prompt[len(shared) :], continuation) for prompt, continuation in group]
    return TokenizedExample(
        shared,
        [[*rest, *continuation] for rest, continuation in suffixes],
        [[False] * len(rest) + [True] * len(continuation) for rest, continuation in suffixes],
    )
