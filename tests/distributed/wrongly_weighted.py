"""`spac-repro` with a mistake: every process takes the mean over its own examples, and those means are averaged."""

from types import SimpleNamespace

from spac_repro import cli
from spac_repro.optim import loop, processes

right = loop._gradient


def gradient(engine, objective, schedule, step):  # type: ignore[no-untyped-def]
    batch = schedule.batch(step)
    weight = len(batch) / (processes.world() * len(processes.mine(batch)))  # 1 in the start, which is not divided
    wrong = SimpleNamespace(autocast=engine.autocast, backward=lambda loss, *, last: engine.backward(loss * weight, last=last))
    return right(wrong, objective, schedule, step)


loop._gradient = gradient

if __name__ == "__main__":
    cli.main()
