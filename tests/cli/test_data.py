"""`data`: what is understood of preferences, as text and as tokens; what is refused as `train` refuses it; nothing is written."""

import json

import pytest

from spac_repro.cli import data as command

PAIR = {"prompt": "copy:ab", "chosen": "ab", "rejected": "b", "score": 1}
EQUAL = {**PAIR, "chosen": "b"}


@pytest.fixture
def shown(invoke, tree, tmp_path):
    """Runs `data`, which succeeds and writes nothing."""

    def shown(*arguments):
        before = tree(tmp_path)
        done = invoke("data", *arguments)
        assert done.code == 0, done.err
        assert tree(tmp_path) == before
        return done.out

    return shown


def test_columns_rows_and_lengths_are_shown(shown, pairs):
    file = pairs(PAIR, EQUAL, {**PAIR, "system": "Be brief.", "context": "c"}, EQUAL)
    out = shown(file.name)  # a long path would be broken over lines
    assert "prompt, chosen, rejected, system" in out.replace("system, prompt, chosen, rejected", "prompt, chosen, rejected, system")
    assert "score, context" in out
    assert "2: chosen and rejected are equal (first:" in out
    assert f"{file.name}, line 2" in out
    assert "[system] Be brief. [user] copy:ab" in out
    assert "the column context is not read" in out
    assert out.count("rows dropped") == 1


def test_the_whole_is_one_json_object(shown, pairs):
    file = pairs(PAIR, EQUAL, PAIR)
    seen = json.loads(shown(file, "--json"))
    assert seen["columns"] == {"read": ["prompt", "chosen", "rejected"], "ignored": ["score"]}
    assert seen["rows_kept"] == 2
    dropped = {"number": 1, "first_row": 2, "first_place": f"{file}, line 2"}
    assert seen["rows_dropped"] == {"chosen and rejected are equal": dropped}
    assert seen["characters"]["prompt"] == {"median": 7, "percentile_90": 7, "longest": 7}
    assert seen["tokens"] is None
    assert seen["examples"][0] == {"prompt": [{"role": "user", "content": "copy:ab"}], "chosen": "ab", "rejected": "b"}
    assert json.loads(shown(file, "--json", "--max-pairs", 1))["rows_kept"] == 1


def test_with_a_recipe_rows_are_shown_as_its_tokens(shown, pairs, own_recipe):
    seen = json.loads(shown(pairs(PAIR), "--recipe", own_recipe(), "--json"))
    tokens = {"prompt": ["<s>", "copy", ":", "a", "b"], "chosen": ["a", "b"], "rejected": ["b"]}
    assert seen["examples"][0]["tokens"] == {**tokens, "chosen_end": ["</s>"], "rejected_end": ["</s>"]}
    assert seen["tokens"]["chosen"]["longest"] == 3
    cut = json.loads(shown(pairs(PAIR), "--recipe", own_recipe(), "--set", "data.max_response_tokens=2", "--json"))
    assert cut["examples"][0]["tokens"]["chosen_end"] == []  # cut at the limit
    assert "  chosen   a b (cut)" in shown(pairs(PAIR), "--recipe", own_recipe(), "--set", "data.max_response_tokens=2")


def test_a_recipe_shows_the_preferences_that_it_names(shown):
    out = shown("--recipe", "tiny", "--max-pairs", 5)
    assert "recipe tiny" in out
    assert "<s>" in out
    assert "</s>" in out


def test_prompt_responses_and_end_have_colours_of_their_own():
    line = command._lines(("prompt", ["<s>", "a"], None), ("chosen", ["b"], ["</s>"]), ("rejected", ["c\x1b[0m", " "], []))
    styles = {line.plain[span.start : span.end].strip(): str(span.style) for span in line.spans}
    assert (styles["<s> a"], styles["b"], styles["</s>"]) == ("cyan", "green", "bold magenta")
    assert styles["c\\x1b[0m ␣"] == "yellow"
    assert styles["(cut)"] == "bold magenta"


def test_long_rows_are_cut_in_the_middle(shown, pairs):
    out = shown(pairs({**PAIR, "chosen": " ".join(map(str, range(1000)))}))
    assert "… 940 more …" in out
    assert "999" in out


def test_a_policy_that_is_not_here_leaves_the_text(shown, pairs, own_recipe, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = {"policy__source": "hub", "policy__name": "some/model", "policy__revision": "abc", "policy__architecture": None}
    recipe = own_recipe(**model)
    out = shown(pairs(PAIR), "--recipe", recipe)
    assert "no tokens are shown: the model some/model at revision abc is not cached and nothing is downloaded here" in out
    assert "[user] copy:ab" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no preferences; name a file"),
        (["FILE", "--strict"], "line 2: chosen and rejected are equal, which states no preference; remove the row"),
        (["FILE", "--set", "data.max_pairs=1"], "--set changes a recipe"),
        (["nothing.jsonl"], "nothing.jsonl: no such file or folder"),
        (["owner/name"], "name its revision (a commit hash)"),
        (["FILE", "--recipe", "tinny"], "did you mean tiny?"),
        (["table.csv"], "table.csv, line 1: lacks the field chosen; the fields there: a, b"),
    ],
)
def test_what_cannot_be_read_is_refused(refused, pairs, tmp_path, arguments, words):
    file = pairs(PAIR, EQUAL)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    words_of_command = [file if each == "FILE" else each for each in arguments]
    assert words in refused("data", *words_of_command, stages=True)
