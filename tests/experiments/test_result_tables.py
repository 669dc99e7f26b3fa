"""Tables and figures of the documents: they are what the records give, and a changed digit is found."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from spac_repro.errors import UserError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))
sys.path.insert(0, str(Path(__file__).parent))

import invented_records
import records
import result_tables

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(page for page in DOCS.glob("*.md") if page.name.startswith("results") or "<!-- table " in page.read_text())


@pytest.fixture
def name(tmp_path: Path) -> str:
    return str(records.write(invented_records.invented(), tmp_path))


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_every_table_and_figure_of_the_documents_is_what_the_records_give(page: Path) -> None:
    assert result_tables.differences(page) == []


def test_some_table_is_made_of_records() -> None:
    assert any(result_tables.TABLE.search(page.read_text()) for page in PAGES)


def test_a_page_is_completed_and_a_changed_digit_or_figure_is_found(tmp_path: Path, name: str) -> None:
    kinds = [
        *(f"<!-- table {kind} {name} -->\n{result_tables.END}" for kind in ("means", "rivals", "tuning", "returned")),
        f"<!-- table ablation {name} groups=preference_weight.* -->\n{result_tables.END}",
        f"<!-- figure {name} file=curves.svg methods=spac,sft -->",
    ]
    page = tmp_path / "page.md"
    page.write_text("\n\n".join(["# Results", *kinds, "The end."]))
    assert len(result_tables.differences(page)) == len(kinds)
    page.write_text(result_tables.made(page.read_text()))
    (tmp_path / "curves.svg").write_bytes(result_tables.figures(page.read_text())["curves.svg"])
    assert result_tables.differences(page) == []
    complete = page.read_text()
    assert complete.startswith("# Results")
    assert complete.endswith("The end.")
    place = complete.index("±") + 4
    page.write_text(complete[:place] + ("1" if complete[place] != "1" else "2") + complete[place + 1 :])
    assert len(result_tables.differences(page)) == 1
    page.write_text(complete)
    picture = (tmp_path / "curves.svg").read_text()
    (tmp_path / "curves.svg").write_text(picture.replace("L ", "L 1", 1))
    assert result_tables.differences(page) == [f"{tmp_path / 'curves.svg'}: the figure is not what the records give"]


def test_paired_differences_are_students_and_corrected_for_the_number_of_rivals(name: str) -> None:
    made = invented_records.invented()

    def last(method: str, seeds: range) -> np.ndarray:
        return np.array([made.value(method, seed, "2", "gold", "reward") for seed in seeds])

    pairs = {
        method: (last("spac", seeds), last(method, seeds)) for method, seeds in invented_records.SEEDS.items() if method != "spac"
    }
    found = {method: stats.ttest_rel(ours, theirs) for method, (ours, theirs) in pairs.items()}
    smaller = min(result.pvalue for result in found.values())
    lines = {line[0]: line for line in result_tables.rivals(name, {}) if line[1] == "last"}
    for method, result in found.items():
        low, high = result.confidence_interval(1 - result_tables.LEVEL / 2)
        mean = np.mean(pairs[method][0] - pairs[method][1])
        assert lines[method][4] == f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        assert lines[method][5] == f"{2 * result.pvalue if result.pvalue == smaller else max(result.pvalue, 2 * smaller):.4f}"
    assert [line[3] for line in lines.values()] == ["10", "5"]


def test_an_unknown_table_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="there is no such table; there are means, rivals"):
        result_tables.made(f"<!-- table medians {name} -->\n{result_tables.END}")


def test_the_theorems_mixture_has_the_start_and_not_the_last_iterate(name: str) -> None:
    made = invented_records.invented()
    rewards = [
        np.mean([made.value("spac", seed, str(t), "gold", "reward") for t in (0, 1)]) for seed in invented_records.SEEDS["spac"]
    ]
    lines = {(line[0], line[1]): line[2] for line in result_tables.returned(name, {})}
    assert lines["spac", result_tables.THEOREMS] == f"{np.mean(rewards):.3f} ± {np.std(rewards, ddof=1):.3f}"
