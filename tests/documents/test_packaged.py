"""Documents by name or by file."""

import pytest

from spac_repro.documents import packaged
from spac_repro.errors import UserError


def test_by_name_and_by_file(tmp_path):
    assert "local" in packaged.names("launchers/clusters")
    assert packaged.read("cluster", "launchers/clusters", "local").value["scheduler"] == "local"
    (tmp_path / "mine").write_text("a: 1")
    assert packaged.read("cluster", "launchers/clusters", str(tmp_path / "mine")).value == {"a": 1}


@pytest.mark.parametrize("name", ["", "lokal", "n" * 5000, "\0", "\ud800", "a\nb", ".", "/", "x/" * 3000])
def test_what_there_is_not_is_refused_in_one_line(name):
    with pytest.raises(UserError) as refused:
        packaged.read("cluster", "launchers/clusters", name)
    message = str(refused.value)
    assert message.startswith("unknown cluster '")
    assert ("(did you mean local?)" in message) == (name == "lokal")
    assert "the clusters are cpu, gpu-2x8, gpu-8, local, or give a cluster as a YAML file" in message
    assert message.isprintable()
    assert len(message) <= 300


@pytest.mark.parametrize("name", ["none.yaml", "\0.yaml", "n" * 5000 + ".yaml", "\ud800.yaml"])
def test_a_file_that_there_is_not(name):
    with pytest.raises(UserError) as refused:
        packaged.read("cluster", "launchers/clusters", name)
    assert ": no such file; name a file, or one of cpu" in str(refused.value) or ": cannot be read (" in str(refused.value)
    assert len(str(refused.value)) <= 300
