"""lm-eval as an engine: quiet, deterministic, told which questions to ask, and asked for its scores.

`lm_eval.evaluate` is called, not `simple_evaluate`: the latter adds a report on the machine that takes two seconds a call, and
seeds the global random generators of the process that it runs in. Nothing here draws from them.
"""

import copy
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import lm_eval
import lm_eval.api.task
import lm_eval.utils
import torch
import transformers
from jinja2 import Environment
from jinja2.sandbox import SandboxedEnvironment
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spac_repro.data.example import TokenizedExample
from spac_repro.documents import yaml_subset
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.task import Leaves, Task
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy, supports_packing
from spac_repro.optim import distributed
from spac_repro.optim.loop import batch_by_tokens
from spac_repro.runs.results import Score

TOKENS_AT_ONCE = 4096
MOSTLY = 0.8  # of a prompt must be shared, or its requests are computed apart
Request = tuple[tuple[str, str], list[int], list[int]]  # the texts; the prompt's and the continuation's tokens
Progress = Callable[[str, int, int], None]  # task, requests answered, requests in all


class LanguageModel(HFLM):
    """The harness's Hugging Face model, which reports requests answered instead of drawing bars."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        # A copy, because the harness gives a tokenizer without a padding token one.
        super().__init__(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
        self.report: Callable[[int, int], None] = lambda done, total: None
        self._done = self._total = 0
        self.set_cache_hook(self)

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        """Called by the harness for every request that is answered."""
        self._done += 1
        self.report(self._done, self._total)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        return self._divided(requests, super().loglikelihood)

    @torch.no_grad()
    def _loglikelihood_tokens(self, requests: list[Request], *arguments: Any, **more: Any) -> list[tuple[float, bool]]:
        """The log-probability of each continuation, and whether each of its tokens is the likeliest, as the harness asks for them.

        What the choices of a question share of their prompts, worked examples above all, is computed once for all of them.
        """
        if not supports_packing(self.model):
            return super()._loglikelihood_tokens(requests, *arguments, **more)
        examples = shared_prompts([self._cut(prompt, continuation) for _, prompt, continuation in requests])
        answers: list[tuple[float, bool]] = []
        for rows in batch_by_tokens(range(len(examples)), [example.num_tokens for example in examples], TOKENS_AT_ONCE):
            for answer in self._answers([examples[i] for i in rows]):
                self.cache_hook.add_partial("loglikelihood", requests[len(answers)][0], answer)
                answers.append(answer)
        return answers

    def _cut(self, prompt: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Prompt and continuation within the model's context, which the last token itself need not enter."""
        over = len(prompt) + len(continuation) - (self.max_length + 1)
        if over > 0:
            logging.getLogger("lm_eval").warning("Truncating %d tokens from the left.", over)
        return prompt[max(over, 0) :], continuation

    def _answers(self, examples: Sequence[TokenizedExample]) -> Iterator[tuple[float, bool]]:
        packed = pack(examples, device=self.device)
        logprobs = Policy(self.model).logits(packed).log_softmax(-1)
        likeliest = logprobs.argmax(-1) == packed.targets
        values = logprobs.gather(-1, packed.targets[:, None])[:, 0]
        for response in range(packed.num_responses):
            its = packed.response_numbers == response
            yield float(values[its].sum()), bool(likeliest[its].all())

    def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return self._divided(requests, super().generate_until)

    def _divided(self, requests: list[Any], answer: Callable[..., list[Any]]) -> list[Any]:
        """Every process answers its part of the requests, and gets all answers. The harness knows nothing of it.

        Its own way to divide work gives a process whole documents, and fails where a subject has fewer than there are processes.
        """
        own = distributed.shard(range(len(requests)))
        self._done, self._total = 0, len(own)
        answers = answer([requests[i] for i in own], disable_tqdm=True) if own else []
        gathered = distributed.all_gather(dict(zip(own, answers, strict=True)))
        return [gathered[i] for i in range(len(requests))]


def shared_prompts(requests: Sequence[tuple[list[int], list[int]]]) -> list[TokenizedExample]:
    """Neighbouring requests as examples of one prompt, where they share most of theirs; in order, only continuations counted."""
    examples: list[TokenizedExample] = []
    together: list[tuple[list[int], list[int]]] = []
    shared: list[int] = []
    for prompt, continuation in requests:
        common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(shared, prompt, strict=False)))
        if together and common < MOSTLY * max(len(prompt), *(len(other) for other, _ in together)):
            examples.append(_example(shared, together))
            together = []
        shared = prompt[:common] if together else prompt
        together.append((prompt, continuation))
    return [*examples, _example(shared, together)] if together else examples


def _example(shared: list[int], together: Sequence[tuple[list[int], list[int]]]) -> TokenizedExample:
    own = [(prompt[len(shared) :], continuation) for prompt, continuation in together]
    return TokenizedExample(
        shared,
        [[*rest, *continuation] for rest, continuation in own],
        [[False] * len(rest) + [True] * len(continuation) for rest, continuation in own],
    )


class _Warnings(logging.Handler):
    """Keeps of the harness's many warnings the one that touches a score: prompts cut to the model's context."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.cuts = 0

    def note(self, context: int) -> str:
        return f"{self.cuts} prompts cut to the model's {context} tokens" if self.cuts else ""

    def emit(self, record: logging.LogRecord) -> None:
        self.cuts += "runcat" in record.getMessage()


def _sandboxed(templates: Environment) -> Environment:
    """The harness's templates without a way to Python's own objects: a task file of a user's is data, never code."""
    sandbox = SandboxedEnvironment(undefined=templates.undefined, keep_trailing_newline=templates.keep_trailing_newline)
    sandbox.filters.update(templates.filters)
    return sandbox


@contextmanager
def _quiet() -> Iterator[_Warnings]:
    """No log lines, no bars and no code in templates from the harness and its libraries; all as before afterwards."""
    warnings, templates = _Warnings(), lm_eval.utils.env
    logger = logging.getLogger("lm_eval")
    level, propagate, bars = logger.level, logger.propagate, datasets.is_progress_bar_enabled()
    verbosity, drawn = transformers.logging.get_verbosity(), lm_eval.api.task.tqdm
    logger.addHandler(warnings)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    lm_eval.api.task.tqdm = lambda items, **_: items  # this bar has no switch
    lm_eval.utils.env = _sandboxed(templates)
    try:
        yield warnings
    finally:
        lm_eval.utils.env = templates
        lm_eval.api.task.tqdm = drawn
        if bars:
            datasets.enable_progress_bars()
        transformers.logging.set_verbosity(verbosity)
        logger.propagate = propagate
        logger.setLevel(level)
        logger.removeHandler(warnings)


def dataset(*, rows: str, **_: Any) -> datasets.DatasetDict:
    """What a task file names as its `custom_dataset`: the JSON lines in the folder `rows`, one file a split.

    Read here and not by the `json` builder, which copies each file into a cache first: for 57 subjects that takes minutes.
    """
    splits = {}
    for path in sorted(Path(rows).glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            splits[path.stem] = datasets.Dataset.from_list([json.loads(line) for line in lines])
    return datasets.DatasetDict(splits)


def write_task(task: Task, leaves: Leaves, folder: Path) -> None:
    """Writes the task as the harness reads it: a task file for each leaf, and its questions beside it."""
    for leaf, splits in leaves.items():
        rows = folder / leaf
        rows.mkdir()
        for split, its in splits.items():
            (rows / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in its), encoding="utf-8")
        included = task.prompt.stock_file(subject=leaf.removeprefix(f"{task.name}_"))
        keys = {"task": leaf, **task.harness_keys(), "dataset_kwargs": {"rows": str(rows)}}
        if included is not None:
            keys["include"] = str(included)
        if included is None or _splits(included) != task.splits:
            keys |= task.harness_splits()
        loader = f"custom_dataset: !function {__name__}.{dataset.__name__}\n"
        (folder / f"{leaf}.yaml").write_text(yaml_subset.dump(keys) + loader, encoding="utf-8")
    if task.by_subject:
        (folder / f"{task.name}.yaml").write_text(yaml_subset.dump(task.harness_group(list(leaves))), encoding="utf-8")


def _splits(stock: Path) -> tuple[str, ...]:
    """The splits of a stock task file, as `Task.splits`.

    Where they are right they are left alone: the harness draws other examples where the same split goes by another key.
    """
    its = load_yaml(stock, resolve_func=False)
    examples, asked = (
        its.get(a) or its.get(b) for a, b in (("fewshot_split", "training_split"), ("test_split", "validation_split"))
    )
    return (asked,) if examples is None else (examples, asked)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Mapping[Task, Leaves],
    *,
    batch_size: int,
    seed: int,
    progress: Progress | None = None,
) -> list[Score]:
    """The scores of the model on the questions asked, task by task: no task's scores depend on what else is asked.

    `seed` draws the few-shot examples. The model is left in the mode (training or not) that it was in.
    """
    was_training = model.training
    scores: list[Score] = []
    with _quiet() as warnings:
        try:
            engine = LanguageModel(model, tokenizer, batch_size)
            for task, leaves in asked.items():
                _check_context(task, engine.max_length)
                engine.report = partial(progress, task.name) if progress is not None else engine.report
                warnings.cuts = 0
                with TemporaryDirectory(prefix="leaderboard-") as folder, _noted(task):
                    results = _ask(engine, task, leaves, Path(folder), seed)
                scores += _scores(task, list(leaves), results, warnings.note(engine.max_length))
        finally:
            model.train(was_training)
    return scores


@contextmanager
def _noted(task: Task) -> Iterator[None]:
    """An error says which task it is about."""
    try:
        yield
    except Exception as error:
        error.add_note(f"task {task.name}")
        raise


def _check_context(task: Task, context: int) -> None:
    if task.generates >= context:
        raise UserError(
            f"{task.name} generates up to {task.generates} tokens, and the model's context is {context}; "
            "leave the task out with --tasks"
        )


def _ask(engine: LanguageModel, task: Task, leaves: Leaves, folder: Path, seed: int) -> dict[str, Any]:
    """The harness's answer; its task files and questions are written to the empty `folder`."""
    write_task(task, leaves, folder)
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load([task.name])
    for leaf in loaded["tasks"].values():
        leaf.set_fewshot_seed(seed)
    results = lm_eval.evaluate(lm=engine, task_dict=loaded, log_samples=False)
    assert results is not None  # it is None on the other ranks of a distributed run only
    return results


def _scores(task: Task, leaves: list[str], results: dict[str, Any], note: str) -> list[Score]:
    n = sum(results["results"][leaf]["sample_len"] for leaf in leaves)
    version = str(results["versions"][task.name])
    measured = _measured(task, leaves, results["results"])
    return [Score(task.name, metric, value, stderr, n, version, note=note) for metric, (value, stderr) in measured.items()]


def _measured(task: Task, leaves: list[str], results: dict[str, Any]) -> dict[str, tuple[float, float | None]]:
    """Value and standard error of each metric of a task."""
    if not task.by_subject:
        return {metric: _value(results[task.name], key) for metric, key in task.metrics.items()}
    (key,) = set(task.metrics.values())
    subjects = [_value(results[leaf], key) for leaf in leaves]
    macro = math.fsum(value for value, _ in subjects) / len(subjects)
    weighted, weighted_error = _value(results[task.name], key)
    sizes = [results[leaf]["sample_len"] for leaf in leaves]
    errors = [error for _, error in subjects if error is not None]
    if len(errors) == len(subjects):
        macro_error: float | None = math.sqrt(math.fsum(error**2 for error in errors)) / len(errors)
    else:
        # A subject with one question has no spread of its own: the spread of all questions together stands in for it.
        spread = _deviation(weighted, sum(sizes))
        macro_error = None if spread is None else spread * math.sqrt(math.fsum(1 / size for size in sizes)) / len(sizes)
        weighted_error = None if spread is None else spread / math.sqrt(sum(sizes))
    macro_name, weighted_name = task.metrics
    return {macro_name: (macro, macro_error), weighted_name: (weighted, weighted_error)}


def _deviation(share: float, n: int) -> float | None:
    """The sample standard deviation of n outcomes of 0 or 1 with this mean."""
    return math.sqrt(share * (1 - share) * n / (n - 1)) if n > 1 else None


def _value(result: dict[str, Any], key: str) -> tuple[float, float | None]:
    stderr = result[key.replace(",", "_stderr,")]
    return float(result[key]), float(stderr) if isinstance(stderr, int | float) else None
