"""`evaluate`."""

import json
from pathlib import Path

import pytest


def test_a_model_folder_with_pickles_only(refused, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04")
    message = refused("evaluate", "model", stages=True)
    assert "only pickle weights (pytorch_model.bin)" in message
    assert "safetensors are needed" in message


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "no config.json"),
        ([".", "--suite", "openlm"], "(did you mean openllm?)"),
        ([".", "--tasks", "gsm9k"], "gsm8k"),
        ([".", "--protocol", "v0.4.0"], "unknown protocol 'v0.4.0' (did you mean v0.4.0-spin?); choose current, "),
    ],
)
def test_what_cannot_be_evaluated(refused, arguments, words):
    assert words in refused("evaluate", *arguments, stages=True)


@pytest.mark.parametrize("as_json", [False, True])
def test_the_table_says_what_json_says_of_cut_prompts(monkeypatch, capsys, as_json):
    from spac_repro.cli import evaluate
    from spac_repro.evaluation import model_folder
    from spac_repro.runs import answer_scores
    from spac_repro.runs.answers import About, Answers
    from spac_repro.runs.results import Score

    asked = []

    def measure(*_, tasks, **__):
        asked.append(tasks)
        return Answers.of(About(), ())

    score = Score("gsm8k", "exact_match", 0.5, 0.1, 3, note="3 prompts cut to the model's 300 tokens")
    monkeypatch.setattr(model_folder, "evaluate", measure)
    monkeypatch.setattr(answer_scores, "scores", lambda _: [score])
    evaluate.evaluate(Path("[/nope]"), suite="openllm", tasks="gsm8k, arc_challenge", protocol="v0.4.0-spin", as_json=as_json)
    printed = capsys.readouterr().out
    assert "3 prompts cut to the model's 300 tokens" in printed
    assert "[/nope]" in printed
    assert "v0.4.0-spin" in printed
    assert asked == [["gsm8k", "arc_challenge"]]
