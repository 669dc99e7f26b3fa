"""How long stages took: every attempt is kept, and what is no such list, was changed or is another run's is refused."""

import json

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import files, timing

RUN = {"run": "1"}


def measured(path, computed_from):
    """Two attempts at a stage, written by the main process; another process writes nothing."""
    for tokens in (7, 9):
        with timing.record_stage(path, 1, "self-play", computed_from=computed_from, write=True) as entry:
            entry["tokens"] = tokens
    with timing.record_stage(path, 1, "training", computed_from=computed_from, write=False):
        pass


@pytest.mark.parametrize("computed_from", [RUN, None])
def test_every_attempt_is_kept_with_what_the_stage_adds(tmp_path, computed_from):
    path = tmp_path / "timing.json"
    assert timing.read(path, computed_from) == []
    measured(path, computed_from)
    first, second = timing.read(path, computed_from)
    assert (first.iteration, first.stage, second.model_extra) == (1, "self-play", {"tokens": 9})
    assert first.seconds >= 0
    assert (first.peak_memory_bytes or 0) > 1e6


def test_runs_of_0_1_have_a_plain_list(tmp_path):
    path = tmp_path / "timing.json"
    measured(path, None)
    assert json.loads(path.read_text())[0]["tokens"] == 7
    with pytest.raises(UserError, match="not a file of this version"):
        timing.read(path, RUN)


@pytest.mark.parametrize("content", ["{}", '[{"stage": "start"}]', '[{"iteration": 0, "stage": "start", "seconds": "long"}]'])
def test_what_is_no_list_of_stages_is_refused(tmp_path, content):
    path = tmp_path / "timing.json"
    path.write_text(content)
    with pytest.raises(UserError, match="not a list of stages"):
        timing.read(path, None)
    files.write_sealed_json(path, json.loads(content), computed_from=RUN)
    with pytest.raises(UserError, match="not a list of stages"):
        timing.read(path, RUN)


def test_another_time_is_refused(tmp_path):
    path = tmp_path / "timing.json"
    measured(path, RUN)
    path.write_text(path.read_text().replace('"tokens": 9', '"tokens": 8'))
    with pytest.raises(UserError, match="its hash is not the one written in it; remove it"):
        timing.read(path, RUN)


def test_the_times_of_another_run_are_refused(tmp_path):
    path = tmp_path / "timing.json"
    measured(path, {"run": "2"})
    with pytest.raises(UserError, match="computed by another run"):
        timing.read(path, RUN)
