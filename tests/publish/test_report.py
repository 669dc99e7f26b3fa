"""The report: what it shows, that nothing in it can run or fetch, and how it looks in a real browser."""

import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import needs
import pytest
from PIL import Image

from spac_repro import recipes
from spac_repro.data import dataset
from spac_repro.data.dataset import PreferenceDataset
from spac_repro.errors import UserError
from spac_repro.publish import report
from spac_repro.publish.groups import RunView, group_by_settings
from spac_repro.publish.model_card import model_card
from spac_repro.runs import files
from spac_repro.runs.audit import Audit
from spac_repro.runs.folder import RunFolder
from spac_repro.runs.manifest import SCHEMA
from spac_repro.runs.train_command import train_command

EVIL = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\"'&$\\frac{$"
STEPS = 30


def audit(text: str, *, rendering: float) -> Audit:
    """An audit with tokens that come from outside."""
    side = {"cut": 0.25, "mean_length": 3.5, "length_quantiles": [1, 2, 3, 4, 5, 6, 7], "first_tokens": [[text, 0.5]]}
    trait = {"total_variation": 0.5, "total_variation_by_chance": 0.2, "accuracy": 0.9, "stderr": 0.01}
    tested = trait | {"rendering": rendering, "non_canonical": 0.01, "p": 1e-9 if rendering else 1.0}
    comparison = {"first_token": tested, "end": {**tested, "rendering": 0.0, "p": 1.0}, "length": trait}
    content = {"rows": 20, "rows_in_all": 20, "held_out_rows": 10, "non_canonical": 0.125, "rewritten": 0.0}
    sides = dict.fromkeys(("chosen", "selfplay"), side)
    return Audit.model_validate({**content, "sides": sides, "comparisons": {"chosen": comparison}})


def make(folder: Path, *, seed: int = 0, method: str = "spac", text: str = EVIL, complete: bool = True) -> Path:
    """A run folder as `train` leaves it, with hostile text wherever text can come from outside."""
    import torch

    run = recipes.load("tiny", method=method, seed=seed, overrides=["training.epochs_per_iteration=1"])
    manifest = {
        "schema": SCHEMA,
        "recipe": "tiny",
        "method": method,
        "seed": seed,
        "settings": run.settings(),
        "settings_sha256": run.settings_sha256,
        "provenance": {key: {"mark": source.mark, "why": source.why + text} for key, source in run.provenance.items()},
        "inputs": {"preferences": 20, "preferences_sha256": "a" * 64, "questions_sha256": {text: "b" * 64}},
        "environment": {"cpu": text, "libraries": {"torch": "2.13.0"}, "source": {"commit": "c0ffee", "changed": True}, "gpus": []},
        "segments": [],
    }
    files.write_json(folder / "manifest.json", manifest)
    lines = [
        {
            "iteration": t,
            "step": step,
            "loss": 1 / step,
            "margin": 0.01 * step,
            "accuracy": 0.5,
            "critic_gap": -0.1,
            "rho_chosen": 0.2,
        }
        for t in (0, 1, 2)
        for step in range(1, STEPS + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    iterates = []
    for t in range(3):
        names = (("gold", "reward"), ("average", "mean"), (text, text))
        scores = [
            {
                "task": task,
                "metric": metric,
                "value": 0.5 + 0.1 * t + 0.01 * seed,
                "stderr": 0.02,
                "n": 100,
                "note": text,
                "version": "",
            }
            for task, metric in names
        ]
        files.write_json(folder / f"iteration-{t}" / "scores.json", scores)
        files.write_json(folder / f"iteration-{t}" / "samples.json", [f"said {t} {i} {text}" for i in range(12)])
        iterates.append({"iteration": t, "weights_sha256": "w" * 64, "scores": scores})
        if t:
            tokens = [[1, 2]] * 20
            texts = {name: [f"{name} {i} {text}" for i in range(20)] for name in ("prompt", "chosen", "rejected", "selfplay")}
            data = PreferenceDataset(tokens, dict.fromkeys(dataset.RESPONSES, tokens), {"chosen": torch.zeros(20)})
            dataset.write(folder / f"iteration-{t}" / "selfplay.parquet", data, texts)
            if method == "spac":
                files.write_json(
                    folder / f"iteration-{t}" / "audit.json", audit(text, rendering=0.45 if seed == 2 else 0.0).as_json()
                )
    files.write_json(folder / "timing.json", [{"iteration": 0, "stage": "start", "seconds": 1.0, "peak_memory_bytes": 10**9}])
    if complete:
        identity = {
            "schema": 1,
            "recipe": "tiny",
            "method": method,
            "seed": seed,
            "settings_sha256": run.settings_sha256,
            "harness": "",
        }
        files.write_json(
            folder / "results.json", {**identity, "complete": True, "weights_sha256": "w" * 64, "iterations": iterates}
        )
    return folder


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    report.write_report([make(folder / "run")], folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    for method in ("spac", "dpo"):
        for seed in range(3):
            make(folder / "runs" / method / f"seed-{seed}", seed=seed, method=method, text="plain")
    make(folder / "runs" / "spac" / "seed-9", seed=9, text="plain", complete=False)
    report.write_report([folder / "runs"], folder / "report.html")
    return folder / "report.html"


# What is in it


def test_text_from_outside_is_escaped_everywhere(page: Path) -> None:
    text = page.read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert html.escape(EVIL, quote=False).replace('"', "&#34;").replace("'", "&#39;") in text


def test_nothing_is_fetched_and_nothing_can_be(page: Path) -> None:
    text = page.read_text()
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy.split("; ")[0] == "default-src 'none'"
    assert "http" not in policy
    assert "script-src" not in policy
    assert not re.findall(r'\b(?:src|href)="(?!#)[^"]*"', text)
    assert "url(" not in re.sub(r"url\(#f\d+-[\w-]+\)", "", text)
    assert len(text.encode()) < 3_000_000


def test_ids_are_unique(sweep: Path) -> None:
    ids = re.findall(r'\bid="([^"]+)"', sweep.read_text())
    assert len(ids) == len(set(ids))


def test_the_audit_of_data_and_self_play_is_shown(page: Path, sweep: Path) -> None:
    text = page.read_text()
    assert "0.900 ± 0.010" in text
    assert "+0.000 (p = 1)" in text
    assert "12.5% are non-canonical" in text
    assert "rendered differently" not in text
    # A run whose data are rendered otherwise is named at the top, wherever it is in the report.
    banner = sweep.read_text().split('<section id="verdict"')[0]
    assert banner.count("⚠ Data and self-play are rendered differently") == 2
    for t in (1, 2):
        said = f"tiny · spac · seed 2, iteration {t}: rendering alone tells self-play from chosen: of the first token"
        assert said in html.unescape(banner)


def test_a_model_card_shows_the_audit() -> None:
    run = recipes.load("tiny")
    card = model_card(run, 1, audit=audit("x", rendering=0.45))
    assert "| chosen | first token | 0.900 ± 0.010 | +0.450 (p = 1e-09) |" in card
    assert "**Warning**: rendering alone tells self-play from chosen" in card
    assert "Warning" not in model_card(run, 1, audit=audit("x", rendering=0.0))
    assert "Data and self-play" not in model_card(run, 1)


def test_the_verdict_is_first_and_the_rest_follows(page: Path) -> None:
    heads = re.findall(r"<h2[^>]*>([^<]+)</h2>", page.read_text())
    expected = [
        "Verdict",
        "Scores",
        "Curves",
        "Data and self-play",
        "Responses",
        "Settings and their provenance",
        "Inputs and environment",
    ]
    assert heads == [*expected, "How to repeat it", "Glossary"]


def test_every_word_that_a_table_links_is_defined_at_the_foot(page: Path) -> None:
    text = page.read_text()
    linked = set(re.findall(r'<a class="term" href="#(term-[\w-]+)" title="[^"]+">', text))
    assert {"term-task", "term-metric", "term-items", "term-iteration", "term-note", "term-reward", "term-mean"} <= linked
    assert linked <= set(re.findall(r'<dt id="(term-[\w-]+)">', text))


def test_responses_of_every_iterate_and_of_the_data_to_twelve_prompts(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall(r"<h3>Prompt \d+</h3>", text)) == 12
    assert re.findall(r"<dt>([^<]+)</dt>", text)[:5] == ["chosen", "rejected", "start", "iterate 1", "iterate 2"]


def test_a_sweep_has_means_over_seeds_and_counts_unfinished_runs(sweep: Path) -> None:
    text = sweep.read_text()
    assert "Mean ± standard deviation over 3 seeds (0, 1, 2)" in text
    assert "0.510 ± 0.010" in text
    assert "1 of the runs shown are not complete" in text


def test_labels_name_the_settings_in_which_runs_of_one_method_differ(tmp_path: Path) -> None:
    run = make(tmp_path / "a", text="")
    other = make(tmp_path / "b", text="")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["settings"]["methods"]["spac"]["preference_weight"] = 10.0
    manifest["settings_sha256"] = "other"
    files.write_json(other / "manifest.json", manifest)
    groups = group_by_settings([RunView(RunFolder(run)), RunView(RunFolder(other))])
    assert [group.label for group in groups] == ["spac (preference_weight 3.0)", "spac (preference_weight 10.0)"]


def test_the_command_repeats_the_settings_given(tmp_path: Path) -> None:
    manifest = RunFolder(make(tmp_path / "run", text="")).manifest
    command = "spac-repro train --recipe tiny --method spac --seed 0 --set training.epochs_per_iteration=1"
    assert train_command(manifest) == command
    assert train_command(manifest, seed="N") == command.replace("--seed 0", "--seed N")


def test_every_setting_is_there_with_its_provenance(page: Path) -> None:
    text = page.read_text()
    for key in recipes.leaf_keys(recipes.load("tiny").recipe.model_dump(include={"training", "data", "selfplay"})):
        assert f"<code>{key}</code>" in text
    assert re.search(r"<code>methods\.spac\.preference_weight</code></td><td class=\"long\">3\.0</td><td>tested</td>", text)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        report.write_report([tmp_path], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_run_that_has_just_started_has_a_report(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    for path in run.iterdir():
        if path.name != "manifest.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert report.write_report([run], tmp_path / "r.html") > 0
    assert "no run of it is complete" in (tmp_path / "r.html").read_text()


def test_equal_runs_have_equal_reports(page: Path, tmp_path: Path) -> None:
    report.write_report([make(tmp_path / "run")], tmp_path / "r.html")
    assert (tmp_path / "r.html").read_bytes() == page.read_bytes()


# In a real browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as the system has it; installed where that is allowed."""
    from playwright.sync_api import sync_playwright

    try:
        needs.install("browser")
    except needs.NotHereError as reason:
        pytest.skip(str(reason))
    with sync_playwright() as play:
        # As root, Chromium starts only without its own sandbox; the pages are this test's own.
        chromium = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visit(browser: Any, path: Path, width: int = 1280) -> tuple[Any, list[str]]:
    """The page, and whatever it said, asked for or tried to show."""
    shown = browser.new_page(viewport={"width": width, "height": 800})
    said: list[str] = []
    shown.on("console", lambda message: said.append(f"console: {message.text}"))
    shown.on("pageerror", lambda error: said.append(f"error: {error}"))
    shown.on("dialog", lambda dialog: (said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    shown.on("request", lambda request: said.append(f"request: {request.url}") if request.url != path.as_uri() else None)
    shown.goto(path.as_uri())
    return shown, said


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("which", ["page", "sweep"])
def test_no_error_no_request_and_no_sideways_scrolling(
    browser: Any, which: str, width: int, request: pytest.FixtureRequest
) -> None:
    shown, said = visit(browser, request.getfixturevalue(which), width)
    assert said == []
    assert shown.title() != "taken"
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    smallest = shown.evaluate(
        "Math.min(...[...document.querySelectorAll('svg text')].map(text => text.getBoundingClientRect().height))"
    )
    assert smallest >= 9, "the figures' labels can be read"
    shown.close()


@pytest.mark.browser
def test_a_hostile_prompt_is_shown_as_text(browser: Any, page: Path) -> None:
    shown, said = visit(browser, page)
    assert EVIL in shown.locator("#responses .card").first.inner_text()
    assert shown.evaluate("document.querySelectorAll('script, img, iframe, object, embed').length") == 0
    assert said == []
    shown.close()


@pytest.mark.browser
def test_the_policy_of_the_page_stops_a_script_that_gets_in(browser: Any, page: Path, tmp_path: Path) -> None:
    """The page's second line of defence, tried with the first one down."""
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("<main>", "<main><script>document.title='taken'</script>"))
    shown, said = visit(browser, broken)
    assert shown.title() != "taken"
    assert any("Content Security Policy" in line for line in said)
    shown.close()


@pytest.mark.browser
@pytest.mark.parametrize("which", ["page", "sweep"])
def test_accessibility_rules_hold(browser: Any, which: str, request: pytest.FixtureRequest) -> None:
    """Contrast, names, headings, tables and keyboard reach of scrolling parts, by axe-core's WCAG A and AA rules."""
    from axe_core_python.sync_playwright import Axe

    shown, _ = visit(browser, request.getfixturevalue(which))
    found = Axe().run(shown, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]})
    assert [(rule["id"], rule["nodes"][0]["html"][:200]) for rule in found["violations"]] == []
    shown.close()


@pytest.mark.browser
def test_the_keyboard_reaches_every_part_and_shows_where_it_is(browser: Any, page: Path) -> None:
    shown, _ = visit(browser, page, 360)
    where = """element => element === document.body ? null : [
        element.tagName,
        element.getAttribute('href') || element.getAttribute('aria-label') || element.textContent.trim(),
        getComputedStyle(element).outlineStyle,
    ]"""
    reached = []
    for _ in range(200):
        shown.keyboard.press("Tab")
        if (focus := shown.evaluate(f"({where})(document.activeElement)")) is None:
            break
        reached.append(focus)
    links = [name for tag, name, _ in reached if tag == "A"]
    parts = ("verdict", "scores", "curves", "audit", "responses", "settings", "environment", "repeat", "glossary")
    assert [link for link in links if not link.startswith("#term-")] == [f"#{part}" for part in parts]
    assert {"Scores of spac", "Recorded inputs and environment", "Commands"} <= {name for _, name, _ in reached}
    assert all(outline != "none" for _, _, outline in reached)
    shown.close()


@pytest.mark.browser
def test_it_prints(browser: Any, page: Path) -> None:
    shown, _ = visit(browser, page)
    shown.emulate_media(media="print")
    assert not shown.locator("nav").is_visible()
    assert shown.pdf(format="A4").startswith(b"%PDF")
    shown.close()


@pytest.mark.browser
def test_the_picture_of_readme_is_the_top_of_a_report(browser: Any, tmp_path: Path) -> None:
    run, picture = make(tmp_path / "run"), tmp_path / "report.png"
    script = Path(__file__).parents[2] / "experiments" / "picture.py"
    done = subprocess.run([sys.executable, script, run, picture], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(picture) as image:
        assert (image.format, image.width) == ("PNG", 1000)
        assert image.height > 500
