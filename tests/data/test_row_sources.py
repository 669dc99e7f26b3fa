"""Folders with splits, hidden files and descriptions; clones of hub data sets; data sets of the hub with configurations."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from spac_repro.data import preferences, row_sources
from spac_repro.errors import UserError


def row(text):
    return {"prompt": text, "chosen": "a", "rejected": "b"}


def write(path, *texts):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist([row(text) for text in texts]), path)
    else:
        path.write_text("".join(json.dumps(row(text)) + "\n" for text in texts))


def prompts(source, **options):
    return [each.prompt[0]["content"] for each in preferences.read_preferences(str(source), **options)]


def error(source, **options):
    with pytest.raises(UserError) as caught:
        preferences.read(str(source), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_hidden_files_and_descriptions_are_no_data(tmp_path):
    write(tmp_path / "pairs.jsonl", "1")
    for hidden in (".ipynb_checkpoints/pairs-checkpoint.jsonl", "._pairs.jsonl", "__MACOSX/pairs.jsonl", ".cache/a/b.parquet"):
        write(tmp_path / hidden, "hidden")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "README.md").write_text("text")
    assert prompts(tmp_path) == ["1"]


def test_the_split_of_a_clone_is_chosen_by_name(tmp_path):
    clone = tmp_path / "clone"
    write(clone / "data" / "train_prefs-00000-of-00002-0a1b.parquet", "1")
    write(clone / "data" / "train_prefs-00001-of-00002-2c3d.parquet", "2")
    write(clone / "data" / "test_prefs-00000-of-00001-4e5f.parquet", "3")
    assert "has several splits; write clone:SPLIT, one of test_prefs, train_prefs" in error(clone)
    assert "has no split test; write clone:SPLIT" in error(f"{clone}:test")
    assert prompts(f"{clone}:train_prefs") == ["1", "2"]
    assert prompts(f"{clone}:test_prefs") == ["3"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.jsonl", "train"),
        ("train.jsonl.gz", "train"),
        ("harmless-base/test.jsonl.gz", "test"),
        ("my_Validation_set.csv", "validation"),
        ("validation/0000.parquet", "validation"),
        ("data/train-00000-of-00001.parquet", "train"),
        ("data/test-en-00000-of-00001-abc.parquet", "test-en"),
        ("train/pairs-dev.jsonl", "validation"),  # the file's own name counts first
        ("0000.parquet", None),
        ("trained_on.jsonl", None),
        ("latest.jsonl", None),
        ("constraints.json", None),
    ],
)
def test_the_split_that_a_path_names(tmp_path, name, split):
    assert row_sources._split_of((tmp_path / name).relative_to(tmp_path)) == split


def test_one_split_alone_needs_no_name(tmp_path):
    write(tmp_path / "b" / "train.jsonl", "2")
    write(tmp_path / "a" / "train.jsonl", "1")
    assert prompts(tmp_path) == prompts(f"{tmp_path}:train") == ["1", "2"]


def test_files_of_a_split_beside_others_are_not_mixed(tmp_path):
    folder = tmp_path / "pairs"
    write(folder / "train.jsonl", "1")
    write(folder / "more.jsonl", "2")
    assert "has files of a split (train) and others (more.jsonl); write pairs:SPLIT, or name one file" in error(folder)
    assert prompts(f"{folder}:train") == ["1"]


CARD = """---
license: mit
configs:
- config_name: en
  data_files:
  - split: train_prefs
    path: en/a*.jsonl
  - split: test
    path: [en/b.jsonl]
- config_name: de
  DEFAULTdata_files: de/*
---
# Pairs
"""


@pytest.fixture
def clone(tmp_path):
    for name in ("en/a1.jsonl", "en/a2.jsonl", "en/b.jsonl", "de/train.jsonl", "old/train.jsonl"):
        write(tmp_path / "clone" / name, name)

    def clone(card):
        (tmp_path / "clone" / "README.md").write_text(card)
        return tmp_path / "clone"

    return clone


def test_the_card_of_a_clone_names_configurations_and_splits(clone):
    folder = clone(CARD.replace("DEFAULT", ""))
    assert "has several configurations; write clone:CONFIG/SPLIT, one of de, en" in error(folder)
    assert "has no configuration fr; write clone:CONFIG/SPLIT, one of de, en" in error(f"{folder}:fr/train")
    assert "has no split train; write clone:en/SPLIT, one of test, train_prefs" in error(f"{folder}:en/train")
    assert prompts(f"{folder}:en/train_prefs") == ["en/a1.jsonl", "en/a2.jsonl"]
    assert prompts(f"{folder}:de/train") == ["de/train.jsonl"]
    clone(CARD.replace("DEFAULT", "default: true\n  "))
    assert prompts(folder) == prompts(f"{folder}:train") == ["de/train.jsonl"]
    assert prompts(f"{folder}:en/test") == ["en/b.jsonl"]


def test_a_card_without_configurations_leaves_the_names_of_the_files(clone):
    for card in ("# Pairs", "---\nlicense: mit\n---\n", "---\nno end", ""):
        assert prompts(f"{clone(card)}:train") == ["de/train.jsonl", "old/train.jsonl"]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("../*", "../* lies outside the folder"),
        ("/etc/*", "/etc/* lies outside the folder"),
        ("https://localhost:1/x.jsonl", "lies outside the folder"),
        ("none/*.jsonl", "it names none/*.jsonl, and there is no such file; clone it again"),
        ("[1, 2]", "its configs cannot be read (Expected data_files in YAML"),
        ("{a: 1}", "its configs cannot be read (Expected data_files in YAML"),
        ("x\n- config_name:\n  data_files: x", "its configs cannot be read (a config_name is not text)"),
        ("[", "its metadata is no YAML"),
        ("&a [*a]", "its metadata has aliases"),
    ],
)
def test_a_card_that_leads_astray_is_refused(clone, monkeypatch, path, words):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    folder = clone(f"---\nconfigs:\n- config_name: en\n  data_files: {path}\n---\n")
    message = error(folder)
    assert message.startswith(f"{folder / 'README.md'}: ")
    assert words in message


def test_a_colon_in_a_name_is_no_split(tmp_path):
    write(tmp_path / "a:b" / "pairs.jsonl", "1")
    write(tmp_path / "a" / "pairs.jsonl", "2")
    assert prompts(tmp_path / "a:b") == ["1"]
    assert "no such file" in error(tmp_path / "a" / "pairs.jsonl:train")


def test_suffixes_in_any_case_and_gzip_by_content(tmp_path):
    write(tmp_path / "a.JSONL", "1")
    write(tmp_path / "b.ndjson", "2")
    write(tmp_path / "c.jsonl.gz", "3")  # not gzipped, whatever its name says
    assert prompts(tmp_path) == ["1", "2", "3"]


def test_hub_data_set_with_configurations(monkeypatch):
    import datasets

    def load(name, config=None, *, revision):
        if config is None:
            raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['en', 'de']")
        data = datasets.Dataset.from_list([row(config)])
        return datasets.DatasetDict(train=data, test_prefs=data)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert prompts("owner/data:de/test_prefs", revision="abc") == ["de"]
    message = error("owner/data:train", revision="abc")
    assert "Config name is missing. Please pick one among the available configs: ['en', 'de']" in message
    assert message.endswith("; write OWNER/NAME:CONFIG/SPLIT")
    assert "has no split nope; write owner/data:SPLIT, one of train, test_prefs" in error("owner/data:de/nope", revision="abc")
