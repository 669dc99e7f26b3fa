"""A setting that is added later, with a neutral default: neither digest nor identity changes, and old runs are met."""

import json
from dataclasses import replace
from typing import Any, Literal

import pytest
from pydantic import create_model

from spac_repro import methods, pipeline, policy_settings, recipe, recipes
from spac_repro.documents.base_model import NonNegativeFloat, Settings
from spac_repro.errors import UserError
from spac_repro.recipe import complete
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import Manifest
from spac_repro.trust import comparison, rerun, run_scores
from spac_repro.trust.impact import Impact


class Architecture(policy_settings.ArchitectureSettings):
    bias: bool = False  # in a group within a group


class Policy(policy_settings.PolicySettings):
    architecture: Architecture | None


class Training(recipe.TrainingSettings):
    label_noise: NonNegativeFloat = 0.0  # in a group
    decayed: tuple[str, ...] = ("weight", "bias")
    limit: int | None = None


class Curriculum(Settings):
    order: Literal["shuffled", "easy first"] = "shuffled"
    stages: int = 1


class Extras(Settings):
    depth: int


class Spac(methods.SpacSettings):
    clip: NonNegativeFloat = 0.0  # in a method


class Later(recipe.Recipe):
    """The recipe of a later version."""

    policy: Policy
    training: Training
    dialect: Literal["plain", "other"] = "plain"  # beside the groups
    curriculum: Curriculum = Curriculum()  # a group of its own
    extras: Extras | None = None  # a group that may be absent


ADDED = {
    "policy.architecture.bias": (False, True),
    "training.label_noise": (0.0, 0.1),
    "training.decayed": (["weight", "bias"], ["weight"]),
    "training.limit": (None, 3),
    "dialect": ("plain", "other"),
    "curriculum.order": ("shuffled", "easy first"),
    "curriculum.stages": (1, 2),
    "methods.spac.clip": (0.0, 2.0),
}
each = pytest.mark.parametrize(("key", "neutral", "other"), [(key, *values) for key, values in ADDED.items()], ids=list(ADDED))


@pytest.fixture
def later(monkeypatch) -> None:
    """From here on it is the later version that runs."""
    monkeypatch.setitem(methods._METHODS._entries, "spac", replace(methods.get("spac"), settings=Spac))
    blocks: Any = {method.name: (method.settings | None, None) for method in methods.all_methods()}
    both = create_model("Methods", __base__=recipe._Methods, **blocks)
    model = create_model("Recipe", __base__=Later, methods=(both, ...))
    monkeypatch.setattr(recipe, "Recipe", model)
    monkeypatch.setattr(rerun, "Recipe", model)


def load(*overrides: str, method: str = "spac"):
    return recipes.load("tiny", method=method, overrides=overrides)


def set_(key: str, value: Any) -> str:
    return f"{key}={json.dumps(value)}"


def manifest(run: recipe.Run, **more: Any) -> Manifest:
    content = {
        "schema": 1,
        "recipe": run.recipe.name,
        "method": run.method,
        "seed": run.seed,
        "settings": run.settings(),
        "settings_sha256": run.settings_sha256,
        "provenance": {},
        "inputs": {"preferences_sha256": "0" * 64},
        "environment": {"cpu": "one"},
        **more,
    }
    return Manifest.model_validate(content)


def write(folder, its: Manifest):
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps(its.as_json()))
    return folder


OLD = load()  # before any test makes it later
OLD_DPO = load(method="dpo")


@pytest.fixture
def old_run(tmp_path):
    return write(tmp_path / "old", manifest(OLD))


# The digest


@pytest.mark.usefixtures("later")
def test_a_recipe_that_lacks_the_settings_is_the_run_that_it_was():
    assert load().settings() == OLD.settings()
    assert load().settings_sha256 == OLD.settings_sha256
    assert load().start_settings() == OLD.start_settings()
    assert load(method="dpo").settings_sha256 == OLD_DPO.settings_sha256


@each
@pytest.mark.usefixtures("later")
def test_a_setting_said_at_its_neutral_value_is_as_one_left_out(key, neutral, other):
    assert load(set_(key, neutral)).settings_sha256 == OLD.settings_sha256
    assert load(set_(key, other)).settings_sha256 != OLD.settings_sha256
    assert load(set_(key, other), set_(key, neutral)).settings_sha256 == OLD.settings_sha256


@pytest.mark.usefixtures("later")
def test_a_setting_at_another_value_stands_alone_in_the_identity():
    assert load("curriculum.stages=2").settings()["curriculum"] == {"stages": 2}
    assert load("methods.*.clip=2").settings()["methods"]["spac"] == {**OLD.settings()["methods"]["spac"], "clip": 2.0}


# Where it comes from


@pytest.mark.usefixtures("later")
def test_what_is_left_out_is_shown_as_a_default():
    run = load("training.label_noise=0")
    shown = {key: source.mark for key, source in run.provenance.items()}
    assert {key: shown[key] for key in ADDED} == {**dict.fromkeys(ADDED, "default"), "training.label_noise": "set"}
    assert not any(key.startswith("extras") for key in run.provenance)
    added_since = {key for key, source in OLD.provenance.items() if source.mark == "default"}
    # The built-in recipes state every other setting.
    assert added_since == {"data.chat_template_date", "data.heldout_prompts", "training.device"}


# Old runs


@pytest.mark.usefixtures("later")
def test_an_old_folder_is_claimed(old_run):
    before = (old_run / "manifest.json").read_bytes()
    RunFolder(old_run).create_or_resume(manifest(load()), allow_changed_environment=False)
    assert (old_run / "manifest.json").read_bytes() == before


@each
@pytest.mark.usefixtures("later")
def test_an_old_folder_is_not_another_runs(old_run, key, neutral, other):
    with pytest.raises(UserError) as refused:
        RunFolder(old_run).create_or_resume(manifest(load(set_(key, other))), allow_changed_environment=False)
    assert f"settings.{key} is {neutral!r} there and {other!r} here" in str(refused.value)


@pytest.mark.usefixtures("later")
def test_an_old_run_is_repeated(old_run):
    run = rerun.recorded_run(old_run)
    assert run.settings_sha256 == OLD.settings_sha256
    assert run.recipe.training.label_noise == 0.0


@pytest.mark.usefixtures("later")
def test_a_manifest_that_says_the_neutral_value_equals_one_that_does_not(old_run, tmp_path):
    stated = write(tmp_path / "stated", manifest(OLD, settings=complete(OLD.settings())))
    assert comparison.compare(old_run, stated).differences == ()
    RunFolder(stated).create_or_resume(manifest(load()), allow_changed_environment=False)


@each
@pytest.mark.usefixtures("later")
def test_a_comparison_names_the_neutral_value(old_run, tmp_path, key, neutral, other):
    new = write(tmp_path / "new", manifest(load(set_(key, other))))
    (found,) = comparison.compare(old_run, new).differences
    assert (found.key, found.a, found.b) == (f"settings.{key}", neutral, other)
    assert found.known.impact is Impact.BY_DESIGN
    (back,) = comparison.compare(new, old_run).differences
    assert (back.a, back.b) == (other, neutral)


@pytest.mark.usefixtures("later")
def test_verification_says_which_setting_is_not_the_recipes(old_run, tmp_path):
    def told(folder):
        settings = RunFolder(folder).manifest.settings
        return run_scores.RunScores(str(folder), "tiny", "spac", {}, settings=settings).changed_settings()

    assert told(old_run) == []
    new = write(tmp_path / "new", manifest(load("training.label_noise=0.1")))
    assert told(new) == ["training.label_noise 0.1 (recipe: 0.0)"]


def test_what_this_version_does_not_know_stays():
    settings = {**complete(OLD.settings()), "of_a_later_version": {"x": 1}}
    assert complete(settings) == settings
    assert complete({"method": "unheard of", "methods": 3}) == {"method": "unheard of", "methods": 3}


def test_a_demanded_device_is_no_part_of_what_a_run_is():
    """It refuses machines. So a run that was begun without the demand is met, and its digest stays."""
    demanding = load("training.device=cuda")
    assert "device" not in demanding.settings()["training"]
    assert demanding.settings_sha256 == load().settings_sha256
    assert demanding.start_settings() == load().start_settings()


@pytest.mark.parametrize(
    ("settings", "device_type", "claimed"),
    [
        (["training.processes=1"], "cuda", True),
        (["training.processes=2"], "cuda", True),
        (["training.processes=3"], "cuda", False),
        (["training.processes=3"], "cpu", True),
        (["training.processes=2", "selfplay.backend=vllm"], "cuda", False),
    ],
)
def test_equal_bits_are_claimed_only_where_sums_have_one_order(settings, device_type, claimed):
    """tests/distributed shows that three processes on CPUs give equal bits."""
    run = recipes.load("tiny", overrides=settings)
    assert pipeline.claims_equal_bits(run.recipe, device_type) is claimed


def test_files_of_a_run_of_0_2_stay_bound_to_it():
    """A setting that came later must not change what timing.json and others are bound to."""
    from spac_repro.runs.manifest import Manifest

    fields = {"schema": 2, "recipe": "tiny", "method": "spac", "seed": 0, "inputs": {}, "environment": {}}
    before = Manifest.model_validate(fields | {"settings": {"data": {}, "evaluation": {}}})
    later = Manifest.model_validate(
        fields | {"settings": {"data": {"heldout_prompts": None}, "evaluation": {"protocol": "current"}}}
    )
    assert "heldout_prompts" in before.identity()["settings"]["data"]
    assert before.identity_sha256() == later.identity_sha256()
    assert before.identity_sha256() == "cdd77a8cff45fec0e3212b643e42668cd758be02a4e30f5c4ec242bd14fc66a2"


def test_the_weights_that_spac_got_later_do_not_unbind_its_files():
    """Only where they stand at their neutral values."""
    of_0_2 = load("methods.spac.learning_rate=1e-4")
    recorded = of_0_2.settings()
    neutral = {"critic_weight": 1.0, "chosen_penalty_weight": 0.0}
    assert not neutral.keys() & recorded["methods"]["spac"].keys()

    def sha256(**more: float) -> str:
        settings = {**recorded, "methods": {"spac": {**recorded["methods"]["spac"], **more}}}
        return manifest(of_0_2, settings=settings).identity_sha256()

    assert sha256() == sha256(**neutral) == "c5e09743cc67e1afc9cf55c7e3102415b303adbd67d17a92b90d4e230e7a473b"
    assert len({sha256(), sha256(critic_weight=0.5), sha256(chosen_penalty_weight=0.5)}) == 3
