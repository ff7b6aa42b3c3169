"""Decisions from a review to the labels, to the next head, and through reruns."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from usam_core.config.project import load_project
from usam_core.errors import InputError, MissingStepError
from usam_core.images.ref import Box
from usam_core.lineage.chain import read_chain
from usam_core.lineage.show import broken_links
from usam_core.masks.label_png import read_label_png
from usam_core.masks.rle import decode, encode
from usam_core.review.decisions import append_decision, read_all
from usam_core.steps import run_step, step_key
from usam_core.steps.embed import open_store
from usam_core.steps.lineage_checks import check_chain
from usam_core.steps.record import decided, decisions_file
from usam_core.steps.review import images_shown, open_review, summary
from usam_core.steps.training_set import same_masks


@pytest.fixture(scope="module")
def own(finished_project, tmp_path_factory):
    """Return a finished project of one part an image, that this file's tests change in turn."""
    folder = tmp_path_factory.mktemp("own") / "own"
    shutil.copytree(finished_project.parent, folder)
    return folder / finished_project.name


def change(file, section, **values):
    document = yaml.safe_load(file.read_text())
    document.setdefault(section, {}).update(values)
    file.write_text(yaml.safe_dump(document))
    return load_project(file)


def labels(project):
    coco = json.loads((project.out / "annotate" / "coco.json").read_text())
    names = {image["id"]: image["sha256"] for image in coco["images"]}
    return {
        (names[one["image_id"]], one["segmentation"]["counts"]): one for one in coco["annotations"]
    }


def key_of(item):
    return item.sha256, item.instance.rle["counts"]


@pytest.fixture(scope="module")
def judged(own):
    """Return a project in which three masks of two images were decided on, and what they were."""
    project = load_project(own)
    review = open_review(project)
    by_image = {}
    for item in review.items.values():
        by_image.setdefault(item.sha256, []).append(item)
    first, second = [some for some in by_image.values() if len(some) > 1][:2]
    gone, other, kept = first[0], first[1], second[0]
    new = next(name for name in project.config.label_names if name != other.name)
    before = {
        "labels": labels(project),
        "pngs": {i.sha256: png_of(project, i) for i in (gone, other, kept)},
        "parts": set((project.out / "annotate" / "parts").iterdir()),
    }
    fit_key = step_key("fit", project)
    review.decide(gone.id, None)
    review.decide(other.id, new)
    review.decide(kept.id, kept.name)
    result = run_step("annotate", project)
    assert step_key("fit", project) == fit_key, "decisions teach only a head that asks for them"
    return project, (gone, other, kept), new, before, result


def png_of(project, item):
    return read_label_png(project.out / "annotate" / "masks" / item.file_name)


def test_the_labels_hold_what_was_decided(judged):
    project, (gone, other, kept), new, before, result = judged
    now, names = labels(project), project.config.label_names
    assert set(before["labels"]) - set(now) == {key_of(gone)}
    assert set(now) <= set(before["labels"])
    assert now[key_of(other)]["category_id"] == names.index(new) + 1
    assert now[key_of(other)]["reviewed"] == "changed"
    assert now[key_of(other)]["head_category"] == names.index(other.name) + 1
    assert now[key_of(kept)] == {
        **before["labels"][key_of(kept)],
        "id": now[key_of(kept)]["id"],
        "reviewed": "accepted",
    }
    said = {"accepted": 1, "changed": 1, "drawn": 0, "added": 0, "rejected": 1, "not_applied": 0}
    assert result.summary["reviewed"] == said
    assert not result.reused


def test_the_label_png_holds_it_too(judged):
    project, (gone, other, kept), new, before, _ = judged
    here = [one for (sha256, _), one in labels(project).items() if sha256 == gone.sha256]
    png, old = png_of(project, gone), before["pngs"][gone.sha256]
    mask = gone.instance.mask()
    names = project.config.label_names
    assert (old[mask] == names.index(gone.name) + 1).any(), "it was painted before"
    left = np.zeros_like(mask)
    for one in here:
        left |= decode(one["segmentation"])
    assert not png[mask & ~left].any(), "nobody else claims these pixels"
    renamed = other.instance.mask() & (old == names.index(other.name) + 1)
    alone = renamed & ~mask
    assert alone.any()
    assert (png[alone] == names.index(new) + 1).mean() > 0.9
    assert np.array_equal(png_of(project, kept), before["pngs"][kept.sha256])


def test_only_parts_of_images_with_decisions_are_made_again(judged):
    project, items, _, before, result = judged
    fresh = set((project.out / "annotate" / "parts").iterdir()) - before["parts"]
    shas = [pq.read_table(part)["sha256"].to_pylist() for part in fresh]
    assert result.summary["labelled"] == sum(map(len, shas))
    for of_part in shas:
        assert set(of_part) & {item.sha256 for item in items}
    assert run_step("annotate", project).reused


def test_the_chain_names_the_decisions_and_notices_later_ones(judged):
    project, (gone, _, _), _, _, _ = judged
    chain = read_chain(project.out / "annotate")
    assert broken_links(check_chain(chain)) == []
    assert chain.last.document["inputs"]["decisions"]["count"] == 3
    review = open_review(project)
    review.decide(gone.id, gone.name)
    (broken,) = broken_links(check_chain(read_chain(project.out / "annotate")))
    assert "the decisions changed after annotate read it" in broken.text
    review.undo()
    assert broken_links(check_chain(read_chain(project.out / "annotate"))) == []


def test_a_review_of_the_reviewed_labels_counts_the_same_masks(judged):
    project, items, _, before, _ = judged
    review = open_review(project)
    assert {item.id for item in items} <= set(review.items), "one can go back to the last ones"
    assert len(review.items) == len(before["labels"]), "the rejected one is still of the sample"
    verdicts = [one["verdict"] for one in review.state()["items"]]
    assert verdicts[:3] == ["rejected", "changed", "accepted"]
    assert set(verdicts[3:]) <= {None}
    found = {one.name: one for one in summary(project)}
    assert sum(one.decided for one in found.values()) == 3
    saved = json.loads((project.out / "review" / "precision.json").read_text())
    assert [one["name"] for one in saved["classes"]] == list(found)


@pytest.mark.parametrize("order", ["entropy", "threshold", "disagreement", "random"])
def test_each_order_has_its_measure_first(judged, order):
    project = judged[0]
    review = open_review(project, order)
    shown = [item for item in review.items.values() if item.decision is None]
    if order == "random":
        return
    assert all(order in item.doubt for item in shown)
    doubtful = [item.doubt[order] for n, item in enumerate(shown) if n % 3 != 2]
    # From where doubt has run out, chance fills every place.
    assert doubtful == sorted(doubtful, reverse=True)


def test_a_class_and_a_limit_narrow_the_review(judged):
    project = judged[0]
    review = open_review(project, classes=["ring"], limit=2)
    assert {item.name for item in review.items.values()} == {"ring"}
    assert sum(item.decision is None for item in review.items.values()) <= 2
    assert review.classes == ["disc", "ring", "rod"], "any class may be the right one"
    with pytest.raises(InputError, match="--class 'zebra': expected one of"):
        open_review(project, classes=["zebra"])


def test_the_picture_of_a_mask_is_that_of_its_image(judged):
    project, (gone, _, _), _, _, _ = judged
    images = images_shown(project, open_review(project))
    assert images.size_hw(gone.sha256) == tuple(gone.instance.rle["size"])
    assert images.part(gone.sha256, Box((10, 40), (20, 80))).shape == (30, 60, 3)


def test_without_labels_there_is_nothing_to_review(tiny_project):
    with pytest.raises(MissingStepError, match="run `usam annotate"):
        summary(load_project(tiny_project))


def test_a_decision_knows_the_masks_of_its_point_again(judged):
    project, (gone, _, _), _, _, _ = judged
    packed = open_store(project).read(gone.sha256).packed_masks
    (said,) = [d for d in decided(project.out)[gone.sha256] if d.label is None]
    picked = same_masks(packed, said)
    assert gone.instance.prompt in picked[:, 0]
    assert len(picked) < packed.shape[0] * packed.shape[1] / 2


def test_decisions_of_classes_hold_for_their_parents(judged):
    project = judged[0]
    parents = load_project(project.file, level="parents")
    for step in ("fit", "calibrate"):
        run_step(step, parents)
    said = run_step("annotate", parents).summary["reviewed"]
    # A ring that is none may be round all the same: what was rejected is not applied.
    assert said["rejected"] == 0
    assert said["not_applied"] >= 1
    assert sum(said.values()) == 3


def test_another_head_keeps_the_decisions_and_learns_from_them_when_asked(judged):
    """The last test of this file: it leaves the project with another head."""
    project, (_, other, kept), new, _, _ = judged
    file = project.file
    log = decisions_file(project.out).read_bytes()
    lost = read_all(decisions_file(project.out))[0]
    corner = np.zeros(lost.mask["size"], bool)
    corner[0, 0] = True
    far = encode(corner)
    append_decision(
        decisions_file(project.out),
        replace(lost, id="far", mask=far),
    )
    project = change(file, "head", reviewed=True, background=True, steps=6)
    fitted = run_step("fit", project)
    # One bag of what was accepted, one of what was changed, one of what was rejected.
    assert fitted.summary["reviewed"] == 3
    assert fitted.summary["pictures"] == 9
    run_step("calibrate", project)
    result = run_step("annotate", project)
    said = result.summary["reviewed"]
    assert sum(said.values()) == 4
    assert said["not_applied"] >= 1, "the mask that no run has made"
    assert decisions_file(project.out).read_bytes().startswith(log)
    now, names = labels(project), project.config.label_names
    for item, name in ((other, new), (kept, kept.name)):
        if key_of(item) in now:
            assert now[key_of(item)]["category_id"] == names.index(name) + 1
            assert "reviewed" in now[key_of(item)]
    before = step_key("fit", project)
    open_review(project).undo()
    assert step_key("fit", project) != before
    assert json.loads((project.out / "review" / "precision.json").read_text())[
        "head_learned_from_decisions"
    ]
    assert Image.open(next((project.out / "annotate" / "masks").iterdir())).mode == "P"
