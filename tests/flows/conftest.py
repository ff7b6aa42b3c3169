"""One Prefect test server for all flow tests."""

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server():
    """Run flows against a server of their own, with its own database and result storage.

    It takes ten seconds to start: only what runs a flow or asks an API wants it.
    """
    with prefect_test_harness(server_startup_timeout=120):
        yield
