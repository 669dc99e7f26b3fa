import functools
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab
import needs
from cluster import Cluster


@pytest.hookimpl(tryfirst=True)  # before tests/conftest.py looks at markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a test fails, what Slurm says of its jobs and nodes at that moment."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.when == "call" and report.failed and cluster is not None:
        report.sections.append(("Slurm", cluster.state()))
    return report


@pytest.fixture(scope="session")
def programs() -> None:
    """Slurm's programs, or a skip that says why not."""
    try:
        needs.install("slurm")
    except needs.NotHereError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def cluster(programs: None) -> Iterator[Cluster]:
    """A cluster of four nodes with accounting."""
    yield from bring_up(Cluster(port=20000 + os.getpid() % 10000))


@pytest.fixture
def without_accounts(programs: None) -> Iterator[Cluster]:
    """A cluster that keeps no accounts, and whose largest array holds a few jobs."""
    yield from bring_up(Cluster(port=30000 + os.getpid() % 10000, accounting=False, largest_array=4))


def bring_up(cluster: Cluster) -> Iterator[Cluster]:
    try:
        cluster.up()
        yield cluster
    except needs.NotHereError as reason:
        pytest.skip(str(reason))
    finally:
        cluster.down()


@pytest.fixture
def sweep(tmp_path: Path) -> lab.Sweep:
    """A sweep to be written, submitted and watched."""
    return lab.Sweep(tmp_path)


@pytest.fixture(scope="session")
def direct(tmp_path_factory: pytest.TempPathFactory) -> lab.Direct:
    """A seed's run folders by method, as `train` makes them directly; each is trained once a session."""
    return functools.partial(lab.direct, tmp_path_factory.mktemp("direct"))
