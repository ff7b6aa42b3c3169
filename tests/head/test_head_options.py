"""The head's options beyond the papers: background output, mask truth, balance."""

import math

import numpy as np
import pytest
import torch

from tests.head.test_train import CLASSES, CONFIG, PROMPTS, source, toy
from usam_core.config.schema import InferenceConfig
from usam_core.head.bags import BagSource, balanced_weights
from usam_core.head.checkpoint import load_head, save_head
from usam_core.head.losses import UNKNOWN, background_loss, class_loss, corrected
from usam_core.head.train import train
from usam_core.inference.scoring import candidates
from usam_core.types import MaskSet


def with_truth(bags=90):
    """Return toy bags of which every fourth is a scene with known masks, and the truth of all."""
    rows, labels, truth = toy(bags)
    every = np.full((bags, PROMPTS), CLASSES)
    every[:, :3] = truth[:, None]
    targets = np.full((bags, PROMPTS), UNKNOWN)
    targets[::4] = every[::4]
    made = BagSource(rows, sorted(rows.columns), labels, ["encoder"], targets=targets)
    return made, every


def outputs(head, bags):
    rows = np.concatenate([features for features, _ in bags.in_order()])
    with torch.no_grad():
        return head(torch.from_numpy(rows)).numpy()


def test_the_background_loss_is_a_cross_entropy_of_two_outcomes():
    logits = torch.tensor([[[1.0, 2.0, 0.5], [0.0, 0.0, 3.0], [9.0, 9.0, 9.0]]])
    targets = torch.tensor([[1, 2, UNKNOWN]])
    p = logits.softmax(-1)[0, :, 2]
    expected = -(math.log(1 - p[0]) + math.log(p[1])) / 2
    assert float(background_loss(logits, targets)) == pytest.approx(expected, rel=1e-5)
    assert float(background_loss(logits, torch.full((1, 3), UNKNOWN))) == 0


def test_the_class_loss_is_of_masks_on_objects_alone():
    logits = torch.tensor([[[1.0, 2.0], [0.0, 5.0], [7.0, 1.0]]])
    found = float(class_loss(logits, torch.tensor([[1, 2, UNKNOWN]])))
    assert found == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-5)
    assert float(class_loss(logits, torch.tensor([[2, UNKNOWN, 2]]))) == 0


def test_truth_replaces_the_teachers_opinion():
    bad = torch.tensor([[True, True, False, False]])
    targets = torch.tensor([[UNKNOWN, 0, 2, UNKNOWN]])
    assert corrected(bad, targets, 2).tolist() == [[True, False, True, False]]


def test_the_background_output_learns_which_masks_lie_on_nothing():
    bags, _ = with_truth()
    config = CONFIG.model_copy(update={"background": True, "composed": "bags"})
    heads = train(bags, config, seed=0)
    said = outputs(heads.student, bags)
    assert said.shape[-1] == CLASSES + 1
    unseen = np.arange(90) % 4 != 0
    ground = said[unseen].argmax(-1) == CLASSES
    assert ground[:, 3:].mean() > 0.9
    assert ground[:, :3].mean() < 0.1


def test_truth_of_masks_teaches_where_labels_tell_nothing():
    rows, labels, truth = toy()
    targets = np.full((90, PROMPTS), CLASSES)
    targets[:, :3] = truth[:, None]
    every_class = np.ones_like(labels)
    bags = BagSource(rows, sorted(rows.columns), every_class, ["encoder"], targets=targets)
    right = {}
    for composed in ("masks", "bags"):
        heads = train(bags, CONFIG.model_copy(update={"composed": composed}), seed=0)
        found = outputs(heads.student, bags)[:, :3].argmax(-1)
        right[composed] = (found == truth[:, None]).mean()
        assert (heads.history[-1]["masks"] > 0) == (composed == "masks")
    assert right["masks"] > 0.9
    assert right["bags"] < 0.6


def test_options_that_are_off_change_nothing():
    rows, labels, _ = toy(30)
    bags, _ = with_truth(30)
    short = CONFIG.model_copy(update={"steps": 4})
    plain = train(source(rows, labels), short, seed=0).student.state_dict()
    known = train(bags, short, seed=0).student.state_dict()
    assert all(torch.equal(plain[name], known[name]) for name in plain)


def test_a_head_with_everything_comes_back_from_disk(tmp_path):
    bags, _ = with_truth(30)
    update = {"steps": 3, "composed": "masks", "background": True}
    config = CONFIG.model_copy(update=update)
    head = train(bags, config, seed=0).student
    settings = config.model_dump(mode="json")
    card = {"classes": ["a", "b"], "negatives": ["n"], "settings": settings}
    save_head(tmp_path / "a.safetensors", head, card)
    again, _ = load_head(tmp_path / "a.safetensors")
    assert np.array_equal(outputs(again, bags), outputs(head, bags))


def test_balanced_batches_show_rare_classes_as_often():
    rows, _, _ = toy(90)
    labels = np.zeros((90, 2), np.float32)
    labels[:80, 0] = labels[80:, 1] = 1
    bags = BagSource(
        rows, sorted(rows.columns), labels, ["encoder"], weights=balanced_weights(labels)
    )
    rng = np.random.default_rng(0)
    seen = np.concatenate([batch[1] for _ in range(20) for batch in bags.batches(rng, 32)])
    assert len(seen) == 20 * 90
    assert seen.mean(0) == pytest.approx([0.5, 0.5], abs=0.05)


def test_a_mask_that_an_extra_output_claims_is_no_candidate():
    def head(rows):
        # Columns of the toy rows are the logits: two classes, then background.
        return rows[..., :3]

    tokens = np.zeros((3, 1024), np.float16)
    tokens[:, :3] = [[2, 1, 0], [1, 0, 2], [0, 1, 0.5]]
    four = np.ones((3, 4), np.float32)
    masks = np.full((3, 4, 8, 1), 255, np.uint8)
    some = MaskSet(tokens, masks, four, four, np.zeros((3, 2), np.float32), (8, 8))
    found = candidates(head, some, ["tokens"], InferenceConfig(), classes=2)
    assert found.prompts.tolist() == [0, 2]
    assert found.classes.tolist() == [0, 1]
    p = np.exp([0, 1, 0.5]) / np.exp([0, 1, 0.5]).sum()
    assert found.confidence[1] == pytest.approx(p[1], abs=1e-3)
    assert len(candidates(head, some, ["tokens"], InferenceConfig()).prompts) == 3
