"""What is tested here is SAM itself."""

import pytest

from usam_core.sam import embedder


@pytest.fixture(scope="module", autouse=True)
def _no_memory(_sam_remembers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedder.SamEmbedder, "submit", _sam_remembers)
        yield
