"""A method and an engine from outside the package: registered, trained, evaluated, reported, compared, without a line changed."""

import copy
import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import cut_down
import pytest
import yaml

pytestmark = [pytest.mark.e2e, pytest.mark.check]

# The whole of a method: ten lines of loss, and its entry.
METHOD = '''
from torch.nn.functional import relu
from spac_repro.methods import Method, ReferenceMethodSettings

def loss(chosen, rejected, *, beta):
    """A hinge on the margin of log-ratios, as in SLiC."""
    return relu(1 - beta * (chosen - rejected))

HINGE = Method(
    name="hinge",
    summary="a hinge on the margin",
    citation="Zhao et al. 2023, arXiv 2305.10425",
    responses=("chosen", "rejected"),
    settings=ReferenceMethodSettings,
    loss="hinge_plugin:loss",
)
'''

# The whole of an engine: a class, and its facts.
ENGINE_FACTS = """
from dataclasses import replace
from spac_repro.engines import EngineSpec

ONE_BY_ONE = EngineSpec(
    name="one-by-one",
    summary="gradients are counted as they come",
    implementation="counting_engine:Counting",
    needs_process_group=False,
    shards_optimizer=False,
    shards_weights=False,
)
"""
ENGINE_FACTS += """
HALVED = replace(ONE_BY_ONE, name="halved", implementation="counting_engine:Halved")
"""
ENGINE = """
from spac_repro.optim.replicated import Replicated

class Halved(Replicated):
    def weights(self):
        return {name: tensor / 2 for name, tensor in super().weights().items()}

class Counting(Replicated):
    backwards = 0

    def backward(self, loss, *, last_micro_batch):
        Counting.backwards += 1
        super().backward(loss, last_micro_batch=last_micro_batch)
"""


def distribution(folder: Path, name: str, files: dict[str, str], entry_points: str) -> None:
    """A Python distribution as an installer leaves it in a folder of the path."""
    info = folder / f"{name}-0.3.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(entry_points)
    for file, text in files.items():
        (folder / file).write_text(text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    distribution(folder, "hinge", {"hinge_plugin.py": METHOD}, "[spac_repro.methods]\nhinge = hinge_plugin:HINGE\n")
    files = {"counting_facts.py": ENGINE_FACTS, "counting_engine.py": ENGINE}
    distribution(
        folder, "counting", files, "[spac_repro.engines]\none-by-one = counting_facts:ONE_BY_ONE\nhalved = counting_facts:HALVED\n"
    )
    return folder


@pytest.fixture(scope="module")
def run(site: Path) -> Any:
    """`spac-repro` with the distributions on the path."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "spac_repro", *arguments]
        environment = {**cut_down.environment(), "PYTHONPATH": path}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)

    return call


def train(run: Any, out: Path, *arguments: str) -> dict[str, Any]:
    sets = [part for setting in cut_down.SETTINGS for part in ("--set", setting)]
    done = run("train", "--out", str(out), *sets, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe `tiny` with a block for the method, and without one for spin."""
    tree = yaml.safe_load((resources.files("spac_repro") / "recipes" / "tiny.yaml").read_text(encoding="utf-8"))
    tree["name"] = "mine"
    tree["methods"]["hinge"] = copy.deepcopy(tree["methods"]["dpo"])
    del tree["methods"]["spin"]
    file = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    file.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
    return file


@pytest.fixture(scope="module")
def hinge(run: Any, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hinge")
    for seed in (0, 1):
        out = folder / f"seed-{seed}"
        results = train(run, out, "--recipe", str(recipe), "--method", "hinge", "--seed", str(seed))
        assert results["verdict"]["status"] == "unverified"
    return folder


def test_the_method_is_offered(run):
    assert "hinge" in run("train", "--help").stdout
    assert "hinge" not in subprocess.run(
        [sys.executable, "-m", "spac_repro", "train", "--help"], capture_output=True, text=True
    ).stdout  # fmt: skip


def test_a_recipe_without_its_block_refuses_it_with_the_reason(run, tmp_path):
    done = run("train", "--method", "hinge", "--out", str(tmp_path / "run"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no settings for method hinge; it supports spac, dpo, ipo, spin, sft" in done.stderr


def test_a_method_that_a_recipe_leaves_out_is_refused_too(run, recipe, tmp_path):
    done = run("train", "--recipe", str(recipe), "--method", "spin", "--out", str(tmp_path / "run"))
    assert done.returncode == 2
    assert "no settings for method spin; it supports spac, dpo, ipo, sft, chipo, " in done.stderr
    assert done.stderr.endswith(", hinge\n")


def test_its_loss_is_the_one_that_was_minimised(hinge):
    lines = [json.loads(line) for line in (hinge / "seed-0" / "metrics.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["iteration"] == 1)
    assert first["loss"] == pytest.approx(1.0, abs=1e-4)  # ρ is 0 before the first step


def test_the_manifest_names_the_distribution_and_its_code(hinge, site):
    plugins = json.loads((hinge / "seed-0" / "manifest.json").read_text())["environment"]["plugins"]
    assert plugins.keys() == {"method"}
    assert (plugins["method"]["distribution"], plugins["method"]["version"]) == ("hinge", "0.3")
    assert len(plugins["method"]["sha256"]) == 64


def test_its_run_is_evaluated_reported_and_compared(run, hinge, tmp_path):
    scores = run("evaluate", str(hinge / "seed-0"), "--suite", "mini", "--limit", "4", "--json")
    assert scores.returncode == 0, scores.stderr
    assert json.loads(scores.stdout)["scores"]
    report = run("report", str(hinge / "seed-0"), "-o", str(tmp_path / "report.html"))
    assert report.returncode == 0, report.stderr
    assert "hinge" in (tmp_path / "report.html").read_text()
    compared = run("compare", str(hinge / "seed-0"), str(hinge / "seed-1"), "--json")
    assert compared.returncode in (0, 1), compared.stderr
    assert [each["key"] for each in json.loads(compared.stdout)["differences"]] == ["seed"]


def test_its_start_is_shared_with_every_method(run, recipe, hinge, tmp_path):
    """As a sweep of several methods does."""
    sets = [part for setting in cut_down.SETTINGS for part in ("--set", setting)]
    shared = ("--recipe", str(recipe), "--until", "0", "--start-from", str(hinge / "seed-0"))
    done = run("train", "--out", str(tmp_path / "run"), *sets, *shared)
    assert done.returncode == 0, done.stderr
    name = "iteration-0/policy/model.safetensors"
    assert (tmp_path / "run" / name).samefile(hinge / "seed-0" / name)


def test_other_code_under_the_same_version_is_another_environment(run, recipe, hinge, site, tmp_path):
    partial = tmp_path / "run"
    arguments = ("--recipe", str(recipe), "--method", "hinge", "--until", "0")
    train(run, partial, *arguments)
    file = site / "hinge_plugin.py"
    text = file.read_text()
    try:
        file.write_text(text.replace("relu(1 -", "relu(2 -"))
        sets = [part for setting in cut_down.SETTINGS for part in ("--set", setting)]
        done = run("train", "--out", str(partial), *sets, *arguments[:-2])
        assert done.returncode == 2
        assert "begun in another environment: plugins.method.sha256" in done.stderr
    finally:
        file.write_text(text)


def test_an_engine_from_outside_takes_the_same_steps(run, uninterrupted, tmp_path):
    ours = cut_down.results(uninterrupted)["weights_sha256"]
    theirs = train(run, tmp_path / "run", "--set", "training.engine=one-by-one")
    assert theirs["weights_sha256"] == ours
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["environment"]["plugins"]["engine"]["distribution"] == "counting"


def test_the_iterate_is_what_the_engine_says_its_weights_are(run, tmp_path):
    """An engine may average its weights, say: what it was given to train is then not what it hands back."""
    from safetensors.torch import load_file

    few = ("--set", "training.iterations=1", "--until", "1")
    folders = {engine: tmp_path / engine for engine in ("one-by-one", "halved")}
    for engine, folder in folders.items():
        train(run, folder, "--set", f"training.engine={engine}", *few)
    whole, halved = (load_file(folder / "iteration-1" / "policy" / "model.safetensors") for folder in folders.values())
    assert all((halved[name] == tensor / 2).all() for name, tensor in whole.items())


def test_a_plugin_that_cannot_be_imported_is_one_line(tmp_path, run):
    distribution(tmp_path, "broken", {"broken_plugin.py": "import nowhere\n"}, "[spac_repro.methods]\nbroken = broken_plugin:M\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "spac_repro", "recipes", "list"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "spac-repro: the method broken (broken_plugin:M) cannot be imported: No module named 'nowhere'\n"
