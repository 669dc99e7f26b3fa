"""How long stages took: every attempt is kept, and what is no such list is refused."""

import json

import pytest

from spac_repro.errors import UserError
from spac_repro.runs import timing
from spac_repro.runs.folder import RunFolder


def test_every_attempt_is_kept_with_what_the_stage_adds(tmp_path):
    run = RunFolder(tmp_path)
    assert run.timing() == []
    for tokens in (7, 9):
        with timing.record_stage(run.timing_file, 1, "self-play", write=True) as entry:
            entry["tokens"] = tokens
    with timing.record_stage(run.timing_file, 1, "training", write=False):
        pass
    first, second = run.timing()
    assert (first.iteration, first.stage, second.model_extra) == (1, "self-play", {"tokens": 9})
    assert first.seconds >= 0
    assert (first.peak_memory_bytes or 0) > 1e6
    assert json.loads(run.timing_file.read_text())[0]["tokens"] == 7


@pytest.mark.parametrize("content", ["{}", '[{"stage": "start"}]', '[{"iteration": 0, "stage": "start", "seconds": "long"}]'])
def test_what_is_no_list_of_stages_is_refused(tmp_path, content):
    RunFolder(tmp_path).timing_file.write_text(content)
    with pytest.raises(UserError, match="not a list of stages"):
        RunFolder(tmp_path).timing()
