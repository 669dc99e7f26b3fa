"""Make expected_results/theory.yaml from a finished run of the tabular experiments.

    spac-repro theory --first-seed 1 --out runs/theory-rows
    python experiments/theory.py runs/theory-rows --write expected_results/theory.yaml

The run needs every experiment, at full size and on the same seeds. A value with an effect (the deviation that it must be able to
detect) becomes a primary row. The others are for information. Run both commands on one machine and at one commit: the rows name
this machine and this commit as their source.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

from spac_repro.errors import UserError
from spac_repro.runs import environment, numerics
from spac_repro.runs.verdict import ScoreKey
from spac_repro.theory.runner import EXPERIMENTS
from spac_repro.trust.expected import ArguedValue, ExpectedResults, ExpectedRow, measured_rows

# Of 500 fresh seeds, where it is above 2: python experiments/false_alarm_rates.py --theory 500
SKEWNESS = {
    ("coverage", "suboptimality 200 poor, 0.5 of μ, n=300"): ArguedValue(
        value=4.6, argument="of 500 fresh seeds, experiments/false_alarm_rates.py"
    )
}
ROUNDING = 1e-6  # another machine's rounding moves a slope or a share of 1e-3 in the last digits only


def main() -> None:
    """Write the expected results of a finished run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="Folder that `spac-repro theory` wrote.")
    parser.add_argument("--write", type=Path, required=True, help="The expected_results file to write.")
    arguments = parser.parse_args()
    try:
        content = expected(finished(arguments.run)).as_yaml()
    except UserError as error:
        parser.error(str(error))
    arguments.write.write_text(content)


def finished(run: Path) -> list[dict[str, Any]]:
    """The data of every experiment of a run, in order.

    Raises:
        UserError: an experiment is missing, was cut short with --quick, or has other seeds than the first.
    """
    results: list[dict[str, Any]] = []
    for name in EXPERIMENTS:
        path = run / f"{name}.json"
        if not path.is_file():
            raise UserError(f"{path}: no such file; run `spac-repro theory --first-seed 1 --out {run}` to the end")
        result = json.loads(path.read_text())
        if result["quick"]:
            raise UserError(f"{path}: is of a run with --quick; rows are made of full runs")
        if results and result["seeds"] != results[0]["seeds"]:
            raise UserError(f"{path}: has other seeds than {results[0]['name']}; rows are made of one run")
        results.append(result)
    return results


def expected(results: list[dict[str, Any]]) -> ExpectedResults:
    """The content of the file: the rows, with this machine and commit as their source.

    Raises:
        UserError: the package is not in a git checkout.
    """
    source = environment.source_revision()
    if source is None:
        raise UserError("this package is not in a git checkout, so the rows cannot name their commit; run from a checkout")
    origin = {
        "kind": "measured",
        "commit": source["commit"] + ("+changed" if source["changed"] else ""),
        "lock_sha256": environment.lock_status()["sha256"],
        "hardware": numerics.hardware(environment.describe()),
        "date": date.today().isoformat(),
        "seeds": results[0]["seeds"],
        "command": "spac-repro theory --first-seed 1",
    }
    return ExpectedResults.model_validate({"recipe": "theory", "alpha": 0.01, "sources": {"ours": origin}, "rows": rows(results)})


def rows(results: list[dict[str, Any]]) -> list[ExpectedRow]:
    """One row for each value that an experiment measured."""
    made: list[ExpectedRow] = []
    for measured in (row for result in results for row in result["measured"]):
        key, effect = ScoreKey(measured["method"], measured["task"], measured["metric"]), measured["effect"]
        primary, extra = (set(), {}) if effect is None else ({key}, {"effect": effect, "skewness": SKEWNESS.get(key[1:3])})
        made += measured_rows({key: measured["values"]}, "ours", primary=primary.__contains__, rounding=ROUNDING, **extra)
    return made


if __name__ == "__main__":
    main()
