"""TRL's losses of given log-probabilities, and their gradients: what tests/test_trl_losses.py holds objectives.py against.

    python bench/trl_losses.py < BATCHES.json     (`make bench` brings TRL)

A batch is {"losses": [{"name", "loss_type", …}, …], "chosen": …, "rejected": …, "chosen_ref": …, "rejected_ref": …}. A response is
the list of its tokens' log-probabilities, a reference is one sum. The answer to a batch has, by name, the loss and its gradient in
each response's summed log-probability. TRL's own code computes them: `DPOTrainer._compute_loss` and `CPOTrainer.cpo_loss`, with a
model that returns the log-probabilities as they are given.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import workload

PROMPT = 2  # tokens of a prompt, whose log-probabilities are not counted


def main() -> None:
    """Answer the list of batches on the standard input."""
    if not workload.PEERS.is_dir():
        sys.exit(f"no TRL in {workload.PEERS}: run `make bench`")
    sys.path.append(str(workload.PEERS))
    print(json.dumps([{loss["name"]: answer(loss, batch) for loss in batch["losses"]} for batch in json.load(sys.stdin)]))


def answer(loss: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
    """The loss of the batch, and its gradient in the summed log-probability of each response."""
    import torch

    responses = [*batch["chosen"], *batch["rejected"]]
    # One shift for each response, shared by its tokens: the gradient in it is the gradient in the summed log-probability.
    shifts = torch.zeros(len(responses), dtype=torch.float64, requires_grad=True)
    rows = [
        torch.tensor(response, dtype=torch.float64) + shift / len(response)
        for response, shift in zip(responses, shifts, strict=True)
    ]
    if loss.get("f_divergence_type") == "alpha_divergence":
        rows = [row.float() for row in rows]  # TRL has no float64 there
    value = (cpo if loss["loss_type"] == "simpo" else dpo)(loss, rows, batch)
    value.backward()
    chosen, rejected = shifts.grad.chunk(2)
    return {"loss": value.item(), "chosen": chosen.tolist(), "rejected": rejected.tolist()}


def dpo(loss: dict[str, Any], rows: list[Any], batch: dict[str, Any]) -> Any:
    """DPOTrainer's loss, with precomputed reference log-probabilities."""
    import torch
    from trl.trainer.dpo_trainer import DPOTrainer

    longest = max(map(len, rows))
    padded = [torch.nn.functional.pad(row, (PROMPT - 1, longest - len(row))) for row in rows]  # of the tokens after the first
    mask = torch.zeros(len(rows), PROMPT + longest, dtype=torch.long)
    for place, row in enumerate(rows):
        mask[place, PROMPT : PROMPT + len(row)] = 1
    shape = (len(rows), PROMPT + longest - 1)
    outputs = SimpleNamespace(
        log_probs=torch.stack(padded),
        entropy=torch.zeros(shape),
        mean_logits=torch.zeros(shape),
        is_top1=torch.zeros(shape, dtype=torch.bool),
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda value: value, gather=lambda value: value),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type=loss.get("f_divergence_type", "reverse_kl"),
        f_alpha_divergence_coef=loss.get("f_alpha_divergence_coef", 0.5),
        loss_types=[loss["loss_type"], *loss.get("more_types", [])],
        loss_weights=[1.0, *loss.get("more_weights", [])],
        beta=loss["beta"],
        label_smoothing=0.0,
        use_weighting=False,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": torch.tensor(batch["chosen_ref"], dtype=rows[0].dtype),
        "ref_rejected_logps": torch.tensor(batch["rejected_ref"], dtype=rows[0].dtype),
    }
    return DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, return_outputs=False)  # noqa: SLF001  # it holds the losses


def cpo(loss: dict[str, Any], rows: list[Any], batch: dict[str, Any]) -> Any:
    """CPOTrainer's loss of mean log-probabilities, as it computes them for SimPO."""
    import torch
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    means = torch.stack([row.mean() for row in rows]).chunk(2)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(device="cpu"),
        alpha=0.0,
        loss_type=loss["loss_type"],
        beta=loss["beta"],
        simpo_gamma=loss["simpo_gamma"],
        label_smoothing=0.0,
    )
    return CPOTrainer.cpo_loss(trainer, *means)[0].mean()


if __name__ == "__main__":
    main()
