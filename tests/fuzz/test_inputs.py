"""Inputs that once gave a traceback, filled the memory, or were refused only after hours."""

import gzip
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from spac_repro import recipes, suites
from spac_repro.data import row_files
from spac_repro.data.preferences import read_preferences
from spac_repro.documents import parquet, text
from spac_repro.errors import UnfitEnvironmentError, UserError
from spac_repro.evaluation.leaderboard import question_files, scoring

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
ROW = {"prompt": "p", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["policy.architecture.hidden_size=100", "policy.architecture.num_attention_heads=3"], "multiple of"),
        (["policy.architecture.num_key_value_heads=3"], "num_key_value_heads"),
        (["policy.architecture.num_hidden_layers=100000"], "1000"),
        (["selfplay.temperature=1e-300"], "0.0001"),
        (["training.threads=100000"], "1024"),
        (["evaluation.tasks=[nope]"], "has no task 'nope'"),
        (["evaluation.tasks=[mini_arc, mini_arc]"], "each task once"),
        (["evaluation.tasks=[]"], "each task once"),
    ],
)
def test_values_that_no_run_can_have_are_refused_when_the_recipe_is_read(settings, words):
    with pytest.raises(UserError, match=words):
        recipes.load("tiny", overrides=settings)


def test_a_line_that_unfolds_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "' + b"a" * 10**6))
    with pytest.raises(UserError, match="line 1: larger than 1,000 bytes"):
        read_preferences(str(path))


def test_a_table_whose_row_unfolds_to_more_than_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b'prompt,chosen,rejected\n"' + b"a\n" * 10**6))
    with pytest.raises(UserError, match="line 501: a row is larger than 1,000 characters"):
        read_preferences(str(path))


def test_a_parquet_file_is_read_in_batches_that_fit_its_columns(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([ROW | {"prompt": "a" * 1000}] * 300), path)
    assert parquet.rows_per_batch(path, ["prompt"]) == 256
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 5000)
    assert parquet.rows_per_batch(path, ["prompt"]) < 3
    assert parquet.rows_per_batch(path, ["chosen"]) > 50  # what is not read does not count
    monkeypatch.setattr(parquet, "MAX_BATCH_BYTES", 10)
    with pytest.raises(UserError, match="unfolds to"):
        parquet.rows_per_batch(path, ["prompt"])


@pytest.mark.parametrize("repeated", ["row", "value", "list"])
def test_questions_that_unfold_to_more_than_memory_are_refused(tmp_path, monkeypatch, repeated):
    """Files of less than 1 MB: many short rows, few long ones, and a row that is a long list."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    few, long = {"question": "1 + 1?", "answer": "#### 2"}, {"question": "a" * 10**5, "answer": "#### 2"}
    tables = {
        "row": lambda: pa.Table.from_pylist([few]).take([0] * 200_000),
        "value": lambda: pa.Table.from_pylist([long]).take([0] * 400),
        "list": lambda: pa.table({"question": [["a"] * 10**6], "answer": ["#### 2"]}),
    }
    path = tmp_path / "test.parquet"
    pq.write_table(tables[repeated](), path, compression="zstd")
    assert path.stat().st_size < 10**6
    monkeypatch.setattr(question_files, "MAX_BYTES", 1 << 20)
    with pytest.raises(UserError, match=f"{path}: (unfolds to more than 1,048,576 bytes|a row holds more than 10,000 values)"):
        question_files.read_split(tmp_path, "test", question_files.Gsm8kRow)


def test_questions_of_endless_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(question_files, "MAX_BYTES", 10**4)
    line = b'{"question": "1 + 1?", "answer": "#### 2"}\n'
    (tmp_path / "test.jsonl.gz").write_bytes(gzip.compress(line * 10**4))
    with pytest.raises(UserError, match="longer than 10,000 characters"):
        question_files.read_split(tmp_path, "test", question_files.Gsm8kRow)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.parquet"])
def test_a_git_lfs_pointer_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(POINTER)
    with pytest.raises(UserError, match="git lfs pull"):
        read_preferences(str(tmp_path / name))
    with pytest.raises(UserError, match="git lfs pull"):
        text.read_text(tmp_path / name, max_bytes=1000)


def test_a_pipe_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="a pipe or a device"):
        read_preferences(str(tmp_path / "pipe"))


def test_a_recipe_may_come_from_a_pipe():
    command = f"{sys.executable} -m spac_repro recipes check <(cat {recipes.__path__[0]}/tiny.yaml)"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def write_questions(folder: Path, train: list[int], test: list[int], names: tuple[str, str] = ("train", "test")) -> None:
    folder.mkdir(parents=True)
    for name, numbers in zip(names, (train, test), strict=True):
        rows = [{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in numbers]
        (folder / f"{name}.jsonl").write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")


def read_questions(folder: Path):
    return scoring.read_questions(suites.get("openllm"), tasks=["gsm8k"], questions_folder=folder)


def test_too_few_worked_examples_are_refused_and_a_byte_order_mark_is_none(tmp_path):
    write_questions(tmp_path / "few" / "gsm8k", [1, 2], [9])
    with pytest.raises(UserError, match="has 2 rows in its split train"):
        read_questions(tmp_path / "few")
    write_questions(tmp_path / "enough" / "gsm8k", [1, 2, 3, 4, 5], [9, 3])
    assert read_questions(tmp_path / "enough")


def test_a_split_may_have_the_hubs_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": "1 + 1?", "answer": "#### 2"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    assert question_files.read_split(tmp_path, "test", question_files.Gsm8kRow) == rows
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00001-of-00002.parquet")
    with pytest.raises(UserError, match="in 2 files"):
        question_files.read_split(tmp_path, "test", question_files.Gsm8kRow)


def test_brackets_in_a_table_are_text(capsys):
    from spac_repro.cli import output

    table = output.table("[/nope] of :smile:", "[red]x")
    table.add_row("[/nope]")
    output.show(table)
    printed = capsys.readouterr().out
    assert printed.count("[/nope]") == 2
    assert ":smile:" in printed


@pytest.fixture
def model_folder(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    import kinds

    kinds.write_model(tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_model_folder_whose_tokenizer_does_not_fit_is_refused_before_the_weights_are_read(model_folder):
    from spac_repro.model import policy

    policy.load(model_folder)
    (model_folder / "model.safetensors").write_bytes(b"never read")
    change(model_folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        policy.load(model_folder)

    def refuse(tokenizer: object) -> None:
        raise UserError("asked for a chat template")

    change(model_folder / "tokenizer_config.json", eos_token="</s>")
    with pytest.raises(UserError, match="asked for a chat template"):
        policy.load(model_folder, check_tokenizer=refuse)


def test_a_tokenizer_that_is_written_in_python_is_refused_before_the_weights_are_read(model_folder):
    from transformers import CTRLConfig

    from spac_repro.model import policy

    (model_folder / "model.safetensors").write_bytes(b"never read")
    (model_folder / "tokenizer.json").unlink()
    change(model_folder / "tokenizer_config.json", tokenizer_class="ByT5Tokenizer")
    with pytest.raises(UserError, match=r"the tokenizer has no tokenizer\.json; choose a policy with a fast tokenizer"):
        policy.load(model_folder)
    CTRLConfig(n_embd=8, n_head=2, n_layer=1, dff=8, vocab_size=4).save_pretrained(model_folder)  # transformers' own is in Python
    (model_folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "tokenizer_class": "CTRLTokenizer"}))
    (model_folder / "vocab.json").write_text(json.dumps({"a</w>": 0, "b</w>": 1, "<unk>": 2, "</s>": 3}))
    (model_folder / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(UserError, match=r"CTRLTokenizer is written in Python and has no tokenizer\.json"):
        policy.load(model_folder)


@pytest.mark.parametrize("width", [0, 4, -8, 10**9])
def test_a_model_of_an_impossible_width_is_one_error_and_no_warning(model_folder, width):
    from spac_repro.model import policy

    change(model_folder / "config.json", hidden_size=width)
    with warnings.catch_warnings(record=True, action="always") as said, pytest.raises(UserError) as refused:
        policy.load(model_folder)
    assert len(str(refused.value).splitlines()) == 1
    assert not said


def test_a_tokenizer_that_is_larger_than_the_embedding_is_refused(model_folder):
    from spac_repro.model import policy

    tokenizer = json.loads((model_folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["one more"] = 10_000
    (model_folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match="up to id 10000, and the model's embedding"):
        policy.load(model_folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ('{"model_type": {}}', "is not supported"),
        ("[" * 3000, "levels deep"),
    ],
)
def test_a_configuration_that_is_no_object_is_refused(model_folder, content, words):
    from spac_repro.model import policy

    (model_folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=words):
        policy.load(model_folder)


def test_a_tokenizer_that_only_sentencepiece_reads_is_told_how_to_convert_it(model_folder, monkeypatch):
    from spac_repro.model import policy

    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # not installed
    (model_folder / "tokenizer.json").rename(model_folder / "tokenizer.model")
    with pytest.raises(UserError, match=r"has tokenizer.model and no tokenizer.json; make one where sentencepiece is installed"):
        policy.load(model_folder)


def test_an_adapter_whose_base_is_no_possible_name_is_refused(tmp_path):
    import kinds

    from spac_repro.model import adapter_folder

    kinds.write_adapter(tmp_path / "a")
    config = tmp_path / "a" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "base_model_name_or_path": "a" * 5000}))
    with pytest.raises(UserError, match="is no folder here, and no commit is named"):
        adapter_folder.base_folder(adapter_folder.read(tmp_path / "a"))


def test_weights_that_are_a_pointer_are_named(model_folder):
    from spac_repro.model import policy

    (model_folder / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(UserError, match=r"model.safetensors: a Git LFS pointer.*git lfs pull"):
        policy.load(model_folder)


def test_an_architecture_without_sdpa_is_told_the_remedy(tmp_path):
    from spac_repro.model import loading

    error = ValueError(
        "X does not support an attention implementation through torch.nn.functional.scaled_dot_product_attention yet."
    )
    assert "--set policy.attn_implementation=eager" in str(loading.unreadable(tmp_path, error))


def test_a_local_folder_is_no_name_of_a_policy(tmp_path):
    from spac_repro.data import hub

    with pytest.raises(UserError, match=r"is a local folder; name a folder with --policy FOLDER"):
        hub.snapshot(str(tmp_path), "main")


def test_files_of_a_folder_have_the_mode_of_the_umask(tmp_path):
    from spac_repro.runs import files

    before = os.umask(0o027)
    try:
        with files.atomic_folder(tmp_path / "policy") as folder:
            (folder / "model.safetensors").touch(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "policy" / "model.safetensors").stat().st_mode & 0o777 == 0o640


def test_a_manifest_without_a_schema_is_of_version_0_1(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    import kinds

    from spac_repro.runs.folder import RunFolder

    kinds.write_run(tmp_path, 0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["schema"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert RunFolder.open(tmp_path).manifest.recipe == "tiny"


def test_weights_that_are_larger_than_the_memory_are_refused():
    from spac_repro.model import policy

    large = ["policy.architecture.num_hidden_layers=1000", "policy.architecture.hidden_size=32768"]
    with pytest.raises(UnfitEnvironmentError, match="this machine has"):
        policy.create_initial(recipes.load("tiny", overrides=large).recipe.policy, seed=0)


def spac_repro(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    shell = command.replace("spac-repro", f"{sys.executable} -P -m spac_repro")
    return subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, text=True, env=environment, check=False)


def test_a_report_that_cannot_be_written_is_one_line(tmp_path):
    sys.path.insert(0, str(Path(__file__).parent))
    import kinds

    kinds.write_run(tmp_path / "run", 0)
    (tmp_path / "file").touch()
    for out in (".", "file/report.html", "run"):
        done = spac_repro(f"spac-repro report run -o {out}", tmp_path)
        assert (done.returncode, done.stderr.count("\n")) in ((2, 1), (3, 1)), done.stderr


def test_modules_in_the_working_directory_are_not_imported_by_child_processes(tmp_path):
    for name in ("queue", "tokenizers", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    done = spac_repro("spac-repro recipes check tiny", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_git_that_finds_no_free_file_is_no_missing_commit(monkeypatch):
    from spac_repro.runs import environment

    def refuse(*_, **__):
        return subprocess.CompletedProcess([], 128, "", "fatal: cannot open: Too many open files")

    monkeypatch.setattr(subprocess, "run", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        environment._git("rev-parse", "HEAD")
