"""`evaluate`."""

import json

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
    ],
)
def test_what_cannot_be_evaluated(refused, arguments, words):
    assert words in refused("evaluate", *arguments, stages=True)
