"""From a rehearsal to the whole run: exact where the truth is linear, wider where rounds differ, and against limits."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.launchers.profile import Cluster
from spac_repro.rehearsal import document, extrapolation, verdict
from spac_repro.rehearsal.document import Rehearsal

LAYERS, ROWS, MICRO = 30, 1000, 2
RUN = recipes.load("tiny")


def truth(tokens: float, layers: int, slow: float = 1.0) -> float:
    """Seconds of a stage."""
    return slow * (0.3 + 2e-4 * tokens + layers * (0.05 + 1e-4 * tokens))


def made(*, rounds: int = 1, noise: float = 0.0, slow: dict[str, float] | None = None, **machine: Any) -> Rehearsal:
    """A rehearsal of 2 and 4 layers whose stages follow `truth`."""
    draw = random.Random(0)

    def stage(name: str, layers: int, size: float) -> dict[str, Any]:
        tokens = 0 if name == "load" else int(ROWS * size)
        return {
            "seconds": truth(tokens, layers, (slow or {}).get(name, 1.0)) * (1 + noise * draw.uniform(-1, 1)),
            "tokens": tokens,
            "most_tokens": tokens // 2,
            "host": 10**8 + 10**4 * tokens + layers * (10**7 + 10**3 * tokens),
            "device": None,
        }

    visits = [
        {"round": n, "layers": d, "size": s, "stages": {name: stage(name, d, s) for name in ("load", "step", "self-play")}}
        for n in range(rounds)
        for d in (2, 4)
        for s in (0.5, 1.0)
    ]
    plain = {"name": "a machine", "processes_here": 1, "host": 10**12, "device": None, "disk": 10**12, "flops": 1e11}
    return Rehearsal.model_validate(
        {
            **{"schema": 1, "recipe": "tiny", "method": "spac", "settings_sha256": RUN.settings_sha256, "pairs": 2000},
            **{
                "processes": 1,
                "rehearsed_processes": 1,
                "asks_for_gpus": False,
                "environment": {},
                "rows": "",
                "shape": "",
                "tokens": None,
            },
            **{"layers": LAYERS, "depths": (2, 4), "parameters": {2: 10, 4: 20, 30: 150}, "untouched": 0, "passes": 3},
            "machine": {**plain, **machine},
            "work": {
                "load": {"count": 7},
                "step": {"count": 100, "times": 3.0, "most_tokens": float(MICRO)},
                "self-play": {"count": 10, "times": 2.0, "most": 1.0},
            },
            **{"visits": visits, "notes": (), "proved": ()},
        }
    )


def test_what_is_linear_is_extrapolated_exactly():
    found = {stage.name: stage for stage in extrapolation.stages(made())}
    assert found["step"].seconds.middle == pytest.approx(truth(3 * ROWS, LAYERS))
    assert found["self-play"].seconds.middle == pytest.approx(truth(2 * ROWS, LAYERS))
    assert found["load"].seconds.middle == pytest.approx(truth(0, LAYERS))
    assert found["step"].host.middle == pytest.approx(10**8 + 10**4 * MICRO * ROWS + LAYERS * (10**7 + 10**3 * MICRO * ROWS))
    assert found["step"].tokens_per_second == pytest.approx(ROWS / truth(ROWS, 4))
    assert found["step"].share_of_matmul == pytest.approx(6 * 20 * ROWS / truth(ROWS, 4) / 1e11)
    whole = 100 * truth(3 * ROWS, LAYERS) + 10 * truth(2 * ROWS, LAYERS) + 7 * truth(0, LAYERS)
    assert extrapolation.total_seconds(made()).middle == pytest.approx(whole)


def in_parts(disturbance: dict[int, float]) -> Rehearsal:
    """Steps with a rest of 0.5 s, layers of 0.2 s, and an update that takes 0.01 s a layer and 0.03 s for the embeddings."""

    def parts(layers: int) -> dict[str, Any]:
        of_layers, of_update = 0.2 * layers, 0.03 + 0.01 * layers
        seconds = 0.5 + disturbance.get(layers, 0.0) + of_layers + of_update
        return {"seconds": seconds, "layer_seconds": of_layers, "update_seconds": of_update, "tokens": 0}

    visits = [
        visit.model_copy(update={"stages": {"step": visit.stages["step"].model_copy(update=parts(visit.layers))}})
        for visit in made().visits
    ]
    return made().model_copy(update={"visits": tuple(visits)})


@pytest.mark.parametrize(("disturbance", "error"), [({}, 0.0), ({2: 0.1}, 0.05), ({4: 0.1}, 0.05)])
def test_what_is_in_no_layer_is_not_multiplied_with_its_noise(disturbance, error):
    """A disturbance of 0.1 s at one depth would be multiplied by (30 − 4) / (4 − 2) = 13; the mean of the depths has half of it."""
    (stage,) = extrapolation.stages(in_parts(disturbance))
    assert stage.seconds.middle == pytest.approx(0.5 + 30 * 0.2 + 0.03 + 30 * 0.01 + error)


@pytest.mark.parametrize(("deeper", "expected"), [(0.5, 0.5), (1.0, 1.0), (1.2, 1.2 + 13 * 0.2), (3.0, 3.0 * 30 / 4)])
def test_noise_makes_more_layers_neither_free_nor_dearer_than_in_proportion(deeper, expected):
    """Of 2 layers at 1 s and 4 layers at so many, 30 are foretold; the same for memory."""
    visits = [
        visit.model_copy(
            update={"stages": {"load": visit.stages["load"].model_copy(update={"seconds": found, "host": round(1e9 * found)})}}
        )
        for visit in made().visits
        for found in (1.0 if visit.layers == 2 else deeper,)
    ]
    (stage,) = extrapolation.stages(made().model_copy(update={"visits": tuple(visits)}))
    assert stage.seconds.middle == pytest.approx(expected)
    assert stage.host.middle == pytest.approx(1e9 * expected)


@pytest.mark.parametrize("name", ["load", "step", "self-play"])
def test_a_stage_that_is_twice_as_slow_shows_in_that_stage_alone(name):
    before, after = ({s.name: s.seconds.middle for s in extrapolation.stages(made(slow=slow))} for slow in ({}, {name: 2.0}))
    assert {stage: after[stage] / before[stage] for stage in before} == {
        stage: pytest.approx(2.0 if stage == name else 1.0) for stage in before
    }


def test_the_interval_is_that_of_the_rounds():
    exact, noisy = extrapolation.total_seconds(made(rounds=5)), extrapolation.total_seconds(made(rounds=5, noise=0.02))
    assert exact.half_width == pytest.approx(0)
    assert noisy.low < exact.middle < noisy.high
    # Five medians of fair coins: both ends are on one side with probability 2 × 2^-5.
    assert extrapolation.coverage(5) == pytest.approx(1 - 2 / 2**5)
    assert extrapolation.coverage(1) == 0


@pytest.mark.parametrize(
    ("machine", "asks", "limits", "reason"),
    [
        ({}, False, {}, ""),
        ({"host": 10**8}, False, {}, "step takes 480 MB of memory, and there are 100 MB"),
        ({"disk": 10}, False, {}, "are free on the disk"),
        ({}, True, {}, "asks for 1 GPUs and this machine has none"),
        ({"device": 10**12}, True, {}, ""),
        ({}, False, {"minutes": 3, "requeue": {"signal_seconds": 170}}, "an optimizer step with its checkpoint takes 11.4 s"),
    ],
)
def test_the_verdict_names_what_does_not_fit(machine, asks, limits, reason, tmp_path):
    rehearsal = made(**machine).model_copy(update={"asks_for_gpus": asks})
    if machine.get("device"):
        visits = [
            visit.model_copy(update={"stages": {k: v.model_copy(update={"device": v.host}) for k, v in visit.stages.items()}})
            for visit in rehearsal.visits
        ]
        rehearsal = rehearsal.model_copy(update={"visits": tuple(visits)})
    profile = tmp_path / "lab.yaml"
    profile.write_text(yaml.safe_dump({"summary": "a test's", "scheduler": "slurm", "minutes": 600, **limits}))
    found = verdict.judge(rehearsal, RUN, Cluster.load(str(profile)))
    assert found.line == "fits" if not reason else reason in found.line
    assert found.as_json()["fits"] is (not reason)


def test_the_document_is_read_strictly(tmp_path: Path):
    file = tmp_path / "rehearsal.json"
    document.write(file, made(rounds=2))
    assert document.read(file) == made(rounds=2)
    file.write_text(file.read_text().replace('"round": 1', '"round": "x"', 1))
    with pytest.raises(UserError, match=r"rehearsal\.json: visits\.\d+\.round: .*rehearse again"):
        document.read(file)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("visits", []), ("visits.-1", None), ("visits.0.size", 0.7), ("visits.0.stages", {}), ("visits.0.stages.step", None)),
        *(("visits.0.round", 1), ("visits.3.layers", 2), ("visits.0.stages.step.seconds", float("nan"))),
        *(("depths", []), ("depths", [4, 2]), ("depths", [2, 31]), ("depths", [2, 4, 8]), ("depths", [2]), ("depths", [2, 6])),
        *(("parameters", {}), ("parameters.4", None), ("parameters.30", None), ("parameters.4", 0), ("untouched", 10)),
        *(
            ("machine.flops", 0),
            ("machine.flops", float("inf")),
            ("machine.disk", -1),
            ("layers", 3),
            ("layers", 40),
            ("passes", 0),
        ),
        *(("work.step.times", float("nan")), ("machine.host", 10**299), ("visits.0.round", 10**9)),
    ],
)
def test_a_document_that_cannot_be_extrapolated_is_refused(key, value, tmp_path: Path):
    file = tmp_path / "rehearsal.json"
    document.write(file, made(rounds=2))
    content = json.loads(file.read_text())
    *path, last = (int(part) if part.lstrip("-").isdigit() and key.startswith("visits") else part for part in key.split("."))
    node = content
    for part in path:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"rehearsal\.json: .*; rehearse again") as error:
        document.read(file)
    assert len(str(error.value)) <= 300 + len(str(file))
