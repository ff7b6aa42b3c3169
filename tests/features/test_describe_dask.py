"""Dask's workers describe as this process does: the same blocks, byte by byte."""

import shutil

import pytest

from tests.feature_models import save_model
from tests.parallel.test_compute import files_below
from usam_core.config.project import load_project
from usam_core.steps import blocks, run_step
from usam_core.steps.embed import open_store
from usam_core.store.reader import block_id

MODEL = "dinov2"


def described(file, folder, workers):
    """Describe a copy of a project; return its block's files by path."""
    shutil.copytree(file.parent, folder)
    save_model(folder / "models" / MODEL, MODEL)
    project = load_project(
        folder / file.name,
        features={"d": {"model": f"models/{MODEL}", "image_size": 64}},
        compute={"workers": workers, "threads": 1},
    )
    result = run_step("describe", project)
    assert result.summary["described"] == result.summary["images"] > 0
    block = block_id(blocks.block_specs(project)["d"])
    found = files_below(open_store(project).path)
    return {name: data for name, data in found.items() if f"/features/{block}/" in name}


@pytest.mark.slow
def test_two_workers_write_the_blocks_that_one_process_writes(
    finished_project, tmp_path, monkeypatch
):
    alone = described(finished_project, tmp_path / "alone", 0)
    assert len({name.split("/features/")[0] for name in alone}) > 2, "several shards"

    def here(*_):
        raise AssertionError("described in this process")

    monkeypatch.setattr(blocks, "open_encoder", here)
    dask = described(finished_project, tmp_path / "dask", 2)
    assert dask.keys() == alone.keys()
    assert [name for name in alone if dask[name] != alone[name]] == []
