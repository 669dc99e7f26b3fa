"""Training state on disk: every bit of it back, the newest that is whole, and no other model's."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spac_repro.errors import UserError
from spac_repro.optim import checkpoints
from spac_repro.optim.loop import create_optimizer
from spac_repro.optim.replicated import Replicated
from spac_repro.runs import files

pytestmark = pytest.mark.usefixtures("one_thread")
INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


RUN = {"run": "r", "iteration": 1, "weights": "w"}


class Tied(nn.Module):
    """Input and output layer share one weight, as in many language models."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.embed = nn.Linear(width, 5, bias=False)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Linear(width, 5, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, inputs):
        return self.drop(self.embed(inputs)) @ self.out.weight


def separate() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 4))


MODELS = {"separate": separate, "tied": Tied}


def make(kind: str, optimizer: str, seed: int):
    torch.manual_seed(seed)
    model = MODELS[kind]()
    return model, create_optimizer(optimizer, model, weight_decay=0.1)


def step(model, optimizer, n: int) -> None:
    for _ in range(n):
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.zero_grad()
        (model(INPUTS) ** 2).mean().backward()
        optimizer.step()


def save(folder, number: int, model, optimizer, *, keep: int) -> None:
    """As the training loop writes a checkpoint after `number` steps."""
    checkpoints.save(folder, number, engine(model, optimizer).state(), save_total_limit=keep, computed_from=RUN, metrics=None)


def restore(folder, model, optimizer, *, warn) -> int:
    """As the training loop begins: the steps taken before the newest checkpoint that is whole."""
    checkpoint = checkpoints.latest_valid(folder, RUN, warn=warn)
    engine(model, optimizer, checkpoint)
    return checkpoints.step_of(checkpoint) if checkpoint else 0


def engine(model, optimizer, checkpoint=None) -> Replicated:
    return Replicated(model, optimizer, checkpoint, max_grad_norm=1.0)


def bits(model, optimizer) -> dict[str, torch.Tensor]:
    state = {f"model.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    for index, values in optimizer.state_dict()["state"].items():
        state |= {f"{index}.{name}": torch.as_tensor(value).clone() for name, value in values.items()}
    return {**state, "generator": torch.get_rng_state()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def never(warning: str) -> None:
    raise AssertionError(warning)


@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_restored_training_goes_on_bit_for_bit(tmp_path, kind, optimizer):
    """Another process, another start: only what is on disk is the same."""
    model, stepper = make(kind, optimizer, seed=1)
    step(model, stepper, 3)
    save(tmp_path, 3, model, stepper, keep=2)
    at_three = bits(model, stepper)
    step(model, stepper, 4)
    expected = bits(model, stepper)

    model, stepper = make(kind, optimizer, seed=2)
    assert not same(bits(model, stepper), at_three)
    assert restore(tmp_path, model, stepper, warn=never) == 3
    assert same(bits(model, stepper), at_three)
    step(model, stepper, 4)
    assert same(bits(model, stepper), expected)


def test_a_tied_weight_is_stored_once_and_stays_tied(tmp_path):
    model, stepper = make("tied", "adamw", seed=1)
    step(model, stepper, 1)
    save(tmp_path, 1, model, stepper, keep=1)
    stored = load_file(tmp_path / "step-0000001" / "state.safetensors")
    assert [name for name in stored if name.startswith("model.")] == ["model.embed.weight"]
    other, stepper = make("tied", "adamw", seed=2)
    restore(tmp_path, other, stepper, warn=never)
    assert other.out.weight is other.embed.weight
    assert torch.equal(other.out.weight, model.out.weight)


def test_where_there_is_nothing_training_begins_at_0(tmp_path):
    model, stepper = make("separate", "adamw", seed=1)
    before = bits(model, stepper)
    assert restore(tmp_path / "training", model, stepper, warn=never) == 0
    assert same(bits(model, stepper), before)
    assert checkpoints.latest_valid(tmp_path / "training", RUN) is None


@pytest.fixture
def three(tmp_path):
    """A folder with checkpoints after 1, 2 and 3 steps, and the state at each."""
    model, stepper = make("separate", "adamw", seed=1)
    states = {}
    for number in (1, 2, 3):
        step(model, stepper, 1)
        save(tmp_path, number, model, stepper, keep=3)
        states[number] = bits(model, stepper)
    return tmp_path, states


def truncate(path):
    file = path / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(path):
    file = path / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "one bit flipped": flip_a_bit,
    "no state": lambda path: (path / "state.safetensors").unlink(),
    "no hash": lambda path: (path / "checkpoint.json").unlink(),
    "hash cut off": lambda path: (path / "checkpoint.json").write_text('{"step": 3'),
    "hash of another kind": lambda path: (path / "checkpoint.json").write_text("[]"),
    "hash left out": lambda path: (path / "checkpoint.json").write_text('{"step": 3}'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_newest_the_one_before_is_taken_and_it_is_said(three, damage):
    folder, states = three
    DAMAGES[damage](folder / "step-0000003")
    warnings = []
    model, stepper = make("separate", "adamw", seed=2)
    assert restore(folder, model, stepper, warn=warnings.append) == 2
    assert same(bits(model, stepper), states[2])
    assert len(warnings) == 1
    assert f"{folder / 'step-0000003'} is damaged (" in warnings[0]
    assert "going back" in warnings[0]
    assert "\n" not in warnings[0]
    assert checkpoints.latest_valid(folder, RUN) == folder / "step-0000002"


def test_another_runs_checkpoints_are_not_taken(three):
    folder, _ = three
    warnings = []
    for other in ({**RUN, "run": "s"}, {**RUN, "iteration": 2}, {**RUN, "weights": "v"}, {}):
        assert checkpoints.latest_valid(folder, other, warn=warnings.append) is None
    assert len(warnings) == 12
    assert all("computed by another run, or from other weights" in warning for warning in warnings)


@pytest.mark.parametrize("key", ["step", "bytes"])
def test_one_digit_of_what_a_checkpoint_says_is_noticed(three, key):
    """The step decides which examples come next."""
    folder, _ = three
    file = folder / "step-0000003" / "checkpoint.json"
    changed = re.sub(rf'"{key}": \d', f'"{key}": 7', file.read_text())
    assert changed != file.read_text()
    file.write_text(changed)
    assert "its hash is not the one written in it" in checkpoints.damage(folder / "step-0000003", RUN)


def test_where_all_are_damaged_training_begins_at_0_with_nothing_loaded(three):
    folder, _ = three
    for path in folder.iterdir():
        truncate(path)
    model, stepper = make("separate", "adamw", seed=2)
    before = bits(model, stepper)
    warnings = []
    assert restore(folder, model, stepper, warn=warnings.append) == 0
    assert same(bits(model, stepper), before)
    assert len(warnings) == 3
    assert checkpoints.latest_valid(folder, RUN) is None


def test_the_newest_are_kept(tmp_path):
    model, stepper = make("separate", "rmsprop", seed=1)
    for number in (2, 8, 9, 10, 100):
        save(tmp_path, number, model, stepper, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-0000010", "step-0000100"]


def test_a_checkpoint_that_cannot_be_finished_leaves_no_trace_and_drops_no_other(three, monkeypatch):
    folder, _ = three
    names = sorted(path.name for path in folder.iterdir())
    model, stepper = make("separate", "adamw", seed=1)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save(folder, 4, model, stepper, keep=1)
    assert sorted(path.name for path in folder.iterdir()) == names


def test_what_a_kill_left_of_a_checkpoint_is_not_taken_for_one(three):
    folder, states = three
    (folder / "step-0000003").rename(folder / ".step-0000004.partial")
    model, stepper = make("separate", "adamw", seed=2)
    assert restore(folder, model, stepper, warn=never) == 2
    assert same(bits(model, stepper), states[2])


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 4, bias=False)), id="a weight less"),
        pytest.param(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4)), id="other names"),
        pytest.param(nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.3), nn.Linear(5, 3)), id="another shape"),
    ],
)
def test_another_models_checkpoint_is_refused(three, other):
    folder, _ = three
    with pytest.raises(UserError, match="the checkpoint is of another model"):
        restore(folder, other, create_optimizer("adamw", other, weight_decay=0.1), warn=never)


def test_a_smaller_weight_is_not_stretched_over_a_larger(three):
    """[1] would copy into [4] without a word."""
    folder, _ = three
    path = folder / "step-0000003"
    tensors = load_file(path / "state.safetensors")
    tensors["model.2.bias"] = tensors["model.2.bias"][:1].clone()
    save_file(tensors, path / "state.safetensors")
    content = files.read_json(path / "checkpoint.json")["content"] | {"sha256": files.sha256_file(path / "state.safetensors")}
    files.write_sealed_json(path / "checkpoint.json", content, computed_from=RUN)
    model, stepper = make("separate", "adamw", seed=2)
    with pytest.raises(UserError, match=r"2\.bias is 1 in the checkpoint and 4 in the model"):
        restore(folder, model, stepper, warn=never)


def test_the_hash_beside_the_state_is_of_its_bytes(three):
    folder, _ = three
    beside = json.loads((folder / "step-0000003" / "checkpoint.json").read_text())["content"]
    assert (beside["step"], beside["sha256"]) == (3, files.sha256_file(folder / "step-0000003" / "state.safetensors"))
