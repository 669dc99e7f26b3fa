"""Sweeps as files: runs in their order, what identifies them, and one line for what is wrong."""

import re

import pytest
import yaml
from pydantic import TypeAdapter

from spac_repro import recipes
from spac_repro.errors import UserError
from spac_repro.launchers import matrix
from spac_repro.launchers.matrix import Sweep, SweepRun
from spac_repro.launchers.profile import Cluster
from spac_repro.trust.expected import START, expected_path, load_expected

SWEEP = {"name": "mine", "summary": "a sweep", "recipe": "tiny", "seeds": [1, 2], "methods": ["spac", "dpo"]}


def sweep(**more):
    return Sweep.model_validate({**SWEEP, **more})


@pytest.mark.parametrize("name", ["seeds", "ablation_lambda", "ablation_eta", "ablation_critic", "ablation_iterations"])
def test_packaged_sweeps_have_runs(name):
    runs = matrix.runs(Sweep.load(name))
    assert len(runs) == len({run.name for run in runs}) >= 20
    assert len({run.seed for run in runs}) == 5


def test_the_seeds_sweep_is_five_seeds_of_the_methods_with_expected_results():
    runs = matrix.runs(Sweep.load("seeds"))
    expected = {row.method for row in load_expected(expected_path("tiny")).rows} - {START}
    assert {(run.method, run.seed) for run in runs} == {(method, seed) for method in expected for seed in range(1, 6)}
    assert 0 not in {run.seed for run in runs}, "seed 0 is the one that everybody runs first"


def test_runs_are_named_by_what_varies():
    runs = matrix.runs(
        sweep(methods=["spac"], vary={"methods.*.preference_weight": [0.0, 3.0], "training.epochs_per_iteration": [1, 2]})
    )
    assert [run.name for run in runs][:3] == [
        "preference_weight=0.0/epochs_per_iteration=1/spac/seed-1",
        "preference_weight=0.0/epochs_per_iteration=1/spac/seed-2",
        "preference_weight=0.0/epochs_per_iteration=2/spac/seed-1",
    ]
    assert len(runs) == 8


def test_the_arguments_of_a_run_describe_it():
    for run in matrix.runs(
        sweep(settings={"training.epochs_per_iteration": 1, "training.max_grad_norm": 1e-7}), ["data.max_pairs=100"]
    ):
        sets = [run.arguments()[i + 1] for i, word in enumerate(run.arguments()) if word == "--set"]
        resolved = recipes.load(run.recipe, method=run.method, seed=run.seed, overrides=sets)
        assert resolved.settings_sha256 == run.settings_sha256
        assert resolved.recipe.data.max_pairs == 100
        assert resolved.recipe.training.max_grad_norm == 1e-7


def test_jobs_run_elsewhere_so_paths_are_absolute_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").mkdir()
    given = {"pairs": f"{tmp_path}/pairs", "pairs:test": f"{tmp_path}/pairs:test", "owner/name:test": "owner/name:test"}
    for source, expected in given.items():
        first = matrix.runs(sweep(recipe="smollm2-135m", preferences=source))[0]
        assert first.preferences == expected
        assert ("data.source=file" in first.settings) == (source != "owner/name:test")


def test_runs_share_a_start_where_seed_and_settings_of_the_start_agree():
    runs = matrix.runs(sweep(vary={"training.iterations": [1, 2]}))
    starts = {}
    for run in runs:
        starts.setdefault(run.start_sha256, set()).add(run.seed)
    assert sorted(map(sorted, starts.values())) == [[1], [2]]
    other = matrix.runs(sweep(vary={"supervised_start.epochs": [1, 2]}))
    assert len({run.start_sha256 for run in other}) == 4


def test_a_run_comes_back_from_json():
    for run in matrix.runs(sweep(vary={"methods.*.beta": [0.1, 1.0]})):
        assert TypeAdapter(SweepRun).validate_python(run.as_json()) == run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "seeds: List should have at least 1 item"),
        ({"seeds": [1, 1]}, "seeds contains a value twice"),
        ({"seeds": [-1]}, "greater than or equal to 0"),
        ({"sedes": [1]}, "sedes: unknown key (did you mean seeds?)"),
        ({"name": "a/b"}, "name: String should match pattern"),
        (
            {"settings": {"training.epochs_per_iteration": 1}, "vary": {"training.epochs_per_iteration": [1]}},
            "in `settings` and in `vary`",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, change, message):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, **change}))
    with pytest.raises(UserError) as refused:
        Sweep.load(str(file))
    assert message in str(refused.value)
    assert re.match(rf"{re.escape(str(file))}(, line \d+)?: ", str(refused.value))
    assert ", line " in str(refused.value) or " contains a value twice" in message or "in `settings`" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "tinyy"}, "unknown recipe 'tinyy' (did you mean tiny?)"),
        ({"methods": ["spca"]}, "unknown method 'spca' (did you mean spac?)"),
        (
            {"vary": {"methods.*.preference_weight": [1.0]}},
            "sweep mine, method dpo: --set methods.*.preference_weight=1.0: unknown key",
        ),
        ({"settings": {"training.epochs_per_iteration": 0}}, "greater than 0"),
        ({"vary": {"methods.dpo.beta": [1.0, 2.0], "methods.spac.beta": [1.0, 2.0]}, "methods": ["spac"]}, None),
    ],
)
def test_a_wrong_run_is_refused_before_anything_is_submitted(change, message):
    if message is None:
        assert len(matrix.runs(sweep(**change))) == 8
        return
    with pytest.raises(UserError) as refused:
        matrix.runs(sweep(**change))
    assert message in str(refused.value)


def test_an_unknown_sweep_is_named_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown sweep 'seed' \(did you mean seeds\?\)"):
        Sweep.load("seed")
    with pytest.raises(UserError, match=r"unknown cluster 'lokal' \(did you mean local\?\)"):
        Cluster.load("lokal")
