"""A visit is a small run by the pipeline itself; what is slower in it shows where it is slower."""

import os
import signal
import subprocess
from types import SimpleNamespace

import pytest
import torch

from spac_repro import iteration, recipes
from spac_repro.data import sources
from spac_repro.errors import UnfitEnvironmentError
from spac_repro.launchers.rehearsal import SIGNAL_REQUEST
from spac_repro.model import policy
from spac_repro.optim import checkpoints, signals
from spac_repro.optim.replicated import Replicated
from spac_repro.progress import NoProgress
from spac_repro.recipe import Run
from spac_repro.rehearsal import interruption, measure, plan, rows, shape, visits
from spac_repro.rehearsal.meter import Meter
from spac_repro.spans import listening, span

SMALL = [
    *("supervised_start.num_demonstrations=64", "data.max_pairs=32", "selfplay.prompts_per_seed=8"),
    *("training.global_batch_size=4", "evaluation.suite=none", "evaluation.gold_prompts=0", "evaluation.heldout_pairs=0"),
]


def small(*more: str) -> Run:
    return recipes.load("tiny", overrides=[*SMALL, *more])


def planned(run: Run, tokens: int | None = None) -> plan.Plan:
    found = shape.of_policy(run.recipe.policy)
    return plan.make(run, sources.read(run, preferences=None, questions=None), (1, 2), found, tokens, ())


@pytest.fixture(autouse=True)
def as_without_signals(monkeypatch):
    """A visit installs handlers; the next test knows of none."""
    monkeypatch.setattr(signals, "_signal_received", False)
    monkeypatch.setattr(signals, "_end_requested", False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def ticking(monkeypatch):
    """A clock that only some functions move, by so many seconds a call: a visit's times do not depend on the machine."""
    now = [0.0]

    def clock(**costs: float) -> None:
        for (owner, name), cost in zip(
            ((Replicated, "step"), (policy, "weights_sha256"), (iteration, "reference_logprobs")), costs.values(), strict=True
        ):
            real = getattr(owner, name)
            monkeypatch.setattr(
                owner, name, lambda *a, _real=real, _cost=cost, **k: (now.__setitem__(0, now[0] + _cost), _real(*a, **k))[1]
            )

    clock.read = lambda: now[0]  # type: ignore[attr-defined]
    return clock


@pytest.mark.parametrize(("slow", "stage"), [("step", "step"), ("reference", "reference log-probabilities")])
def test_a_stage_made_twice_as_slow_shows_in_that_stage(tmp_path, ticking, slow, stage, one_thread):
    costs = {"step": 1.0, "hash": 3.0, "reference": 5.0}
    ticking(**{**costs, slow: 2 * costs[slow]})
    found = visits.visit(planned(small()), 1, 0.5, tmp_path, ticking.read)
    expected = {"step": 1.0, "hash": 3.0, "reference log-probabilities": 5.0}
    expected[stage] *= 2
    assert {name: found[name].seconds for name in expected} == pytest.approx(expected, rel=0.05)
    assert all(found[name].seconds == 0 for name in found if name not in expected and name != "supervised step")
    assert {"load", "save", "self-play", "checkpoint write", "checkpoint read", "engine", "gather", "audit"} <= set(found)
    assert not list(tmp_path.iterdir())


def test_a_token_budget_cuts_rows_and_then_their_lengths():
    found, cut = planned(small()).batch, planned(small(), tokens=64).batch
    assert (found.step, found.decoded, found.prompt_limit, found.response_limit) == (4, 8, 16, 8)
    assert cut.step < found.step
    assert cut.micro_batch_tokens == 64
    run = recipes.load("zephyr-7b")
    alone, notes = measure.on_this_machine(run)
    assert alone.recipe.training.processes == 1
    assert "all times are those of a CPU" in notes[0]
    mistral = shape.of_policy(alone.recipe.policy)
    assert mistral.parameters(mistral.layers) == 7_241_732_096
    short = plan.make(alone, None, (1, 2), mistral, 512, ())
    small_run = short.at(1.0)
    tokens = small_run.recipe.data.max_prompt_tokens + 3 * small_run.recipe.data.max_response_tokens
    assert short.batch.step * short.cut.example(3) <= 512 < 4 * tokens
    assert short.work()["step"].count == run.recipe.training.iterations * 782 * 3
    assert any("leaderboard is not rehearsed" in note for note in short.notes)


def test_drawn_rows_have_the_lengths_that_are_stated():
    run, _ = measure.on_this_machine(recipes.load("zephyr-7b"))
    found = shape.of_policy(run.recipe.policy)
    lengths = rows.mean_lengths(plan.renderer(found, run.recipe, 512, 512).tokenize(rows.drawn(512, 512, bytewise=True)))
    assert lengths.prompt == pytest.approx(170, rel=0.15)
    assert lengths.response == pytest.approx(260, rel=0.15)


def test_time_belongs_to_the_innermost_span():
    now = [0.0]
    meter = Meter(lambda: now[0])
    with listening(meter), span("outer"):
        now[0] += 1
        with span("inner"):
            now[0] += 10
        now[0] += 2
    assert {each.name: each.seconds for each in meter.ended} == {"inner": 10, "outer": 3}
    with span("nobody listens"):
        pass
    assert len(meter.ended) == 2


def test_a_signal_that_does_not_come_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv(SIGNAL_REQUEST, str(tmp_path / "requested"))
    monkeypatch.setattr(interruption, "SIGNAL_SECONDS", 0.1)
    asked = interruption.Interrupter()
    asked.start_stage("iteration 1: training")
    with pytest.raises(UnfitEnvironmentError, match="did not reach the training"):
        asked.update(plan.INTERRUPTED_AFTER - 1, plan.STEPS)
    assert (tmp_path / "requested").exists()


def test_an_allocation_that_fails_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(shape, "create", lambda *_: torch.empty(2**60))
    with pytest.raises(UnfitEnvironmentError, match="does not fit: memory ran out with 2 layers"):
        visits.visit(planned(small()), 2, 0.5, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("embeddings", "layer", "layers", "expected"),
    [
        (2 * 32000 * 4096, 218_112_000, 32, (2, 4)),  # Mistral 7B
        (49152 * 576, 3_540_096, 30, (8, 16)),  # SmolLM2-135M: the embeddings are as large as 8 layers
        (151_936 * 896, 14_900_000, 12, (6, 12)),
        (1000, 147_712, 3, (1, 3)),
    ],
)
def test_small_layers_beside_large_embeddings_are_rehearsed_deeper(monkeypatch, embeddings, layer, layers, expected):
    found = SimpleNamespace(layers=layers, parameters_of_a_layer=layer, parameters=lambda number: embeddings + number * layer)
    monkeypatch.setattr(measure, "_needed", lambda *_: 0)
    assert measure.depths(found, small(), None) == expected


def test_layers_that_do_not_fit_are_not_begun(monkeypatch):
    run = small()
    found = shape.of_policy(run.recipe.policy)
    monkeypatch.setattr(measure, "_memory", lambda run: measure._needed(found, run, 2))
    assert measure.depths(found, run, None) == (1, 2)
    monkeypatch.setattr(measure, "_memory", lambda run: measure._needed(found, run, 1))
    for layers in (None, 2):
        with pytest.raises(UnfitEnvironmentError, match="does not fit: 2 layers"):
            measure.depths(found, run, layers)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_ends_the_rehearsal_is_not_taken_for_its_own(monkeypatch, tmp_path, number, one_thread):
    """It comes while the checkpoint is written at which the rehearsal stopped itself."""
    real, seen = checkpoints.save, []

    def save(*arguments, **options):
        seen.append(signal.getsignal(number))
        os.kill(os.getpid(), number)
        real(*arguments, **options)

    monkeypatch.setattr(checkpoints, "save", save)
    with pytest.raises(KeyboardInterrupt):
        visits.visit(planned(small()), 1, 0.5, tmp_path)
    assert len(seen) == 1  # it did not go on
    assert not list(tmp_path.iterdir())


class Recorder(NoProgress):
    """Keeps what it is told, and interrupts at a stage."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, line: str) -> None:
        self.told.append(line)

    def start_stage(self, name: str) -> None:
        self.told.append(f"stage {name}")
        if name.startswith("round 1") and name.endswith(": self-play"):
            raise KeyboardInterrupt


def test_notes_come_first_and_stages_as_they_begin_and_nothing_is_left(monkeypatch, tmp_path, one_thread):
    dead = subprocess.Popen(["true"])
    dead.wait()
    left, kept = (tmp_path / f"{measure._of_this_machine()}{process}-abc" for process in (dead.pid, os.getpid()))
    for folder in (left, kept):
        folder.mkdir()
    monkeypatch.setattr(measure, "on_this_machine", lambda run: (run, ["no GPU"]))
    run, shown = small(), Recorder()
    inputs = sources.read(run, preferences=None, questions=None)
    with pytest.raises(KeyboardInterrupt):
        measure.rehearse(measure.Request(run, inputs, 2, None, 1e-6, tmp_path), shown)
    assert "1 and 2 of 3 layers" in shown.told[0]
    assert shown.told[1:4] == [
        "note: no GPU",
        "note: batches are cut to 256 tokens, because a CPU computes them; --tokens N chooses",
        "not counted, 1 layers, 4 rows",
    ]
    assert "stage not counted, 1 layers, 4 rows: iteration 1: self-play" in shown.told
    assert shown.told[-1] == "stage round 1, 1 layers, 4 rows: iteration 1: self-play"
    assert any(line.endswith("minutes or more: it is finished whatever --minutes is") for line in shown.told)
    assert list(tmp_path.iterdir()) == [kept]
