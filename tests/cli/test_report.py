"""`report`."""


def test_what_is_no_run_cannot_be_reported(refused, tmp_path):
    (tmp_path / "a").mkdir()
    assert "a: no run folder, and none below it" in refused("report", "a")
