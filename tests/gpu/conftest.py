"""What the tests on a GPU share. They are skipped where there is none. bench/RESULTS.md says which have been run."""

import sys
from pathlib import Path

import pytest

for folder in ("e2e", "model"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))


@pytest.hookimpl(tryfirst=True)  # before tests/conftest.py looks at markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session", autouse=True)
def _gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")


@pytest.fixture
def deterministic():
    """Deterministic algorithms, as in a run."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
