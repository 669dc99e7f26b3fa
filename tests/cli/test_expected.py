"""`expected import`."""

import re

from spac_repro.trust.expected import load_expected

COMMAND = ("expected", "import", "table.csv", "--recipe", "zephyr-7b", "--citation", "Somebody 2024", "-o", "out.yaml")


def test_the_example_of_the_help_can_be_put_in(invoke, tmp_path):
    shown = invoke("expected", "import", "--help").out
    table = "\n".join(re.findall(r"^ +((?:method|n|spac),.*)$", shown, re.MULTILINE))
    (tmp_path / "table.csv").write_text(table)
    done = invoke(*COMMAND, "--unit", "percent")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [
        "out.yaml: 14 rows added",
        "not in the table, so their untranscribed rows were removed: spac 3",
    ]
    assert load_expected(tmp_path / "out.yaml").sources["spac-paper"].citation == "Somebody 2024"
    again = invoke(*COMMAND, "--unit", "percent")
    assert (again.code, again.err) == (2, "spac-repro: out.yaml: exists; nothing is overwritten: name another file\n")


def test_the_unit_must_be_said(refused, tmp_path):
    assert "--unit" in refused(*COMMAND)
    assert "'parts' is not one of percent, share" in refused(*COMMAND, "--unit", "parts")
