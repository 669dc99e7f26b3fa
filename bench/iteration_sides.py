"""The two sides of bench/iteration.py: one self-play iteration with evaluation, here and assembled from other libraries.

Both begin with a model folder, preferences and questions on the disk, and end with a new model folder and its scores. Libraries are
imported, task files and the start are there before a clock runs.
"""

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TASKS = ("arc_challenge", "hellaswag", "truthfulqa_mc2", "mmlu", "winogrande", "gsm8k")
STAGES = ("generation", "reference", "steps", "saving", "evaluation", "other")
SPANS = {  # of spac_repro.spans, by the stage that they count to
    "self-play": "generation",
    "reference log-probabilities": "reference",
    "step": "steps",
    "gather": "saving",
    "save": "saving",
    "leaderboard": "evaluation",
}
KINDS = {
    "products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("scaled_dot_product",),
    "copies": ("aten::cat", "aten::copy_", "aten::index", "aten::clone", "aten::gather", "embedding"),
}
MAX_RESPONSE_TOKENS, BATCH = 128, 8  # of recipe smollm2-135m; preferences of an optimizer step
LEARNING_RATE, BETA, WARMUP = 2e-6, 0.1, 0.1  # likewise


class Clock:
    """Wall time by stage, and the operations of the linear layers in each; a listener of spans."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.operations: dict[str, float] = defaultdict(float)
        self.stages = ["other"]
        self.since = time.perf_counter()

    def begin(self, name: str) -> None:
        """Enter a span; one without a stage of its own counts to the one around it."""
        self._count()
        self.stages.append(SPANS.get(name, self.stages[-1]))

    def end(self) -> None:
        """Leave the innermost span."""
        self._count()
        self.stages.pop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside to a stage."""
        self._count()
        self.stages.append(name)
        yield
        self.end()

    def layer(self, module: Any, inputs: Sequence[Any], output: Any) -> None:
        """Count a linear layer: 2 operations a weight and token, and twice as many again where a gradient will be taken."""
        import torch

        if isinstance(module, torch.nn.Linear):
            passes = 3 if torch.is_grad_enabled() and output.requires_grad else 1
            self.operations[self.stages[-1]] += 2 * inputs[0].numel() * module.out_features * passes

    def _count(self) -> None:
        now = time.perf_counter()
        self.seconds[self.stages[-1]] += now - self.since
        self.since = now


def matmul_rate(config: Any, rows: int, *, repetitions: int = 4) -> float:
    """GFLOP/s of products of so many rows with the matrices of a layer, as large as the model's own."""
    import torch

    width, inner, heads = config.hidden_size, config.intermediate_size, config.num_key_value_heads
    shapes = [(width, width), (width, heads * width // config.num_attention_heads), (width, inner), (inner, width)]
    layers = [
        [(torch.randn(rows, k), torch.randn(n, k)) for k, n in shapes] for _ in range(8)
    ]  # more than fits into caches, as in a model
    best = 0.0
    for _ in range(repetitions):
        started = time.perf_counter()
        for layer in layers:
            for x, weight in layer:
                x @ weight.t()
        operations = sum(2 * x.numel() * len(weight) for layer in layers for x, weight in layer)
        best = max(best, operations / (time.perf_counter() - started) / 1e9)
    return best


# What else than products takes time


def operations(place: Path) -> dict[str, dict[str, float]]:
    """The share of each kind of operation in a forward and backward pass, a forward pass, and a decoding step, by torch.profiler.

    Args:
        place: the folder that bench/iteration.py prepared; random tokens go through its model.
    """
    import torch

    from spac_repro.data.example import TokenizedExample
    from spac_repro.model import policy
    from spac_repro.model.packing import pack
    from spac_repro.model.policy import Policy, use_packed_attention

    model, _ = policy.load(place / "model")
    trained = Policy(use_packed_attention(model, "sdpa"))
    draw = torch.Generator().manual_seed(0)

    def tokens(*shape: int) -> Any:
        return torch.randint(4, model.config.vocab_size, shape, generator=draw)

    def packed(prompt: int, *responses: int, examples: int = 1) -> Any:
        return pack([TokenizedExample(tokens(prompt).tolist(), [tokens(n).tolist() for n in responses]) for _ in range(examples)])

    pair, question, cache = packed(110, 115, 115, examples=3), packed(1000, 20, 20, 20, 20), None
    rows = {"input_ids": tokens(16, 180), "use_cache": True, "logits_to_keep": 1}
    with torch.no_grad():
        cache = model(**rows).past_key_values

    def step() -> None:
        trained(pair).sum().backward()

    def decode() -> None:
        model(**rows | {"input_ids": tokens(16, 1)}, past_key_values=cache)

    found = {"a micro-batch of three pairs": _shares(step)}
    with torch.no_grad():
        found["a question of 1,000 tokens, four choices"] = _shares(lambda: trained(question))
        found["a token of 16 responses"] = _shares(decode)
    return found


def _shares(compute: Callable[[], object]) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    compute()
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        compute()
    kinds: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        name = event.key
        kind = next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), "elementwise and other")
        kinds[kind] += event.self_cpu_time_total
    return {kind: time / sum(kinds.values()) for kind, time in sorted(kinds.items())}


# Here


def here(place: Path, method: str, tokens: Callable[[int], None]) -> Clock:
    """Continue a run whose start is there by one iteration, as `spac-repro train --until 1` does.

    Args:
        place: the folder that bench/iteration.py prepared.
        method: of the run.
        tokens: gets the number of generated tokens.
    """
    import lm_eval  # noqa: F401  # like the next, so that no clock counts their import
    import scipy.stats  # noqa: F401
    import torch

    from spac_repro import pipeline
    from spac_repro.data import sources
    from spac_repro.data.dataset import read
    from spac_repro.evaluation.leaderboard import harness  # noqa: F401
    from spac_repro.progress import NoProgress
    from spac_repro.runs.folder import RunFolder
    from spac_repro.spans import listening

    folder = place / "here"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / f"start-{method}", folder)
    clock = Clock()
    hook = torch.nn.modules.module.register_module_forward_hook(clock.layer)
    with listening(clock):
        run = prepared_run(place, method)
        inputs = sources.read(run, preferences=str(place / "preferences.jsonl"), questions=place / "questions")
        pipeline.train(run, folder, inputs, allow_changed_environment=True, until=1, progress=NoProgress())
    with clock.stage("other"):
        pass
    hook.remove()
    tokens(sum(map(len, read(RunFolder(folder).iteration(1).dataset_file).responses["selfplay"])))
    return clock


def prepared_run(place: Path, method: str) -> Any:
    """The run of recipe smollm2-135m on the prepared model; it has no held-out preferences, which the other side has not."""
    from spac_repro import recipes
    from spac_repro.cli import policy_source

    limit = json.loads((place / "settings.json").read_text())["limit"]
    settings = ["data.heldout_prompts=null", "data.max_pairs=null", "methods.*.learning_rate=2.0e-6"]
    settings += ["evaluation.suite=openllm", f"evaluation.limit={limit}"]
    return recipes.load("smollm2-135m", method=method, seed=1, overrides=policy_source.overrides(str(place / "model"), settings))


# The peer


def peer(place: Path, batch_size: int, micro_batch: int, tokens: Callable[[int], None]) -> Clock:
    """The same with generate of transformers, TRL's DPOTrainer and lm-eval's HFLM.

    Args:
        place: the folder that bench/iteration.py prepared.
        batch_size: of HFLM.
        micro_batch: preferences of a forward pass of DPOTrainer.
        tokens: gets the number of generated tokens.
    """
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    folder = place / "peer"
    shutil.rmtree(folder, ignore_errors=True)
    clock = Clock()
    rows = [json.loads(line) for line in (place / "preferences.jsonl").read_text().splitlines()]
    with clock.stage("saving"):
        tokenizer = AutoTokenizer.from_pretrained(place / "model", padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(place / "model", dtype=torch.float32)
    with clock.stage("generation"):
        rejected = generate(model, tokenizer, [row["prompt"] for row in rows], tokens)
    with clock.stage("reference"):
        trainer = DPOTrainer(
            model=model,
            args=DPOConfig(output_dir=str(folder), **trainer_settings(micro_batch)),
            train_dataset=preferences(rows, rejected),
            processing_class=tokenizer,
        )
    with clock.stage("steps"):
        trainer.train()
    with clock.stage("saving"):
        trainer.save_model(str(folder))
        lm = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=batch_size)
    with clock.stage("evaluation"):
        manager = TaskManager(include_path=str(place / "tasks"), include_defaults=False)
        lm_eval.simple_evaluate(model=lm, tasks=list(TASKS), task_manager=manager)
    return clock


def trainer_settings(micro_batch: int) -> dict[str, Any]:
    """The recipe's training as settings of DPOConfig, without what costs time and gains nothing here."""
    return {
        **{"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": BATCH // micro_batch},
        **{"precompute_ref_log_probs": True, "precompute_ref_batch_size": micro_batch, "num_train_epochs": 1},
        **{"learning_rate": LEARNING_RATE, "beta": BETA, "optim": "rmsprop", "lr_scheduler_type": "linear"},
        **{"warmup_steps": WARMUP, "max_length": None, "gradient_checkpointing": False, "bf16": False},
        **{"save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False},
    }


def generate(model: Any, tokenizer: Any, prompts: Sequence[Any], tokens: Callable[[int], None]) -> list[str]:
    """Sample a response to each prompt; all rows at once, padded to the longest, as the recipe does here."""
    import torch

    texts = [tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True) for prompt in prompts]
    inputs = tokenizer(texts, return_tensors="pt", padding="longest", add_special_tokens=False)
    torch.manual_seed(1)
    with torch.no_grad():
        generated = model.generate(
            **inputs, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=MAX_RESPONSE_TOKENS
        )
    responses = generated[:, inputs["input_ids"].shape[1] :]
    tokens(int((responses != tokenizer.pad_token_id).sum()))
    return list(tokenizer.batch_decode(responses, skip_special_tokens=True))


def preferences(rows: Sequence[dict[str, Any]], rejected: Sequence[str]) -> Any:
    """The dataset of DPOTrainer: the chosen response before the policy's own, as in SPIN."""
    from datasets import Dataset

    return Dataset.from_list(
        [
            {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": [{"role": "assistant", "content": text}]}
            for row, text in zip(rows, rejected, strict=True)
        ]
    )
