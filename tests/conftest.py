"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

# Before anything imports Prefect: no telemetry, no colour codes, no user settings in tests.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real photographs and microscopy, or skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the research data, absent here: {SHARED.name} beside the repository")
    return SHARED
