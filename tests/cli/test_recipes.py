"""`recipes …`."""

import json
import re
from pathlib import Path

from spac_repro import recipes


def test_recipes_are_listed_shown_and_checked(invoke, own_recipe):
    assert set(json.loads(invoke("recipes", "list", "--json").out)) == set(recipes.names())
    assert all(name in invoke("recipes", "list").out for name in recipes.names())
    shown = json.loads(invoke("recipes", "show", "tiny", "--set", "training.epochs_per_iteration=9", "--json").out)
    assert shown["settings"]["training"]["epochs_per_iteration"] == 9
    assert shown["provenance"]["training.epochs_per_iteration"] == {"mark": "set", "why": "--set training.epochs_per_iteration=9"}
    table = invoke("recipes", "show", "tiny").out
    assert "methods.spac.beta" in table
    assert "[reading]" in table
    assert invoke("recipes", "check", own_recipe()).out.endswith("recipe mine is valid\n")


def test_a_bad_recipe_is_refused_by_every_command(refused, own_recipe):
    file = own_recipe(training__epochs_per_iteration=0)
    for command in (["recipes", "check", file], ["recipes", "show", file], ["train", "--recipe", file]):
        found = re.fullmatch(
            r"(.*), line (\d+): training.epochs_per_iteration: Input should be greater than 0 \(given 0\)", refused(*command)
        )
        assert found
        assert found[1] == str(file)
        assert Path(file).read_text().splitlines()[int(found[2]) - 1] == "  epochs_per_iteration:"


def test_a_recipe_of_ones_own_starts_from_one_that_ships(invoke, refused, tmp_path):
    printed = invoke("recipes", "show", "smollm2-135m", "--set", "evaluation.suite=none", "--yaml").out
    (tmp_path / "mine.yaml").write_text(printed)
    assert invoke("recipes", "check", "mine.yaml").out == "mine.yaml: recipe smollm2-135m is valid\n"
    assert json.loads(invoke("recipes", "show", "mine.yaml", "--json").out)["settings"]["evaluation"]["suite"] == "none"
    assert "omit one" in refused("recipes", "show", "tiny", "--yaml", "--json")
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "capitals.yaml").write_text("name: capitals\n")
    assert 'suite: {value: "suite"' in invoke("recipes", "show", "tiny", "--set", "evaluation.suite=suite", "--yaml").out


def test_a_whole_group_can_be_left_out_and_not_replaced(invoke, refused):
    words = ("recipes", "show", "tiny", "--json", "--set", "policy.source=package", "--set", "policy.revision=1")
    done = json.loads(invoke(*words, "--set", "policy.architecture=null").out)
    assert done["settings"]["policy"]["architecture"] is None
    assert not [key for key in done["provenance"] if key.startswith("policy.architecture.")]
    assert "unknown key 'policy.architecture'" in refused(*words, "--set", "policy.architecture=3")
    assert "training" in refused("recipes", "show", "tiny", "--set", "training=null")
