"""A whole run: data → start → self-play iterations, every iterate evaluated → verdict.

Each stage leaves its result in the run folder, appears there whole, and is skipped when it is there. So repeating an interrupted
command goes on where it stopped, and what is computed never depends on how often that happened: every stage reads its input from
disk, and every draw has a seed of its own.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from spac_repro import iteration, methods, start, supervised
from spac_repro.data import mapped, triples
from spac_repro.data.inputs import Inputs, measure_overlap
from spac_repro.data.rendering import Renderer
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation import gold, heldout
from spac_repro.evaluation.leaderboard import suites
from spac_repro.methods import Referenced
from spac_repro.model import policy, precision
from spac_repro.optim import checkpoints, processes
from spac_repro.optim.engines import Engine, Plain, Zero
from spac_repro.optim.loop import Keeping, Objective, Schedule, optimise, optimizer_for
from spac_repro.optim.metrics import Metrics
from spac_repro.progress import Progress
from spac_repro.publish.model_card import card
from spac_repro.recipe import Run
from spac_repro.runs import environment, files
from spac_repro.runs.files import Score
from spac_repro.sampling import selfplay, vllm
from spac_repro.seeds import derive

SHOWN = 12  # prompts that every iterate answers for the report


def train(
    run: Run,
    folder: Path,
    inputs: Inputs,
    *,
    allow_changed_environment: bool,
    until: int | None = None,
    start_from: Path | None = None,
    inspect: Callable[[dict[str, Any]], None] = lambda manifest: None,
    progress: Progress,
) -> dict[str, Any] | None:
    """Carry out a run, or what of it is not there yet, and return its results (what results.json holds).

    With `until`, stop after that iteration; the results are None unless the run is complete. With `start_from`, iteration 0 is not
    computed but shared with another run of the same recipe and seed. `inspect` sees the manifest before anything is written.

    Raises:
        UserError: the folder is another run's or in use; a damaged file; a loss that is not finite.
        UnfitEnvironmentError: the disk is full, or an input cannot be had here.
    """
    _be_deterministic()
    training = run.recipe.training
    if training.threads and not torch.cuda.is_available():
        torch.set_num_threads(training.threads)
    processes.join(training.processes, group=training.engine != "accelerate")
    if processes.world() > 1:
        progress.say(f"{processes.world()} processes have found each other; engine {training.engine}")
    half = "bfloat16" in (training.precision, run.recipe.policy.dtype)
    with files.disk_errors(folder), precision.widened() if half else nullcontext(), ExitStack() as held:
        processes.on_main(lambda: held.enter_context(files.owned(folder)))
        return _Training(run, folder, inputs, progress).carry_out(allow_changed_environment, until, start_from, inspect)


def _be_deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts; without it cuBLAS may vary
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed warns where it has to find that out by itself
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and nothing here reads such memory
    torch.backends.cudnn.benchmark = False


class _Training:
    """The stages of one run over its folder."""

    def __init__(self, run: Run, folder: Path, inputs: Inputs, progress: Progress) -> None:
        self.run = run
        self.recipe = run.recipe
        self.folder = folder
        self.inputs = inputs
        self.progress = progress
        self.timing = _Timing(folder / "timing.json")

    def carry_out(
        self,
        allow_changed_environment: bool,
        until: int | None,
        start_from: Path | None,
        inspect: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any] | None:
        if self.recipe.selfplay.generator == "vllm":
            vllm.check()
        model, tokenizer = policy.create(self.recipe.policy, seed=derive(self.run.seed, "weights"))
        if not policy.packs(model):
            self.progress.say(
                f"{model.config.model_type}: a prompt is computed again for each of its responses; once for all of them where that "
                f"is known to be exact: {', '.join(policy.PACKED)} with attention sdpa"
            )
        self.renderer = Renderer(tokenizer, self.recipe.data)
        self.examples = self.renderer.examples(self.inputs.rows)

        def claim() -> None:
            manifest = self._manifest(model)
            inspect(manifest)
            if start_from is not None and not self._policy_folder(0).exists():
                start.check(start_from, self.run, manifest)  # before anything is written
            files.claim(self.folder, manifest, allow_changed_environment=allow_changed_environment)

        processes.on_main(claim)
        results = self.folder / "results.json"
        if self._there(results):
            self.progress.say(f"{self.folder} is complete; nothing to do")
            return dict(files.read_json(results))
        processes.on_main(self._measure_overlap)
        with Metrics(self.folder) as self.metrics:
            if start_from is not None:
                processes.on_main(lambda: self._share_start(start_from))
            processes.on_main(lambda: self._start(model))
            self._evaluate(0)
            last = self.recipe.training.iterations
            for t in range(1, last + 1 if until is None else min(until, last) + 1):
                self._iterate(t)
                self._evaluate(t)
        if until is not None and until < last:
            return None
        processes.on_main(lambda: files.write_json(results, self._results()))
        return dict(files.read_json(results))

    # The stages

    def _share_start(self, other: Path) -> None:
        """Iteration 0 of another run, which was seen to be what this run would compute: its files are linked, not copied."""
        if self._policy_folder(0).exists():
            return
        self.progress.stage("iteration 0: shared")
        start.share(other, self.folder, card(self.run, 0))

    def _start(self, model: PreTrainedModel) -> None:
        """Iteration 0: the policy before any preference, supervised where the recipe says so.

        Never divided among processes: only the built-in world has a supervised start, of a minute, and so it is the same for any
        number of them.
        """
        if self._policy_folder(0).exists():
            return
        with processes.alone(), self._timed(0, "supervised start" if self.recipe.start else "start"):
            if self.recipe.start is None:
                self._save(0, model)
                return
            assert self.inputs.world is not None  # the recipe's own check
            settings = self.recipe.start
            demonstrations = self.inputs.world.demonstrations(settings.demonstrations)
            scorer = policy.Policy(model)
            sizes = [1 + len(prompt) + len(response) + 1 for prompt, response in demonstrations]  # a letter is a token
            schedule = Schedule(
                sizes=sizes,
                batch_size=settings.batch_size,
                micro_batch_tokens=sum(sizes),  # a step at once: cut up, other demonstrations would stand together in a row
                epochs=settings.epochs,
                learning_rate=settings.learning_rate,
                shape="linear",
                warmup=settings.warmup,
                seed=(self.run.seed, "order", 0),
            )
            objective = supervised.objective(
                scorer, self.renderer.tokenizer, demonstrations, few_shot_share=settings.few_shot_share
            )
            engine = self._engine(0, scorer, "adamw", settings.weight_decay, "accelerate")
            self._optimise(0, engine, objective, schedule)
            self._save(0, model)
            self._forget(0)

    def _iterate(self, t: int) -> None:
        """Iteration t: self-play by π_{t−1}, references, optimiser steps; leaves π_t."""
        if self._there(self._policy_folder(t)):
            return
        model = self._load(t - 1).to(self._accelerator().device)
        triples_file = self.folder / f"iteration-{t}" / "selfplay.parquet"
        scorer = policy.Policy(model)
        if not self._there(triples_file):
            self._make_triples(t, scorer, triples_file)
        training = self.recipe.training
        with self._timed(t, "training"):
            data = self._read_triples(triples_file, self._reference(t))
            schedule = Schedule(
                sizes=data.sizes(methods.get(self.run.method).responses),
                batch_size=training.batch_size,
                micro_batch_tokens=training.micro_batch_tokens,
                epochs=training.epochs,
                learning_rate=iteration.learning_rate(self.run, t),
                shape=training.schedule,
                warmup=training.warmup,
                seed=(self.run.seed, "order", t),
            )
            engine = self._engine(t, scorer, training.optimizer, training.weight_decay, training.engine)
            self._optimise(t, engine, iteration.objective(self.run, t, _Called(engine), data), schedule)
            weights = engine.weights()
            processes.on_main(lambda: self._save_weights(t, model, weights))
            self._forget(t)

    def _make_triples(self, t: int, scorer: policy.Policy, path: Path) -> None:
        method, model = self.run.method, scorer.model
        responses = None
        batches = path.parent / "selfplay"
        if methods.get(method).self_play:
            resumed = self._there(batches)  # responses that an earlier attempt drew cost nothing now
            begun = time.perf_counter()
            with self._timed(t, "self-play") as timing, self._sampler(t - 1) as sample:
                responses = selfplay.respond(
                    model,
                    self.examples.prompt,
                    self.recipe.selfplay,
                    longest_response=self.recipe.data.longest_response,
                    pad=self.pad,
                    stop=self.renderer.tokenizer.eos_token_id,
                    seed=derive(self.run.seed, "self-play", t),
                    folder=batches,
                    sample=sample,
                    advance=self.progress.advance,
                )
                timing["tokens"] = sum(mapped.lengths(responses))
            if not resumed:
                rate = timing["tokens"] / (time.perf_counter() - begun)
                self.progress.say(f"{len(responses)} responses of {timing['tokens']} tokens, {rate:.0f} tokens/s")
        data = triples.from_examples(self.examples, responses)
        settings = self.run.objective
        if isinstance(settings, Referenced):
            with self._timed(t, "reference log-probabilities"):
                data = self._with_reference(t, scorer, data, settings)
        texts = {
            "prompt": map(self.renderer.tokenizer.decode, data.prompts),
            **{name: map(self.renderer.text, its) for name, its in data.responses.items()},
        }

        def keep() -> None:
            triples.write(path, data, texts)
            selfplay.forget(batches)

        processes.on_main(keep)

    def _sampler(self, t: int) -> AbstractContextManager[vllm.Sampler | None]:
        """What draws iterate t's responses; None: the package's own sampler."""
        settings, data = self.recipe.selfplay, self.recipe.data
        if settings.generator == "transformers":
            return nullcontext()
        return vllm.Sampler(
            self._policy_folder(t),
            dtype=self.recipe.policy.dtype,
            temperature=settings.temperature,
            top_p=settings.top_p,
            longest_prompt=data.longest_prompt,
            longest=data.longest_response,
            stop=self.renderer.tokenizer.eos_token_id,
        )

    def _with_reference(self, t: int, scorer: policy.Policy, data: triples.Triples, settings: Referenced) -> triples.Triples:
        """log π_ref where π_ref is π_{t−1}, or the start: then chosen and rejected have theirs from the first iteration."""
        names, weights = methods.get(self.run.method).responses, self._reference(t)
        if settings.reference == "start" and t > 1:
            if "selfplay" in names:
                scorer = policy.Policy(self._load(0))
            else:
                path = self.folder / "iteration-1" / "selfplay.parquet"
                first = self._read_triples(path, weights, remedy=f"remove {path.parent} and all iterations after it, and repeat")
                return replace(data, reference=first.reference, reference_sha256=weights)
        accelerator = self._accelerator()
        scorer.to(accelerator.device).eval()
        with accelerator.autocast():
            reference = triples.reference_logprobs(
                scorer,
                data,
                names,
                tokens=self.recipe.training.micro_batch_tokens,
                advance=self.progress.advance,
            )
        return replace(data, reference=reference, reference_sha256=weights)

    def _reference(self, t: int) -> str | None:
        """The weights of iteration t's reference, by their hash; None where the method has none."""
        settings = self.run.objective
        if not isinstance(settings, Referenced):
            return None
        return self._weights_sha256(0 if settings.reference == "start" else t - 1)

    def _read_triples(
        self, path: Path, reference: str | None, *, remedy: str = "remove it and repeat the command"
    ) -> triples.Triples:
        data = triples.read(path, remedy=remedy)
        if data.reference_sha256 != reference:
            raise UserError(
                f"{path}: its reference log-probabilities are those of weights {data.reference_sha256}, and the reference is "
                f"{reference}; {remedy}"
            )
        return data

    def _engine(self, t: int, scorer: policy.Policy, optimizer: str, weight_decay: float, name: str) -> Engine:
        training = self.recipe.training
        scorer.to(self._accelerator().device)
        if training.gradient_checkpointing and t > 0:
            how = {"use_reentrant": False, "context_fn": precision.contexts}
            scorer.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)
        scorer.train()
        stepper = optimizer_for(optimizer, scorer, weight_decay=weight_decay)
        if name == "accelerate":
            return Plain(scorer, stepper, max_grad_norm=training.max_grad_norm)
        if name == "deepspeed-zero3" and not policy.packs(scorer.model):
            raise UnfitEnvironmentError(
                f"{scorer.model.config.model_type} is computed response by response here, and ZeRO-3 needs as many passes on every "
                "process; --set training.engine=deepspeed-zero2"
            )
        autocast = training.precision == "bfloat16"
        stage = int(name[-1])
        return Zero(scorer, stepper, stage=stage, max_grad_norm=training.max_grad_norm, autocast=autocast)

    def _optimise(self, t: int, engine: Engine, objective: Objective, schedule: Schedule) -> None:
        training = self.recipe.training
        accelerator = self._accelerator()
        # DeepSpeed has an autocast of its own, and switches off another around it.
        autocast = accelerator.autocast if isinstance(engine, Plain) else nullcontext

        def within_precision(rows: Any) -> Any:
            with autocast():
                return objective(rows)

        optimise(
            engine,
            within_precision,
            schedule,
            iteration=t,
            keeping=Keeping(self._training_folder(t), training.checkpoint_every, training.checkpoints_kept),
            metrics=self.metrics,
            warn=self.progress.say,
            advance=self.progress.advance,
        )

    def _evaluate(self, t: int) -> None:
        """Score iterate t, unless that was done."""
        path = self._scores_file(t)
        if self._there(path):
            return
        model = self._load(t).to(self._accelerator().device).eval()
        scores = self._gold(t, model) if self.recipe.evaluation.gold_prompts else []
        if self.recipe.evaluation.heldout_pairs:
            scores += self._heldout(t, model)
        if self.recipe.evaluation.suite != "none":
            with self._timed(t, "leaderboard"):
                scores += self._leaderboard(model)
        samples = self._samples(t, model)

        def keep() -> None:
            files.write_json(path.with_name("samples.json"), samples)
            files.write_json(path, [score.as_dict() for score in scores])

        processes.on_main(keep)

    def _samples(self, t: int, model: PreTrainedModel) -> list[str]:
        """What iterate t says to the first prompts, for whoever reads the report; DPO's runs hold no other response of a policy."""
        responses = selfplay.respond(
            model,
            self.examples.prompt[:SHOWN],
            self.recipe.selfplay,
            longest_response=self.recipe.data.longest_response,
            pad=self.pad,
            stop=self.renderer.tokenizer.eos_token_id,
            seed=derive(self.run.seed, "samples", t),
        )
        return [self.renderer.text(response) for response in responses]

    def _gold(self, t: int, model: PreTrainedModel) -> list[Score]:
        assert self.inputs.world is not None  # the recipe's own check
        with self._timed(t, "gold reward"):
            settings = self.recipe.evaluation
            rewards = gold.sample(
                model,
                self.renderer.tokenizer,
                self.inputs.world,
                self.recipe.data,
                self.recipe.selfplay,
                prompts=settings.gold_prompts,
                samples=settings.gold_samples,
                seed=derive(self.run.seed, "gold", t),
                advance=self.progress.advance,
            )
        path = self.folder / "iteration-0" / "gold.json"
        if t == 0:
            processes.on_main(lambda: files.write_json(path, rewards.__dict__))
        return gold.scores(rewards, gold.Rewards(**files.read_json(path)))

    def _heldout(self, t: int, model: PreTrainedModel) -> list[Score]:
        assert self.inputs.world is not None  # the recipe's own check
        path = self.folder / "iteration-0" / "heldout.parquet"
        scorer = policy.Policy(model)
        tokens = self.recipe.training.micro_batch_tokens
        with self._timed(t, "held-out preferences"):
            if t == 0:
                data = heldout.draw(
                    scorer,
                    self.renderer,
                    self.inputs.world,
                    self.recipe.selfplay,
                    pairs=self.recipe.evaluation.heldout_pairs,
                    tokens=tokens,
                    seed=derive(self.run.seed, "held-out"),
                    advance=self.progress.advance,
                )
                data = replace(data, reference_sha256=self._weights_sha256(0))
                processes.on_main(lambda: triples.write(path, data, {}))
            remedy = f"remove it and {self._scores_file(0)}, and repeat the command"
            data = self._read_triples(path, self._weights_sha256(0), remedy=remedy)
            return heldout.scores(scorer, data, tokens=tokens, advance=self.progress.advance)

    def _leaderboard(self, model: PreTrainedModel) -> list[Score]:
        settings = self.recipe.evaluation
        scores = suites.evaluate(
            model,
            self.renderer.tokenizer,
            settings.suite,
            tasks=settings.tasks,
            data=self.inputs.questions,
            world=self.inputs.world,
            limit=settings.limit,
            batch_size=settings.batch_size,
            progress=lambda task, done, total: self.progress.advance(done, total),
        )
        notes = self._overlap_notes()
        return [replace(score, note=notes.get(score.task, score.note)) for score in scores]

    def _measure_overlap(self) -> None:
        """Which prompts are also questions: known before training, and said before it."""
        if self._overlap_file.exists() or self.inputs.world is not None or self.recipe.evaluation.suite == "none":
            return
        self.progress.stage("overlap of preferences with questions")
        found = measure_overlap(self.run, self.inputs)
        for name, task in found.tasks.items():
            self.progress.say(f"{name}: {task.note or 'no overlap with the preferences'}")
        files.write_json(self._overlap_file, found.as_json())

    def _overlap_notes(self) -> dict[str, str]:
        """The mark of each task whose questions are partly in the preferences."""
        if not self._overlap_file.exists():
            return {}
        tasks = files.read_json(self._overlap_file)["tasks"]
        return {name: f"overlap: {len(t['item_indexes'])} of {t['items']} items" for name, t in tasks.items() if t["item_indexes"]}

    # What the stages share

    def _there(self, path: Path) -> bool:
        """Whether a file is there: the main process looks for all, lest one sees what another does not see yet."""
        return processes.on_main(path.exists)

    @property
    def pad(self) -> int:
        return policy.pad_token(self.renderer.tokenizer)

    def _accelerator(self) -> Accelerator:
        half = self.recipe.training.precision == "bfloat16"
        return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="bf16" if half else "no")

    def _policy_folder(self, t: int) -> Path:
        return self.folder / f"iteration-{t}" / "policy"

    def _training_folder(self, t: int) -> Path:
        return self.folder / f"iteration-{t}" / "training"

    @property
    def _overlap_file(self) -> Path:
        return self.folder / "overlap.json"

    def _scores_file(self, t: int) -> Path:
        return self.folder / f"iteration-{t}" / "scores.json"

    def _save_weights(self, t: int, model: PreTrainedModel, weights: dict[str, Any]) -> None:
        if self.recipe.training.engine != "accelerate":
            model, _ = policy.load(self._policy_folder(t - 1), self.recipe.policy)  # the trained one is DeepSpeed's by now
            checkpoints.load_model(policy.Policy(model), weights)
        self._save(t, model)

    def _forget(self, t: int) -> None:
        """Drop the training state: the iterate is there, and it has served."""
        processes.on_main(lambda: shutil.rmtree(self._training_folder(t), ignore_errors=True))

    def _save(self, t: int, model: PreTrainedModel) -> None:
        with files.new_folder(self._policy_folder(t)) as folder:
            policy.save(model, self.renderer.tokenizer, folder)
            files.write_json(folder / "fingerprint.json", {"weights_sha256": policy.weights_sha256(model)})
            files.write_bytes(folder / "README.md", card(self.run, t).encode())

    def _load(self, t: int) -> PreTrainedModel:
        folder = self._policy_folder(t)
        model, _ = policy.load(folder, self.recipe.policy)
        if policy.weights_sha256(model) != self._weights_sha256(t):
            raise UserError(f"{folder}: the weights are not those that were written; remove {folder.parent} and repeat the command")
        return model

    def _weights_sha256(self, t: int) -> str:
        return str(files.read_json(self._policy_folder(t) / "fingerprint.json")["weights_sha256"])

    def _manifest(self, model: PreTrainedModel) -> dict[str, Any]:
        return {
            "schema": files.SCHEMA,
            "recipe": self.recipe.name,
            "method": self.run.method,
            "seed": self.run.seed,
            "settings": self.run.settings(),
            "settings_sha256": self.run.settings_sha256,
            "provenance": {key: source.__dict__ for key, source in sorted(self.run.provenance.items())},
            "inputs": {
                **self.inputs.identity(),
                "policy_sha256": policy.weights_sha256(model) if self.recipe.policy.source != "random" else None,
                **policy.tokenizer_identity(self.renderer.tokenizer),
            },
            "environment": environment.describe(),
            "segments": [],
            "equal_bits_claimed": self.recipe.selfplay.generator == "transformers",  # of vLLM it is not known
        }

    def _results(self) -> dict[str, Any]:
        iterates = [
            {"iteration": t, "weights_sha256": self._weights_sha256(t), "scores": files.read_json(self._scores_file(t))}
            for t in range(self.recipe.training.iterations + 1)
        ]
        return {
            "schema": files.SCHEMA,
            "recipe": self.recipe.name,
            "method": self.run.method,
            "seed": self.run.seed,
            "complete": True,
            "settings_digest": self.run.settings_sha256,
            "weights_sha256": iterates[-1]["weights_sha256"],
            "harness": suites.harness(),
            "overlap": files.read_json(self._overlap_file) if self._overlap_file.exists() else None,
            "iterations": iterates,
        }

    @contextmanager
    def _timed(self, t: int, stage: str) -> Iterator[dict[str, Any]]:
        self.progress.stage(f"iteration {t}: {stage}")
        with self.timing.of(t, stage) as entry:
            yield entry


class _Called:
    """The policy as an objective calls it: what an engine makes of it is known only once that has begun."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(self, packed: Any) -> Any:
        return self.engine.module(packed)

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        return self.engine.module.parameters()


class _Timing:
    """timing.json: how long each stage took, in every attempt at it, and the most memory used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def of(self, t: int, stage: str) -> Iterator[dict[str, Any]]:
        begun = time.perf_counter()
        entry: dict[str, Any] = {"iteration": t, "stage": stage}
        yield entry
        if not processes.is_main():
            return
        # Kilobytes on Linux, bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        entry |= {"seconds": round(time.perf_counter() - begun, 3), "peak_memory_bytes": peak}
        if torch.cuda.is_available():
            entry["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        there = files.read_json(self.path) if self.path.exists() else []
        files.write_json(self.path, [*there, entry])
