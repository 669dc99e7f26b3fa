"""`doctor` where no cluster is needed: what is left of a quota."""

from pathlib import Path

import pytest

from spac_repro import doctor

# What `quota -w -p -f FOLDER` prints: kilobytes used, soft and hard limit, then the same of files.
HEAD = """Disk quotas for user me (uid 1000):
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
"""


@pytest.mark.parametrize(
    ("said", "verdict", "found"),
    [
        (HEAD + "      nfs:/home 1000000 3000000 4000000       0       5       0       0       0", "ok", "2 GB left"),
        (
            HEAD + "      nfs:/home 2500000 3000000 4000000       0       5       0       0       0",
            "unfit",
            "0.5 GB left, 1.0 GB needed",
        ),
        (HEAD + "     nfs:/home 3500000* 3000000 4000000  604800       5       0       0       0", "unfit", "0.0 GB left"),
        (HEAD + "      nfs:/home 2500000       0 9000000       0       5       0       0       0", "ok", "7 GB left"),
        (HEAD + "      nfs:/home 2500000       0       0       0       5       0       0       0", "ok", "no limit"),
        ("Disk quotas for user me (uid 1000): none", "note", "no limit is reported"),
    ],
)
def test_what_is_left_of_a_quota_must_hold_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, verdict: str, found: str
) -> None:
    """The command is a stand-in: few kernels of test machines count quotas."""
    command = tmp_path / "bin" / "quota"
    command.parent.mkdir()
    command.write_text(f"#!/bin/sh\n[ \"$*\" = '-w -p -f {tmp_path}' ] && echo '{said}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:/usr/bin:/bin")
    checks = {check.what: check for check in doctor.run_checks(None, tmp_path, runs=10, bytes_per_run=10**8)}
    assert checks["quota"].verdict == verdict
    assert found in checks["quota"].found


def test_without_the_command_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = {check.what: check for check in doctor.run_checks(None, tmp_path)}
    assert checks["quota"].verdict == "note"
    assert checks["locks"].verdict == "ok"
