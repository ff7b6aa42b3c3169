"""One Prefect test server for all flow tests."""

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session", autouse=True)
def prefect_server():
    """Run flows against a server of their own, with its own database and result storage."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
