"""`rehearse`: what it prints and leaves, what a dry run says of it, and what is refused in one line."""

import json

import pytest

SMALL = (
    *("supervised_start.num_demonstrations=64", "data.max_pairs=32", "selfplay.prompts_per_seed=8"),
    *("training.global_batch_size=4", "evaluation.suite=none", "evaluation.gold_prompts=0", "evaluation.heldout_pairs=0"),
)
SETS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.mark.check
def test_a_rehearsal_leaves_a_document_that_a_dry_run_names(invoke, refused, tmp_path):
    done = invoke("rehearse", *SETS, "--minutes", "0.1", "--layers", "2", "--json")
    assert done.code == 0, done.err
    said = done.err.splitlines()
    assert said[0].startswith("tiny · spac: 1 and 2 of 3 layers, each with 4 and 8 preference pairs; prompts of at most 16 tokens")
    assert said[1].startswith("not counted, 1 layers")
    assert [line.partition(",")[0] for line in said[-4:]] == ["round 1"] * 4
    said = json.loads(done.out)
    assert said["fits"]
    assert said["rehearsal"]["depths"] == [1, 2]
    assert [path.name for path in (tmp_path / "runs/tiny/spac").iterdir()] == ["rehearsal.json"]
    assert "rehearsal.json: " in json.loads(invoke("train", *SETS, "--dry-run", "--json").out)["rests_on"]
    other = json.loads(invoke("train", *SETS, "--set", "training.max_grad_norm=5", "--dry-run", "--json").out)["rests_on"]
    assert other == "arithmetic alone; runs/tiny/spac/rehearsal.json rehearsed other settings"


LARGE = [
    word
    for name, value in (("hidden_size", 65536), ("intermediate_size", 262144))
    for word in ("--set", f"policy.architecture.{name}={value}")
]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--recipe", "tinny"], 2, "did you mean tiny?"),
        (["--cluster", "loca"], 2, "did you mean local?"),
        (["--tokens", "20"], 2, "holds no two examples"),
        (["--recipe", "smollm2-135m", "--set", "data.max_pairs=null"], 2, "has no preferences"),
        (LARGE, 3, "GB"),
        (["--layers", "1"], 2, "greater than or equal to 2"),
        ([*SETS, "--questions", "nope"], 2, "nope is not a folder; give the folder"),
        ([*SETS, "--questions", __file__], 2, "is not a folder; give the folder"),
    ],
)
def test_what_cannot_be_rehearsed(refused, arguments, code, words):
    assert words in refused("rehearse", *arguments, code=code)
