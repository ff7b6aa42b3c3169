"""Fixtures that several tests of the core share."""

import shutil
from pathlib import Path

import pytest

from tests.core import described
from usam_core.sam import embedder
from usam_core.sources.web import session
from usam_core.stages import blocks


@pytest.fixture
def project_file(finished_project, tmp_path) -> Path:
    """Return the project file of a finished project that a test may change."""
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project.yaml"


@pytest.fixture
def root(project_file) -> Path:
    """Return the folder of such a project: it has moved, in other words."""
    return project_file.parent


@pytest.fixture
def cheap_encoder(monkeypatch):
    """Put the cheap encoder in the place of those of `transformers`."""
    monkeypatch.setattr(blocks, "encoder_spec", described.encoder_spec)
    monkeypatch.setattr(blocks, "open_encoder", described.open_encoder)
    described.calls.clear()


@pytest.fixture
def no_sam(monkeypatch):
    """Let a test fail that runs SAM, by the method that the pipeline calls."""

    def called(*_):
        raise AssertionError("SAM was run")

    monkeypatch.setattr(embedder.SamEmbedder, "submit", called)


@pytest.fixture
def short_waits(monkeypatch):
    """Let a web session try again almost at once."""
    monkeypatch.setattr(session, "FIRST_WAIT", 0.05)
