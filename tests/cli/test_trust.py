"""`verify` and `compare`."""

import pytest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name at least one run folder"),
        (["run", "--scores", "results.json"], "name run folders or use --scores, not both"),
        (["--scores", "results.json", "--deep"], "--deep checks the files of a run, and --scores is a file alone"),
        (["--scores", "results.json", "--recipe", "tiny"], "--scores needs --recipe, --method and --iteration"),
    ],
)
def test_what_cannot_be_verified(refused, arguments, words):
    assert words in refused("verify", *arguments)


def test_what_is_no_run_cannot_be_compared(refused, tmp_path):
    assert refused("compare", "a", "b") == "a: no such run folder"
    (tmp_path / "a").mkdir()
    assert "a has no manifest.json" in refused("compare", "a", "b")
    assert "a has no manifest.json" in refused("compare", "a", "expected.yaml")
