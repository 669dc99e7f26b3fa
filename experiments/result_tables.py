"""Make the tables and figures of a page of docs/ from records of runs, or check that they are what the records give.

    python experiments/result_tables.py docs/results.md
    python experiments/result_tables.py docs/results.md --check

A table stands between two comments, and a figure is named by one. The words after its kind are the function that makes it, the
records that it is made of (experiments/records/), and options:

    <!-- table means tiny-seeds scores=gold/reward,heldout/margin -->
    …
    <!-- end of table -->
    <!-- figure tiny-seeds file=figures/tiny-seeds.svg methods=spac,dpo -->

`means expected:tiny` makes a table from expected_results/tiny.yaml, which has means and standard deviations.
"""

import argparse
import io
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import paired_records
import records
import verdict_tables
import worth_tables
from curves import best_iteration, last_iteration, plot_rewards, values

from spac_repro import methods
from spac_repro.errors import UserError
from spac_repro.runs import files
from spac_repro.trust import question_tables
from spac_repro.trust.crossed_effects import Estimate
from spac_repro.trust.expected import START, expected_path, load_expected
from spac_repro.trust.paired_tests import holm
from spac_repro.trust.run_scores import RunScores

Options = Mapping[str, str]
END = "<!-- end of table -->"
TABLE = re.compile(r"<!-- table (\w+) (\S+)((?: \S+=\S+)*) -->\n(.*?)" + END, re.DOTALL)
FIGURE = re.compile(r"<!-- figure (\S+) file=(\S+)((?: \S+=\S+)*) -->")
SCORES = "gold/reward,heldout/margin,gold/exact,heldout/accuracy,heldout/divergence,average/mean"
REWARD = "gold/reward"
LAST, THEOREMS = "last iterate", "mixture with the start, without the last"
RETURNED = (LAST, "mixture", "mixture with the start", THEOREMS, "average", "average with the start")
LEVEL = 0.05  # of the intervals and tests of one table, together


# Tables


def means(name: str, options: Options) -> list[list[str]]:
    """Mean ± standard deviation over seeds, by method and iterate."""
    scores = [tuple(score.split("/")) for score in options.get("scores", SCORES).split(",")]
    head = ["method", "iterate", "seeds", *("gold reward" if score == ("gold", "reward") else " ".join(score) for score in scores)]
    cells = _expected_cells(name.partition(":")[2]) if name.startswith("expected:") else _record_cells(name, options)
    lines: dict[tuple[str, int], list[str]] = {}
    for (method, iteration, task, metric), (mean, sd, seeds) in cells.items():
        line = lines.setdefault((method, iteration), [method, str(iteration), str(seeds), *("" for _ in scores)])
        if (task, metric) in scores:
            line[3 + scores.index((task, metric))] = f"{mean:.3f} ± {sd:.3f}"
    return [head, *lines.values()]


Cells = dict[tuple[str, int, str, str], tuple[float, float, int]]  # method, iterate, task, metric: mean, sd, seeds


def _expected_cells(recipe: str) -> Cells:
    rows = load_expected(expected_path(recipe)).rows
    return {(row.method, row.iteration or 0, row.task, row.metric): (row.value or 0, row.sd or 0, row.seeds or 0) for row in rows}


def _record_cells(name: str, options: Options) -> Cells:
    found: Cells = {}
    for method, runs in _runs(name, options).items():
        for iteration, scores in runs[0].scores.items():
            for score in scores:
                each = values(runs, score.task, score.metric, iteration)
                key = (START if iteration == 0 else method, iteration, score.task, score.metric)
                found.setdefault(key, (statistics.fmean(each), _sd(each), len(each)))
    return found


def rivals(name: str, options: Options) -> list[list[str]]:
    """Each method's score, and the base's less it, seed by seed, at the last iterate and at the one that held-out accuracy chooses.

    Intervals and p values are corrected for the number of rivals of a choice: intervals by Bonferroni's, p values by Holm's method.
    """
    base, score = options.get("base", "spac"), options.get("score", REWARD)
    ours = _runs(name, {})[base]
    groups = options.get("groups", "").split(",")
    others = {
        f"{group} {method}".strip(): runs
        for group in groups
        for method, runs in _runs(name, {**options, "group": group}).items()
        if group or method != base
    }
    label = score.replace("/", " ")
    lines = [["method", "iterate", label, "seeds", f"{base} − it, {1 - LEVEL:.0%} interval", "p (Holm)", f"{base} is ahead"]]
    for which, choose in (("last", last_iteration), ("best by held-out accuracy", best_iteration)):
        estimates, rows = [], []
        for other, runs in others.items():
            differences = _differences(ours, runs, score, choose)
            estimate = _estimate(differences)
            estimates.append(estimate)
            own = [_value(run, score, choose(run)) for run in runs]
            ahead = f"{sum(each > 0 for each in differences)} of {len(differences)}"
            rows.append([other, which, f"{statistics.fmean(own):.3f} ± {_sd(own):.3f}", str(len(differences)), ahead])
        found = [estimate.p() for estimate in estimates]
        corrected = holm([1.0 if p is None else p.value for p in found])
        for row, estimate, p in zip(rows, estimates, corrected, strict=True):
            lines.append([*row[:4], _interval(estimate, LEVEL / len(rows)), f"{p:.4f}", row[4]])
    return lines


def ablation(name: str, options: Options) -> list[list[str]]:
    """Each group's score by iterate, the last one's spread and divergence, and its paired difference to the base group."""
    method, score = options.get("method", "spac"), options.get("score", REWARD)
    base = _runs(name, {"group": options.get("base", "")})[method]
    chosen = [group for group in records.read(name).groups() if re.fullmatch(options["groups"], group)]
    lines = [
        ["", "seeds", f"{score.replace('/', ' ')} at iterates 1, 2, …", "the last", "its divergence", "it − base, 95 % interval"]
    ]
    for group in chosen:
        runs = records.read(name).runs(group).get(method, [])
        if not runs:
            continue
        last = last_iteration(runs[0])
        curve = " ".join(f"{statistics.fmean(_value(run, score, t) for run in runs):.3f}" for t in runs[0].scores if t)
        final = [_value(run, score, last) for run in runs]
        divergence = statistics.fmean(values(runs, "heldout", "divergence", last))
        differences = [-each for each in _differences(base, runs, score, last_iteration)]
        shown = _interval(_estimate(differences), LEVEL) if any(differences) else "the same runs"
        lines.append(
            [group, str(len(runs)), curve, f"{statistics.fmean(final):.3f} ± {_sd(final):.3f}", f"{divergence:.2f}", shown]
        )
    return lines


def tuning(name: str, options: Options) -> list[list[str]]:
    """Every tuning point: its settings, the score of the start and of each iterate, and which point was chosen by the last one."""
    found, score = records.read(name), options.get("score", REWARD)
    lines = []
    for group in found.groups():
        for method, (run, *_) in found.runs(group).items():
            start, *later = [_value(run, score, t) for t in run.scores]
            lines.append((method, group, start, later))
    best = {method: max(later[-1] for m, group, _, later in lines if m == method and _plain(group)) for method, *_ in lines}
    order = {method: place for place, method in enumerate(methods.names())}
    return [
        ["method", "settings", "start", "iterates 1, 2, …", "chosen"],
        *(
            [
                method,
                group.replace("/", ", "),
                f"{start:.3f}",
                " ".join(f"{value:.3f}" for value in later),
                _tick(group, later, best[method]),
            ]
            for method, group, start, later in sorted(lines, key=lambda line: order[line[0]])
        ),
    ]


def _plain(group: str) -> bool:
    """Whether a tuning point is of the method itself, and not of a variant that is tuned apart."""
    return "reference_policy" not in group


def _tick(group: str, later: Sequence[float], best: float) -> str:
    return "✓" if _plain(group) and later[-1] == best else ""


def returned(name: str, options: Options) -> list[list[str]]:
    """What a run could return: each policy's gold reward, mean ± standard deviation, and its paired difference to the last iterate.

    The theorem's mixture is not recorded: the gold reward of a mixture is the mean of its members'.
    """
    found, score = records.read(name), REWARD
    task, metric = score.split("/")
    lines = [["method", "policy", score.replace("/", " "), "it − last iterate, 95 % interval"]]
    for method, runs in _runs(name, options).items():
        last = [_value(run, score, last_iteration(run)) for run in runs]
        for policy in RETURNED:
            if policy == LAST:
                own = last
            elif policy == THEOREMS:
                own = [statistics.fmean(_value(run, score, t) for t in range(last_iteration(run))) for run in runs]
            else:
                own = [found.value(method, run.seed or 0, policy, task, metric) for run in runs]
            differences = [a - b for a, b in zip(own, last, strict=True)]
            shown = _interval(_estimate(differences), LEVEL) if any(differences) else ""
            lines.append([method, policy, f"{statistics.fmean(own):.3f} ± {_sd(own):.3f}", shown])
    return lines


def paired(name: str, options: Options) -> list[list[str]]:
    """A comparison question by question, as `spac-repro compare` prints it."""
    about, scores = paired_records.read(name)
    wanted = options["metrics"].split(",") if "metrics" in options else None
    a, b = about["names"]
    head = ["score", "n", a, b, "gained", "lost", f"{b} − {a}", "95 % interval", "p", "p (Holm)", "detectable", "noise"]
    return [head, *(list(question_tables.cells(score)) for score in scores if wanted is None or score.metric in wanted)]


TABLES: dict[str, Callable[[str, Options], list[list[str]]]] = {
    function.__name__: function
    for function in (
        means,
        rivals,
        ablation,
        tuning,
        returned,
        paired,
        worth_tables.worth,
        verdict_tables.verdicts,
        verdict_tables.false_alarms,
        verdict_tables.power,
    )
}


def _runs(name: str, options: Options) -> dict[str, list[RunScores]]:
    """The runs of a group by method, in the order of the registry, and only of the methods that the options name."""
    runs = records.read(name).runs(options.get("group", ""))
    wanted = options["methods"].split(",") if "methods" in options else methods.names()
    return {method: runs[method] for method in wanted if method in runs}


def _value(run: RunScores, score: str, iteration: int) -> float:
    task, metric = score.split("/")
    (found,) = values([run], task, metric, iteration)
    return found


def _differences(
    base: Sequence[RunScores], runs: Sequence[RunScores], score: str, choose: Callable[[RunScores], int]
) -> list[float]:
    """The base's score less that of the run with the same seed, over the seeds that both have."""
    by_seed = {run.seed: run for run in base}
    pairs = [(by_seed[run.seed], run) for run in runs if run.seed in by_seed]
    return [_value(ours, score, choose(ours)) - _value(theirs, score, choose(theirs)) for ours, theirs in pairs]


def _estimate(differences: Sequence[float]) -> Estimate:
    """The mean of paired differences with its standard error; questions are the same for all runs, and do not enter."""
    n = len(differences)
    return Estimate(statistics.fmean(differences), _sd(differences) / n**0.5 if n > 1 else None, float(n - 1))


def _interval(estimate: Estimate, alpha: float) -> str:
    found = estimate.interval(alpha)
    return f"{estimate.difference:+.4f}" + (f" [{found[0]:+.4f}, {found[1]:+.4f}]" if found else "")


def _sd(values_of_seeds: Sequence[float]) -> float:
    return statistics.stdev(values_of_seeds) if len(values_of_seeds) > 1 else 0.0


# Pages


def made(page: str) -> str:
    """A page with every table made anew."""
    return TABLE.sub(_made_table, page)


def _made_table(match: re.Match[str]) -> str:
    function, name, words = match[1], match[2], match[3]
    if function not in TABLES:
        raise UserError(f"<!-- table {function} …: there is no such table; there are {', '.join(TABLES)}")
    head, *lines = TABLES[function](name, _options(words))
    text = "".join(f"| {' | '.join(line)} |\n" for line in (head, ["---"] * len(head), *lines)).replace("|  |", "| |")
    return f"<!-- table {function} {name}{words} -->\n\n{text}\n{END}"


def figures(page: str) -> dict[str, bytes]:
    """The figures of a page by their files."""
    return {match[2]: _drawn(_runs(match[1], _options(match[3]))) for match in FIGURE.finditer(page)}


def _drawn(groups: dict[str, list[RunScores]]) -> bytes:
    drawn = io.BytesIO()
    plot_rewards(groups, drawn)
    return drawn.getvalue()


def _options(words: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words.split())


def differences(page: Path) -> list[str]:
    """What of a page is not what the records give."""
    text = page.read_text(encoding="utf-8")
    found = [
        f"{page}: the table `{match[1]} {match[2]}{match[3]}` is not what the records give"
        for match in TABLE.finditer(text)
        if _made_table(match) != match[0]
    ]
    for name, content in figures(text).items():
        file = page.parent / name
        if not file.exists() or file.read_bytes() != content:
            found.append(f"{file}: the figure is not what the records give")
    return found


def main() -> None:
    """Write a page and its figures, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true", help="Change nothing; exit with 1 if something would change.")
    arguments = parser.parse_args()
    problems = []
    for page in arguments.pages:
        if arguments.check:
            problems += differences(page)
            continue
        text = page.read_text(encoding="utf-8")
        for name, content in figures(text).items():
            files.write_bytes(page.parent / name, content)
        files.write_bytes(page, made(text).encode())
    print("\n".join(problems), end="\n" if problems else "")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
