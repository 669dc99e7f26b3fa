"""A suite of one's own: a folder of task files. A new task is one YAML file; a wrong one, or one with code, is refused."""

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from spac_repro import suites
from spac_repro.data import contamination, tokenizers
from spac_repro.errors import UserError
from spac_repro.evaluation.leaderboard.packed_hflm import PackedHFLM
from spac_repro.evaluation.leaderboard.scoring import evaluate, read_questions
from spac_repro.evaluation.leaderboard.task import Task
from spac_repro.evaluation.leaderboard.task_file import read
from spac_repro.evaluation.leaderboard.task_keys import Prompt
from spac_repro.model.policy import use_packed_attention

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "leaderboard.md"
BACKWARDS = """\
name: backwards
prompt:
  output_type: multiple_choice
  doc_to_text: question
  doc_to_choice: choices
  doc_to_target: answer
  target_delimiter: ""
  fewshot_delimiter: "\\n"
num_fewshot: 2
fewshot_split: train
test_split: test
metrics: {acc_norm: "acc_norm,none", acc: "acc,none"}
columns: [question, choices, answer]
"""
SPELLED = """\
name: spelled
prompt:
  output_type: generate_until
  doc_to_text: "{{question}}"
  doc_to_target: "{{choices[answer]}}"
  target_delimiter: ""
  fewshot_delimiter: "\\n"
  generation_kwargs: {until: ["\\n"]}
  filter_list:
    - name: letters
      filter:
        - {function: regex, regex_pattern: "([a-j]+)"}
        - {function: take_first}
test_split: test
metrics: {exact_match: "exact_match,letters"}
max_gen_toks: 8
columns: [question, choices, answer]
folder: backwards
"""
BY_LETTER = """\
name: by_letter
prompt: {output_type: multiple_choice, doc_to_text: question, doc_to_choice: "{{choices}}", doc_to_target: answer}
by_subject: true
test_split: test
metrics: {acc_macro: "acc,none", acc: "acc,none"}
columns: [question, choices, answer, subject]
version: 3
"""
STOCK_TASKS = """\
name: stock
prompt: arc/arc_challenge
num_fewshot: 3
fewshot_split: mine_to_learn
test_split: mine
metrics: {acc: "acc,none"}
row_schema: arc
"""


def backwards(n: int, seed: str) -> list[dict[str, Any]]:
    """Words to be spelled backwards, three answers each."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghij", k=4)) for _ in range(n)]
    rows = []
    for number, word in enumerate(words):
        right = word[::-1]
        choices = [right, right[:-1] + "aj"[right[-1] == "a"], right[1:] + right[0] + "b"]
        answer = number % 3
        choices[0], choices[answer] = choices[answer], choices[0]
        rows.append({"question": f"reverse:{word}=", "choices": choices, "answer": answer, "subject": word[0], "unused": 1})
    return rows


def write(path: Path, rows: Iterable[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "questions"
    write(folder / "backwards" / "train.jsonl", backwards(5, "train"))
    write(folder / "backwards" / "test.jsonl", backwards(9, "test"))
    write(folder / "by_letter" / "test.jsonl", backwards(30, "by letter"))
    for split, n in (("mine_to_learn", 4), ("mine", 5)):
        rows = [
            {
                "question": row["question"],
                "choices": {"text": row["choices"], "label": list("ABC")},
                "answerKey": "ABC"[row["answer"]],
            }
            for row in backwards(n, split)
        ]
        write(folder / "stock" / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A suite with one task."""
    folder = tmp_path / "my_suite"
    folder.mkdir()
    (folder / "backwards.yaml").write_text(BACKWARDS)
    return folder


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizers.world_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, bos_token_id=1, eos_token_id=2, **shape)
    return use_packed_attention(LlamaForCausalLM(config).eval(), "sdpa")


@pytest.fixture
def knowing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness is answered by somebody who can spell backwards."""

    def spelled(exercise: str) -> str:
        return exercise.split("reverse:")[-1].split("=")[0][::-1]

    def likelihood(self: PackedHFLM, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        right = [spelled(request.args[0]) == request.args[1].strip() for request in requests]
        return [(0.0 if each else -50.0, each) for each in right]

    def generate(self: PackedHFLM, requests: list[Any], disable_tqdm: bool = True) -> list[str]:
        return [f"= {spelled(request.args[0])} =" for request in requests]

    monkeypatch.setattr(PackedHFLM, "loglikelihood", likelihood)
    monkeypatch.setattr(PackedHFLM, "generate_until", generate)


# Scores


def test_one_file_is_a_task(model, tokenizer, folder, data):
    scores = evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)
    assert [(score.task, score.metric, score.n, score.version) for score in scores] == [
        ("backwards", "acc_norm", 9, "1.0"),
        ("backwards", "acc", 9, "1.0"),
        ("average", "mean", 9, ""),
    ]
    assert scores[0].value == scores[2].value
    assert scores == evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)


def test_a_new_task_is_one_more_file(model, tokenizer, folder, data):
    alone = evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)
    (folder / "spelled.yaml").write_text(SPELLED)
    both = evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)
    assert [score.task for score in both] == ["backwards", "backwards", "spelled", "average"]
    assert both[:2] == alone[:2]
    assert both[-1].value == pytest.approx((both[0].value + both[2].value) / 2)
    assert [
        score.task for score in evaluate(model, tokenizer, suites.get(str(folder)), tasks=["spelled"], questions_folder=data)
    ] == ["spelled"]


@pytest.mark.parametrize(
    "text", [BACKWARDS, SPELLED, BY_LETTER, STOCK_TASKS], ids=["choices", "generated", "by subject", "stock prompt"]
)
@pytest.mark.usefixtures("knowing")
def test_who_knows_all_is_at_the_top_and_what_is_marked_wrong_counts(model, tokenizer, folder, data, text):
    """Columns, prompt, choices, target and metric of each kind of task belong together."""
    (folder / "backwards.yaml").write_text(text)
    suite = suites.get(str(folder))
    scores = evaluate(model, tokenizer, suite, questions_folder=data)
    assert {score.value for score in scores} == {1.0}
    task = read(folder / "backwards.yaml")
    path = data / task.data_folder / f"{task.test_split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    key = "answerKey" if "answerKey" in rows[0] else "answer"
    write(path, [{**rows[0], key: rows[1][key]}, *rows[1:]])  # a wrong key
    scores = evaluate(model, tokenizer, suite, questions_folder=data)
    assert scores[-2].value == pytest.approx(1 - 1 / len(rows))


def test_by_subject_both_ways(model, tokenizer, folder, data):
    (folder / "backwards.yaml").write_text(BY_LETTER)
    macro, weighted, _ = evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)
    rows = [json.loads(line) for line in (data / "by_letter" / "test.jsonl").read_text().splitlines()]
    letters = sorted({row["subject"] for row in rows})
    parts = []
    for letter in letters:
        write(data / "by_letter" / "test.jsonl", [row for row in rows if row["subject"] == letter])
        parts.append(evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)[1])
    assert macro.value == pytest.approx(sum(part.value for part in parts) / len(letters))
    assert weighted.value == pytest.approx(sum(part.value * part.n for part in parts) / len(rows))
    assert (macro.n, macro.version) == (30, "3")


def test_what_the_model_reads(model, tokenizer, folder, data, monkeypatch):
    seen: list[tuple[str, str]] = []

    def answer(self: PackedHFLM, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        seen.extend(request.args for request in requests)
        return [(-1.0, False)] * len(requests)

    monkeypatch.setattr(PackedHFLM, "loglikelihood", answer)
    evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data, limit=1)
    examples = {row["question"] + row["choices"][row["answer"]] for row in backwards(5, "train")}
    (row,) = backwards(1, "test")
    for (context, continuation), choice in zip(seen, row["choices"], strict=True):
        *shots, question = context.split("\n")
        assert (question, continuation) == (row["question"], choice)
        assert len(shots) == 2
        assert {*shots} <= examples


def test_questions_that_are_also_few_shot_examples_are_said_and_a_split_given_twice_is_refused(model, tokenizer, folder, data):
    questions, examples = (data / "backwards" / f"{split}.jsonl" for split in ("test", "train"))
    suite = suites.get(str(folder))
    assert {score.note for score in evaluate(model, tokenizer, suite, questions_folder=data, limit=4)} == {""}
    rows = backwards(4, "test")
    other_answer = {**rows[2], "answer": (rows[2]["answer"] + 1) % 2}
    write(examples, [*backwards(3, "train"), {**rows[1], "another column": 1}, other_answer])
    scores = evaluate(model, tokenizer, suite, questions_folder=data, limit=4)
    assert scores[0].note == "1 of 4 questions are also among the few-shot examples"
    write(examples, [json.loads(line) for line in questions.read_text().splitlines()])
    with pytest.raises(UserError, match="every question of backwards is also in its split train"):
        read_questions(suite, questions_folder=data, limit=1)


def test_contamination_by_training_prompts_is_found(folder, data):
    asked = read_questions(suites.get(str(folder)), questions_folder=data)
    words = {task.name: task.question_texts(subtasks) for task, subtasks in asked.items()}
    third = backwards(9, "test")[2]["question"]
    found = contamination.measure(["something else", third], words)
    assert found.tasks["backwards"].item_indexes == (2,)
    assert found.tasks["backwards"].row_indexes == (1,)


# Questions


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": None}, "test.jsonl, row 1: answer: is null"),
        ({"question": ""}, "test.jsonl, row 1: question: "),
        ({"question": 5}, "test.jsonl, row 1: question: "),
        ("choices", "test.jsonl, row 1: choices: missing; correct or remove this row"),
    ],
)
def test_rows_must_have_the_columns(folder, data, change, words):
    row = backwards(1, "test")[0]
    row = {**row, **change} if isinstance(change, dict) else {key: value for key, value in row.items() if key != change}
    write(data / "backwards" / "test.jsonl", [row])
    with pytest.raises(UserError, match=words):
        read_questions(suites.get(str(folder)), questions_folder=data)


def test_a_subject_stays_within_its_folder(folder, data):
    (folder / "backwards.yaml").write_text(BY_LETTER)
    write(data / "by_letter" / "test.jsonl", [{**row, "subject": "../../elsewhere"} for row in backwards(1, "x")])
    with pytest.raises(UserError, match="row 1: subject: "):
        read_questions(suites.get(str(folder)), questions_folder=data)


def test_without_a_data_set_questions_must_be_given(folder):
    with pytest.raises(UserError, match="backwards names no data set of the hub; give its questions with --questions DIR"):
        read_questions(suites.get(str(folder)))


def test_two_files_with_one_name(folder, data):
    (folder / "again.yaml").write_text(BACKWARDS)
    with pytest.raises(UserError, match=r"again\.yaml and backwards\.yaml are both called backwards; rename one"):
        read_questions(suites.get(str(folder)), questions_folder=data)


# Wrong task files

WRONG = [
    ("name: backwards", "nmae: backwards", "line 1: nmae: unknown key (did you mean name?)"),
    ("name: backwards\n", "", "name: missing; docs/leaderboard.md has a whole task file"),
    ("name: backwards", "name: ../elsewhere", "line 1: name: "),
    ("name: backwards", "name: average", "line 1: name: average is the name of other scores; choose another"),
    ("multiple_choice", "multiple_choise", "line 3: prompt.output_type: "),
    ("doc_to_text: question", "doc_to_text: qestion", "line 4: prompt.doc_to_text: no column qestion (did you mean question?)"),
    (
        "doc_to_text: question",
        'doc_to_text: "{{qestion}}:"',
        "line 4: prompt.doc_to_text: no column qestion (did you mean question?)",
    ),
    ("doc_to_text: question", 'doc_to_text: "{{question"', "line 4: prompt.doc_to_text: not a template ("),
    ("  doc_to_text: question\n", "", "line 2: prompt: a prompt without `include` needs doc_to_text"),
    ("  target_delimiter", "  target_delimeter", "line 7: prompt.target_delimeter: unknown key (did you mean target_delimiter?)"),
    ("num_fewshot: 2", "num_fewshot: two", "line 9: num_fewshot: "),
    ("num_fewshot: 2", "num_fewshot: -1", "line 9: num_fewshot: "),
    ("num_fewshot: 2", "shots: 2", "line 9: shots: renamed to num_fewshot in version 0.2"),
    ("fewshot_split: train\n", "", "fewshot_split: missing: the split that 2 examples are drawn from"),
    ("fewshot_split: train", "fewshot_split: test", "line 10: fewshot_split: must differ from test_split"),
    ("test_split: test", "test_split: ../test", "line 11: test_split: "),
    (
        'acc: "acc,none"',
        'acc: "accuracy,none"',
        "line 12: metrics.acc: multiple_choice has the metrics acc, acc_norm, not accuracy",
    ),
    (
        'acc: "acc,none"',
        'acc: "acc,letters"',
        "line 12: metrics.acc: no filter letters; after the comma, write one of none",
    ),
    ('acc: "acc,none"', "acc: acc", "line 12: metrics.acc: "),
    ("columns: [question, choices, answer]", "columns: []", "line 13: columns: "),
    ("columns: [question, choices, answer]", "columns: [question, choices]", "line 6: prompt.doc_to_target: no column answer"),
    ("columns: [question, choices, answer]", "row_schema: arcs", "line 13: row_schema: "),
    (
        "columns: [question, choices, answer]\n",
        "",
        "columns: give either `row_schema`, a schema that the package has, or `columns`",
    ),
    (
        "test_split: test",
        "test_split: test\ncontamination_column: qestion",
        "line 12: contamination_column: `columns` has no qestion (did you mean question?)",
    ),
    (
        "test_split: test",
        "test_split: test\nmax_gen_toks: 8",
        "line 12: max_gen_toks: tokens of an answer: 1 or more for generate_until",
    ),
    (
        "test_split: test",
        "test_split: test\nby_subject: true",
        "line 14: columns: a task with by_subject needs the column subject",
    ),
    ("test_split: test", "test_split: test\ntest_split: test", "line 12: test_split: occurs twice, first on line 11"),
]


@pytest.mark.parametrize(("old", "new", "words"), WRONG, ids=[new.strip() or f"no {old.strip()}" for old, new, _ in WRONG])
def test_a_wrong_task_file_is_one_line_with_file_line_and_key(folder, data, old, new, words):
    assert old in BACKWARDS
    file = folder / "backwards.yaml"
    file.write_text(BACKWARDS.replace(old, new))
    with pytest.raises(UserError) as caught:
        read_questions(suites.get(str(folder)), questions_folder=data)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert words in message
    assert len(message) <= 300
    assert "\n" not in message


# The documentation


def test_the_documented_task_is_one(model, tokenizer, tmp_path):
    text = DOCUMENTATION.read_text()
    (written,) = re.findall(r"^```yaml\n# my_suite/capitals.yaml\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (row,) = re.findall(r"^```json\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    (tmp_path / "my_suite").mkdir()
    file = tmp_path / "my_suite" / "capitals.yaml"
    file.write_text(written)
    for split, n in (("train", 2), ("test", 3)):
        rows = [{**json.loads(row), "question": f"{split}: {json.loads(row)['question']}"}] * n
        write(tmp_path / "questions" / "capitals" / f"{split}.jsonl", rows)
    scores = evaluate(model, tokenizer, suites.get(str(file.parent)), questions_folder=tmp_path / "questions")
    assert [(score.task, score.metric, score.n) for score in scores] == [("capitals", "acc", 3), ("average", "mean", 3)]
    (shown,) = re.findall(r"^my_suite/capitals.yaml(, line .*)$", text, flags=re.MULTILINE)
    file.write_text("# my_suite/capitals.yaml\n" + written.replace("{{question}}", "{{qestion}}"))
    with pytest.raises(UserError, match=re.escape(f"{file}{shown}")):
        read(file)


def test_every_key_is_documented():
    text = DOCUMENTATION.read_text()
    undocumented = [key for key in Task.model_fields if not re.search(rf"^\| [^|]*`{key}`", text, flags=re.MULTILINE)]
    assert undocumented == []
    (prompt,) = re.findall(r"^Keys of `prompt`:(.*?)\n\n", text, flags=re.DOTALL | re.MULTILINE)
    assert [key for key in Prompt.model_fields if f"`{key}" not in prompt] == []


# Nothing of one's own is executed

CODE = [
    ("doc_to_text: question", "doc_to_text: !function utils.doc_to_text", "line 4: prompt.doc_to_text: tags"),
    ("doc_to_text: question", "doc_to_text: !!python/name:os.system question", "line 4: prompt.doc_to_text: tags"),
    ("num_fewshot: 2", "process_docs: utils.f", "line 9: process_docs: unknown key"),
    ("  doc_to_text", "  process_results: utils.f\n  doc_to_text", "line 4: prompt.process_results: unknown key"),
    ("  doc_to_text", "  class: utils.Task\n  doc_to_text", "line 4: prompt.class: unknown key"),
    ("  doc_to_text", "  unsafe_code: true\n  doc_to_text", "line 4: prompt.unsafe_code: unknown key"),
    ("  doc_to_text", "  dataset_path: owner/name\n  doc_to_text", "line 4: prompt.dataset_path: unknown key"),
    ("  doc_to_text", "  metric_list: [{metric: owner/code, hf_evaluate: true}]\n  doc_to_text", "prompt.metric_list: unknown key"),
    (
        "  doc_to_text",
        "  include: ../../elsewhere\n  doc_to_text",
        "line 4: prompt.include: lm_eval/tasks has no ../../elsewhere.yaml",
    ),
    ("  doc_to_text", "  include: /etc/task\n  doc_to_text", "line 4: prompt.include: lm_eval/tasks has no /etc/task.yaml"),
    ("  doc_to_text", "  include: arc/arc_chalenge\n  doc_to_text", "no arc/arc_chalenge.yaml (did you mean arc_challenge?)"),
]


@pytest.mark.parametrize(("old", "new", "words"), CODE, ids=[new.strip() for _, new, _ in CODE])
def test_no_code_in_a_task_file(folder, data, old, new, words):
    (folder / "utils.py").write_text("raise SystemExit('code of a suite ran')")
    (folder / "backwards.yaml").write_text(BACKWARDS.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_questions(suites.get(str(folder)), questions_folder=data)
    assert words in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "template",
    [
        "{{question.__class__.__mro__[1].__subclasses__()}}",
        "{{question | attr('__class__')}}",
        "{{''.__class__}}{{question}}",
        "{{question.format.__globals__}}",
    ],
)
def test_no_way_from_a_template_to_python(model, tokenizer, folder, data, template):
    (folder / "backwards.yaml").write_text(BACKWARDS.replace("doc_to_text: question", f'doc_to_text: "{template}"'))
    with pytest.raises(UserError, match=r"task backwards: the harness failed .*(SecurityError|UndefinedError|unsafe)") as caught:
        evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_what_the_harness_cannot_do_with_a_task_is_one_line(model, tokenizer, folder, data):
    (folder / "backwards.yaml").write_text(BACKWARDS.replace("doc_to_target: answer", 'doc_to_target: "{{choices.label}}"'))
    with pytest.raises(UserError, match="my_suite: task backwards: the harness failed") as caught:
        evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data)
    assert "\n" not in str(caught.value)


def test_the_harness_s_own_templates_are_as_before_afterwards(model, tokenizer, folder, data):
    import lm_eval.utils

    before = lm_eval.utils.env
    evaluate(model, tokenizer, suites.get(str(folder)), questions_folder=data, limit=1)
    assert lm_eval.utils.env is before
