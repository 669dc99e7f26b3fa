"""What groups differ by that report the same published score, and what a row can claim: `python experiments/between_groups.py`.

The tables of docs/decisions/16-between-groups.md, from the rows and observations of expected_results/zephyr-7b.yaml. In points
(hundredths).
"""

from collections.abc import Iterator

from spac_repro.trust.expected import START, ExpectedResults, ExpectedRow, expected_path, load_expected
from spac_repro.trust.statistics import smallest_detectable, tolerance


def start_rows(expected: ExpectedResults) -> Iterator[tuple[str, ...]]:
    """For each task: the start's value, the spread between groups, its degrees of freedom, tolerance, detectable deviation."""
    for row in _rows(expected, START):
        spread, value = expected.group_spread(row.task), row.value
        assert spread is not None
        assert value is not None
        detectable = smallest_detectable(row, 1, expected.alpha)
        assert detectable is not None
        numbers = (value, spread.sd), (tolerance(row, [value], expected.alpha), detectable)
        shown = [[f"{100 * number:.2f}" for number in pair] for pair in numbers]
        yield row.task, *shown[0], str(spread.degrees_of_freedom), *shown[1]


def method_rows(expected: ExpectedResults) -> Iterator[tuple[str, ...]]:
    """For each average of a trained method: its value, gain, tolerance, and the averages of groups that trained on their own."""
    (start,) = (row.value for row in _rows(expected, START) if row.task == "average")
    assert start is not None
    for row in expected.rows:
        if row.task != "average" or row.method == START or row.value is None:
            continue
        own = [
            observed.scores["average"]
            for observed in expected.observations
            if (observed.method, observed.iteration, observed.weights) == (row.method, row.iteration, "own")
        ]
        numbers = (row.value, row.value - start, tolerance(row, [row.value], expected.alpha))
        repeated = ", ".join(f"{100 * value:.2f}" for value in own)
        yield f"{row.method} {row.iteration}", *(f"{100 * number:.2f}" for number in numbers), repeated


def _rows(expected: ExpectedResults, method: str) -> Iterator[ExpectedRow]:
    return (row for row in expected.rows if row.method == method)


def main() -> None:
    """Print both tables."""
    expected = load_expected(expected_path("zephyr-7b"))
    for title, rows in (
        (("start", "value", "s", "df", "tolerance", "detectable"), start_rows(expected)),
        (("average", "value", "gain", "tolerance", "own training"), method_rows(expected)),
    ):
        print(f"| {' | '.join(title)} |\n|{' --- |' * len(title)}")
        for row in rows:
            print(f"| {' | '.join(row)} |".replace("|  |", "| |"))


if __name__ == "__main__":
    main()
