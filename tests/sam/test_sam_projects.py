"""A project of its own SAM from end to end: a folder of SAM 2.1, and a hub on 127.0.0.1."""

import shutil

import pytest
import yaml

from tests.conftest import change, write_tiny_project
from tests.hub_site import COMMIT, answers, hub
from tests.sam_models import save_sam
from usam_core.config.project import check_extras, load_project
from usam_core.errors import ConfigError, MissingExtraError, MissingStepError
from usam_core.lineage.chain import read_chain
from usam_core.steps import STEPS, run_step
from usam_core.steps.embed import open_store
from usam_core.steps.label_images import head_path
from usam_core.steps.lineage_checks import check_chain

TINY = {"model": "sam2.1_tiny", "checkpoint": "tiny-sam2", "points_per_side": 3}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project of a tiny SAM 2.1 in a folder, run to its end."""
    folder = tmp_path_factory.mktemp("sam2")
    save_sam(folder / "tiny-sam2", "sam2")
    file = write_tiny_project(folder)
    project = change(file, sam=TINY)
    for step in STEPS:
        run_step(step, project)
    return file


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished.parent, tmp_path / "copy")
    return tmp_path / "copy" / finished.name


def read_one(project):
    store = open_store(project)
    index = store.index(refresh=True)
    return store.read(index.loc[index["status"] == "ok", "sha256"].iloc[0])


def test_a_project_runs_from_pictures_to_labels_and_repeats_nothing(copy, no_sam):
    project = load_project(copy)
    assert open_store(project).path.name.startswith("sam2.1_tiny-")
    masks = read_one(project)
    assert masks.tokens.shape == (9, 1024)
    assert masks.packed_masks.shape == (9, 4, 64, 8)
    assert run_step("annotate", project).summary["images"] == 4
    assert [step for step in STEPS if not run_step(step, project).reused] == []


def test_the_papers_head_reads_its_tokens(copy):
    values = yaml.safe_load(copy.read_text())
    kept = ("name", "classes", "images", "training", "outputs", "gate", "evaluation")
    sam = {**TINY, "points_per_side": 10}
    values = {key: values[key] for key in kept} | {"recipe": "papers", "sam": sam}
    copy.write_text(yaml.safe_dump(values))
    project = load_project(copy)
    for step in ("collect", "embed", "fit", "annotate"):
        result = run_step(step, project)
    assert result.summary["images"] == 4


def test_another_sam_has_another_store(copy):
    save_sam(copy.parent / "other", "sam2", seed=9)
    project = change(copy, sam={"checkpoint": "other"})
    with pytest.raises(MissingStepError, match="no embeddings of this SAM yet"):
        open_store(project)


def test_a_folder_that_changed_breaks_the_chain_and_one_that_did_not_holds(copy):
    project = load_project(copy)

    def broken():
        chain = read_chain(head_path(project))
        return [one.name for one in check_chain(chain) if one.verdict == "broken"]

    assert broken() == []
    save_sam(copy.parent / "tiny-sam2", "sam2", seed=9)
    assert "checkpoint" in broken()


def test_a_file_where_a_folder_belongs_is_refused_before_any_work(copy):
    (copy.parent / "sam.pth").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"sam\.checkpoint: got 'sam.pth'; expected a folder"):
        change(copy, sam={"checkpoint": "sam.pth"})


def test_the_missing_extra_is_named_before_any_work(copy, monkeypatch):
    monkeypatch.setattr("usam_core.errors.lacking", lambda extra: ["transformers"])
    with pytest.raises(MissingExtraError, match=r"sam.model: sam2.1_tiny needs transformers"):
        check_extras(load_project(copy))


_SCRIPT = """
import json, sys
from pathlib import Path
from usam_core.config.project import load_project
from usam_core.errors import UsamError
from usam_core.sam.load import encoder_spec
from usam_core.steps import run_step

project = load_project(sys.argv[1])
try:
    if sys.argv[2] == "spec":
        print(json.dumps(encoder_spec(project.config.sam, project.checkpoint)))
    else:
        for step in ("collect", "embed", "compose", "fit", "calibrate", "annotate"):
            done = run_step(step, project)
            print(json.dumps([step, done.reused, done.summary.get("images")]))
except UsamError as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def test_a_sam_of_the_hub_is_known_by_commit_downloaded_once_and_used_offline(tmp_path):
    model = save_sam(tmp_path / "model", "sam2")
    (model / "sam2.1_hiera_tiny.pt").write_bytes(b"a pickle")
    file = write_tiny_project(tmp_path)
    change(file, sam={"model": "sam2.1_tiny", "points_per_side": 3})

    def asked_of(address, task):
        return answers(tmp_path / "cache", address, _SCRIPT, str(file), task)

    with hub("facebook/sam2.1-hiera-tiny", model) as (address, asked):
        (found,) = asked_of(address, "spec")
        assert found["checkpoint_sha256"] == f"facebook/sam2.1-hiera-tiny@{COMMIT}"
        assert not [path for path in asked if path.endswith((".safetensors", ".pt"))]
        steps = asked_of(address, "run")
        assert len(steps[-1]) == 3, steps
        assert [step for step, reused, _ in steps if not reused] == [s for s, *_ in steps]
        assert steps[-1] == ["annotate", False, 4]
        assert len([p for p in asked if p.endswith("/model.safetensors")]) in (1, 2)  # HEAD, GET
        assert not [path for path in asked if path.endswith(".pt")]
    steps = asked_of("http://127.0.0.1:9", "run")
    assert all(reused for _, reused, _ in steps)
    change(file, sam={"model": "sam2.1_small"})
    (unreachable,) = asked_of("http://127.0.0.1:9", "spec")
    assert unreachable[0] == "TransientError"
    for part in ("sam.checkpoint", "184 MB", "hf download facebook/sam2.1-hiera-small"):
        assert part in unreachable[1]


def test_a_head_asks_for_the_commit_of_its_sam(monkeypatch):
    """Its card says the hub's name and commit: the hub's newest may be another by now."""
    from usam_core.api import embed

    asked = []

    def spec(sam, checkpoint):
        asked.append((sam.model, sam.revision, checkpoint))
        return {"model": sam.model, "checkpoint_sha256": f"a/b@{sam.revision}"}

    def now(rgb, sam, *_):
        return sam.points_per_side

    monkeypatch.setattr(embed, "encoder_spec", spec)
    monkeypatch.setattr(embed, "embed_now", now)
    card = {"model": "sam2.1_tiny", "checkpoint_sha256": "a/b@c0ffee", "points_per_side": 7}
    assert embed.embedder_of(card)(None) == 7
    assert asked == [("sam2.1_tiny", "c0ffee", None)]
