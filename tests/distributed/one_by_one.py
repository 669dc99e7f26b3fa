"""A process of two: steps of GPT-2 under ZeRO-3, response by response; the main process prints how far they are from plain ones."""

import os

import torch
import torch.distributed
from transformers import GPT2Config, GPT2LMHeadModel

from spac_repro.data.example import TokenizedExample
from spac_repro.model.packing import pack
from spac_repro.model.policy import Policy, prepare, supports_packing
from spac_repro.optim.loop import Schedule, accumulate_gradient
from spac_repro.optim.zero import Zero3

# Three examples for two processes, and responses of unlike lengths, one of them empty.
EXAMPLES = [
    TokenizedExample([1, 2, 3, 4, 5], [[6, 7, 8], list(range(9, 18)), [18]]),
    TokenizedExample(list(range(20, 32)), [list(range(40, 47)), [], [50, 51]]),
    TokenizedExample([60, 61], [list(range(70, 90)), [90, 91, 92, 93], [94, 95, 96, 97, 98]]),
]
STEPS, LEARNING_RATE = 3, 0.01


def policy() -> Policy:
    """Layers are larger than what ZeRO-3 leaves whole."""
    torch.manual_seed(0)
    shape = GPT2Config(vocab_size=200, n_positions=64, n_embd=128, n_layer=2, n_head=2, initializer_range=0.1)
    model = prepare(GPT2LMHeadModel(shape), "sdpa")
    assert not supports_packing(model)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model).train()


def objective(module, rows):
    values = module(pack([EXAMPLES[i] for i in rows])).view(len(rows), 3)
    return values @ torch.tensor([1.0, -2.0, 0.5]) / 10, {}


def sharded(schedule: Schedule) -> tuple[list[float], dict[str, torch.Tensor]]:
    torch.distributed.init_process_group("gloo")
    trained = policy()
    engine = Zero3(trained, torch.optim.SGD(trained.parameters(), lr=0.0), max_grad_norm=1e9)
    norms = []
    for step in range(STEPS):
        accumulate_gradient(engine, lambda rows: objective(engine.module, rows), schedule, step)
        norms.append(engine.step(LEARNING_RATE))
    assert any(parameter.ds_numel > parameter.ds_tensor.numel() for parameter in trained.parameters())
    weights = {name.removeprefix("model."): weights for name, weights in engine.weights().items()}
    engine.close()
    torch.distributed.destroy_process_group()
    return norms, weights


def plain(schedule: Schedule) -> tuple[list[float], dict[str, torch.Tensor]]:
    trained = policy()
    optimizer = torch.optim.SGD(trained.parameters(), lr=LEARNING_RATE)
    norms = []
    for step in range(STEPS):
        optimizer.zero_grad()
        objective(trained, schedule.batch(step))[0].mean().backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained.parameters(), 1e9)))
        optimizer.step()
    return norms, dict(trained.named_parameters())


def main() -> None:
    torch.set_num_threads(1)
    schedule = Schedule(
        lengths=[example.num_tokens for example in EXAMPLES],
        batch_size=3,
        micro_batch_tokens=1,
        epochs=STEPS,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        warmup_ratio=0.0,
        seed=(0, "order", 1),
    )
    norms, weights = sharded(schedule)
    if os.environ["RANK"] != "0":
        return
    expected_norms, expected = plain(schedule)
    moved = max((weights[name] - start).abs().max().item() for name, start in policy().named_parameters())
    apart = max((weights[name] - expected[name]).abs().max().item() for name in expected)
    norm = max(abs(a - b) / b for a, b in zip(norms, expected_norms, strict=True))
    print(f"norms apart {norm:.3g}; weights apart {apart:.3g}, moved {moved:.3g}")
    assert norm < 1e-5
    assert apart < 1e-6 < 1e-3 < moved


if __name__ == "__main__":
    main()
