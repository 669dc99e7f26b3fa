"""The audit as a stage of a run: written once before training, read back afterwards, and loud each time."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from spac_repro.data import audit as measurement
from spac_repro.data import dataset
from spac_repro.data.dataset import PreferenceDataset
from spac_repro.errors import UserError
from spac_repro.evaluation import audit
from spac_repro.runs import file_hashes
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA, Manifest

EOS = 9
ROWS = 64
DISTANCES = {"total_variation": 0, "total_variation_by_chance": 0}


def context_of(path, method: str = "spac", *, artefact: bool = False) -> Any:
    """A run with the training data of iteration 1. With the artefact, the data begin with 7 where the policy begins with 3."""
    folder = RunFolder(path / "run")
    folder.path.mkdir()
    new = Manifest(
        schema=SCHEMA, recipe="tiny", method=method, seed=0, settings={}, settings_sha256="s",
        inputs={}, environment={}, written_files={},
    )  # fmt: skip
    folder.create_or_resume(new, allow_changed_environment=False)
    first = 7 if artefact else 3
    said: list[str] = []

    def re_encode(row, response):
        return [first, *response[1:]]

    @contextmanager
    def timed(t, stage):
        said.append(f"{t} {stage}")
        yield {}

    rows = [[first, EOS]] * ROWS
    data = PreferenceDataset([[i] for i in range(ROWS)], {"chosen": rows, "rejected": rows, "selfplay": [[3, EOS]] * ROWS}, {})
    file = folder.iteration(1).dataset_file
    dataset.write(file, data, {}, before_rename=file_hashes.before_rename(folder, file))
    tokenizer = SimpleNamespace(
        decode=lambda tokens, **options: str(tokens),
        convert_ids_to_tokens=str,
        all_special_ids=[EOS],
        unk_token="0",
        convert_tokens_to_ids=int,
    )
    return SimpleNamespace(
        inputs=SimpleNamespace(preferences=[None] * ROWS),
        folder=folder,
        run=SimpleNamespace(method=method),
        renderer=SimpleNamespace(tokenizer=tokenizer, re_encode=re_encode, stop_token_ids=(EOS,)),
        progress=SimpleNamespace(message=said.append),
        timed=timed,
        said=said,
    )


@pytest.mark.parametrize("artefact", [False, True])
def test_it_is_written_once_and_read_back(tmp_path, monkeypatch, artefact):
    context = context_of(tmp_path, artefact=artefact)
    audit.measure(context, 1)
    first = context.folder.iteration(1).audit()
    assert set(first.comparisons) == {"chosen", "rejected"}
    warnings = [line for line in context.said if line.startswith("WARNING: iteration 1: rendering alone tells self-play from")]
    assert (context.said[0], len(warnings)) == ("1 audit", 2 if artefact else 0)
    assert all(len(line) <= 300 for line in warnings)
    file_hashes.check(RunFolder(context.folder.path))

    monkeypatch.setattr(measurement, "measure", None)  # a resumed run does not measure again
    context.said.clear()
    audit.measure(context, 1)
    assert context.said == warnings, "and it warns again"


def test_one_that_was_removed_is_measured_again_with_equal_bytes(tmp_path):
    context = context_of(tmp_path)
    audit.measure(context, 1)
    file = context.folder.iteration(1).audit_file
    content = file.read_bytes()
    file.unlink()
    audit.measure(context, 1)
    assert file.read_bytes() == content


def test_without_training_data_there_is_nothing_to_measure(tmp_path):
    context = context_of(tmp_path)
    context.folder.iteration(1).dataset_file.unlink()
    audit.measure(context, 1)
    assert (context.folder.iteration(1).audit(), context.said) == (None, [])


@pytest.mark.parametrize(("method", "compared"), [("spin", {"chosen"}), ("dpo", set())])
def test_a_method_is_audited_on_what_it_uses(tmp_path, method, compared):
    context = context_of(tmp_path, method, artefact=True)
    audit.measure(context, 1)
    found = context.folder.iteration(1).audit()
    assert set(found.comparisons) == compared
    assert set(found.sides) == ({"chosen", "selfplay"} if compared else {"chosen", "rejected"})


@pytest.mark.parametrize(
    "change",
    [
        ("rows", "many"),
        ("sides", None),
        ("schema", 2),
        ("sides", {"chosen": {"cut": 0, "mean_length": 1, "length_quantiles": [1], "first_tokens": []}}),
        ("comparisons", {"chosen": {key: {**DISTANCES, "p": 0.5} for key in ("first_token", "end", "length")}}),
    ],
)
def test_one_that_was_damaged_is_named(tmp_path, change):
    from spac_repro.runs import files

    context = context_of(tmp_path)
    audit.measure(context, 1)
    file = context.folder.iteration(1).audit_file
    files.write_json(file, files.read_json(file) | dict([change]))
    with pytest.raises(UserError, match=str(file)) as error:
        audit.measure(context, 1)
    assert "\n" not in str(error.value)
