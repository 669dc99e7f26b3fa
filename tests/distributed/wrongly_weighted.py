"""`spac-repro` with a mistake: every process takes the mean over its own examples, and those means are averaged."""

from types import SimpleNamespace

from spac_repro import cli
from spac_repro.optim import distributed, loop

right = loop.accumulate_gradient


def gradient(engine, objective, schedule, step):  # type: ignore[no-untyped-def]
    batch = schedule.batch(step)
    own = sum(map(len, schedule.micro_batches(step, distributed.rank(), distributed.world_size())))
    weight = len(batch) / (distributed.world_size() * own)  # 1 in the start, which is not divided
    wrong = SimpleNamespace(
        autocast=engine.autocast,
        backward=lambda loss, *, last_micro_batch: engine.backward(loss * weight, last_micro_batch=last_micro_batch),
    )
    return right(wrong, objective, schedule, step)


loop.accumulate_gradient = gradient

if __name__ == "__main__":
    cli.main()
