import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import cut_down


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cut-down run that nothing disturbed."""
    out = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return cut_down.trained(out)
