"""Entropy, bad masks, and the uncertainty loss against numbers worked by hand."""

import math

import pytest
import torch

from usam_core.head.losses import bad_masks, entropy, uncertainty_loss


def test_entropy_of_uniform_is_log_c_and_of_certainty_zero():
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]])
    assert entropy(logits).tolist() == pytest.approx([math.log(4), 0.0], abs=1e-6)


def test_bad_are_the_unsure_and_the_sure_that_are_wrong():
    sure_right, sure_wrong = [9.0, 0.0, 0.0], [0.0, 9.0, 0.0]
    unsure_right, unsure_wrong = [0.1, 0.0, 0.0], [0.0, 0.1, 0.0]
    logits = torch.tensor([[sure_right, sure_wrong, unsure_right, unsure_wrong]])
    labels = torch.tensor([[1.0, 0.0, 0.0]])
    assert bad_masks(logits, labels, 0.5).tolist() == [[False, True, True, True]]


def test_any_of_several_labels_is_right():
    logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]]])
    labels = torch.tensor([[1.0, 1.0, 0.0]])
    assert bad_masks(logits, labels, 0.5).tolist() == [[False, False, True]]


def test_the_threshold_is_a_share_of_the_largest_entropy():
    # Two of four classes equally likely: entropy log 2 = half of log 4.
    logits = torch.tensor([[[50.0, 50.0, 0.0, 0.0]]])
    labels = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert bad_masks(logits, labels, 0.49).item() is True
    assert bad_masks(logits, labels, 0.51).item() is False


def test_a_mask_just_at_the_threshold_is_not_above_it():
    """Of two classes equally likely the entropy is the limit of 1: sure enough, and right."""
    logits = torch.zeros(1, 1, 2)
    labels = torch.tensor([[1.0, 1.0]])
    assert bad_masks(logits, labels, 1.0).item() is False
    assert bad_masks(logits, labels, 1.0 - 1e-4).item() is True


def test_loss_is_least_for_uniform_logits_and_counts_bad_masks_only():
    logits = torch.tensor([[[0.0, 0.0], [30.0, 0.0]]])
    first, both = torch.tensor([[True, False]]), torch.tensor([[True, True]])
    assert uncertainty_loss(logits, first).item() == pytest.approx(math.log(2))
    # Certain logits: -(0 + -30) / 2 = 15 for the second mask; the mean of both masks.
    assert uncertainty_loss(logits, both).item() == pytest.approx((math.log(2) + 15) / 2)


def test_no_bad_mask_costs_nothing_and_can_be_differentiated():
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    loss = uncertainty_loss(logits, torch.zeros(1, 2, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_sum_is_equation_four_as_printed():
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    bad = torch.tensor([[True, False, True, False, False], [False, True, False, False, False]])
    by_hand = 0.0
    for image in range(2):
        for mask in range(5):
            if bad[image, mask]:
                by_hand -= float(torch.log_softmax(logits[image, mask], -1).sum())
    assert uncertainty_loss(logits, bad, "sum") == pytest.approx(by_hand / 2, rel=1e-5)
    assert uncertainty_loss(logits, bad) == pytest.approx(by_hand / 9, rel=1e-5)
