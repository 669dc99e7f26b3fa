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
