"""The tables of docs/text.md are what experiments/text_invariants.py computes."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "experiments"))

import text_invariants  # noqa: E402

from spac_repro import recipes  # noqa: E402

PAGE = (ROOT / "docs" / "text.md").read_text()
QUICK = ("byte-level BPE (GPT-2's kind)", "Unigram", "WordPiece", "words", "the built-in world's")
NAMES = [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.check]) for name in text_invariants.tokenizer_zoo.ZOO]


@pytest.mark.parametrize("name", NAMES)
def test_the_table_has_every_tokenizer(name):
    lines = [text_invariants.invariants(name, frame) for frame in text_invariants.FRAMES]
    for line in lines:
        assert line in PAGE
        _, _, _, _, behind, _, lost, special, ends, _ = line.split("|")
        assert [behind.strip(), lost.strip(), special.strip(), ends.strip()] == ["0"] * 4


def test_the_table_has_nothing_else():
    table = PAGE.partition(text_invariants.HEADER)[2].partition("\n\n")[0]
    assert len(table.strip().splitlines()) == len(NAMES) * len(text_invariants.FRAMES)


@pytest.mark.check
def test_mistral_s_first_token_tells_nothing(shared):
    rows = text_invariants.read_preferences(str(shared / "preferences/gsm8k_solutions.jsonl.gz"))
    name = "SentencePiece BPE, not legacy (Mistral v1)"
    for frame in ("instruction", "chat"):
        assert text_invariants.before_and_after(name, frame, rows) in PAGE


@pytest.mark.check
def test_smollm2_s_rows_are_what_they_were(shared):
    rows = text_invariants.read_preferences(str(shared / "preferences/gsm8k_solutions.jsonl.gz"))
    assert text_invariants.changed_for_smollm2(rows) in PAGE


def test_encoding_alone_would_be_found():
    """The table's teeth: rows that are put together from parts differ from their text."""
    row = text_invariants.Preference(({"role": "user", "content": "Name a colour"},), "Red.", "b")
    apart, whole = text_invariants.apart_and_whole(text_invariants.tokenizer_zoo.ZOO["Unigram"](), "instruction", row)
    assert apart != whole


def test_the_recipe_uses_one_frame_and_says_why():
    why = (ROOT / "spac_repro/recipes/zephyr-7b.yaml").read_text()
    assert recipes.load("zephyr-7b").recipe.data.prompt_template == "chat"
    assert re.search(r"prompt_template: .*generates in another frame", why)
