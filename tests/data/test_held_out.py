"""Held-out preferences: a fixed part, by prompt, whatever the order of the rows."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spac_repro import recipes
from spac_repro.data import held_out, sources
from spac_repro.data.preferences import Preference
from spac_repro.errors import UserError

RECIPE = "smollm2-135m"


def preference(prompt: str, number: int = 0) -> Preference:
    return Preference(({"role": "user", "content": prompt},), f"good {number}", "bad")


def prompts(rows: Sequence[Preference]) -> set[str]:
    return {row.prompt[0]["content"] for row in rows}


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1), st.integers(0, 8), st.randoms())
def test_a_prompt_is_on_one_side_and_the_order_of_the_rows_does_not_matter(
    content: list[tuple[int, int]], wanted: int, order: random.Random
) -> None:
    rows = [preference(f"question {prompt}", number) for prompt, number in content]
    if len(prompts(rows)) <= wanted:
        with pytest.raises(UserError, match="heldout_prompts"):
            held_out.split(rows, wanted, source="pairs")
        return
    train, heldout = held_out.split(rows, wanted, source="pairs")
    assert len(prompts(heldout)) == wanted
    assert not prompts(train) & prompts(heldout)
    assert [row for row in rows if row.prompt[0]["content"] in prompts(train)] == [*train]
    assert [row for row in rows if row.prompt[0]["content"] in prompts(heldout)] == [*heldout]
    shuffled = order.sample(rows, len(rows))
    assert prompts(held_out.split(shuffled, wanted, source="pairs")[1]) == prompts(heldout)
    assert [*train.first(2)] == [*train][:2] == train[:2]


def test_the_choice_is_fixed_and_ignores_white_space() -> None:
    """Another choice would be another evaluation under the same name."""
    rows = [preference(f"question {number}") for number in range(10)]
    assert prompts(held_out.split(rows, 3, source="")[1]) == {"question 2", "question 8", "question 9"}
    spaced = [*rows, preference("question \n 8", 1)]
    assert len(held_out.split(spaced, 3, source="")[1]) == 4


def write(path: Path, rows: Sequence[Preference]) -> Path:
    lines = [json.dumps({"prompt": row.prompt[0]["content"], "chosen": row.chosen, "rejected": row.rejected}) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_run_trains_on_the_rest_and_its_inputs_name_both(tmp_path: Path) -> None:
    rows = [preference(f"question {number % 20}", number) for number in range(60)]
    file = write(tmp_path / "pairs.jsonl", rows)
    read = {}
    for prompts_out, pairs in ((None, None), (5, None), (5, 7)):
        settings = [f"data.heldout_prompts={json.dumps(prompts_out)}", f"data.max_pairs={json.dumps(pairs)}"]
        read[prompts_out, pairs] = sources.read(recipes.load(RECIPE, overrides=settings), preferences=str(file), questions=None)
    whole, part, fewer = read.values()
    assert len(whole.preferences) == 60
    assert "heldout" not in whole.identity()
    assert [*part.heldout] == [*fewer.heldout]  # max_pairs does not change what is held out
    assert len(part.heldout) == 15
    assert [*fewer.preferences] == [*part.preferences][:7]
    assert not prompts(part.preferences) & prompts(part.heldout)
    assert part.identity()["heldout"] == fewer.identity()["heldout"]
    assert part.identity()["heldout"]["prompts"] == 5
    assert part.messages() == ["15 preference pairs of 5 prompts are held out from training"]


def test_the_world_has_its_own() -> None:
    with pytest.raises(UserError, match="heldout_pairs"):
        recipes.load("tiny", overrides=["data.heldout_prompts=3"])
