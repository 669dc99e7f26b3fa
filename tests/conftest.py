"""What the tests share: where the public data for the tests that use real questions and pairs is, if it is here at all."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real leaderboard questions and real preference pairs (SPAC_REPRO_SHARED, default beside the checkout)."""
    folder = Path(os.environ.get("SPAC_REPRO_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (folder / "leaderboard").is_dir():
        pytest.skip(f"real leaderboard questions and preference pairs are not at {folder} (set SPAC_REPRO_SHARED)")
    return folder
