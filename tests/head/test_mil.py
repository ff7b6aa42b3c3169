"""MIL pooling and loss against numbers worked by hand."""

import math

import pytest
import torch

from usam_core.head.losses import image_scores, mil_loss, top_k


@pytest.mark.parametrize(
    ("masks", "a", "k"), [(100, 10, 10), (100, 3, 34), (5, 10, 1), (1, 1, 1), (100, 1, 100)]
)
def test_k_is_the_rounded_up_share_and_at_least_one(masks, a, k):
    assert top_k(masks, a) == k


def test_scores_are_the_mean_of_the_k_largest_logits_of_each_class():
    logits = torch.tensor([[[1.0, 9.0], [3.0, 0.0], [2.0, 5.0], [0.0, 1.0]]])
    # k = ceil(4 / 2) = 2: class 0 takes 3 and 2, class 1 takes 9 and 5.
    assert image_scores(logits, 2.0).tolist() == [[2.5, 7.0]]


def test_loss_is_the_cross_entropy_with_normalized_labels():
    logits = torch.tensor([[[0.0, 0.0, math.log(2.0)]], [[0.0, 0.0, 0.0]]])
    labels = torch.tensor([[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
    # First image: p = (1, 1, 2) / 4, loss log 2. Second: uniform, half and half: loss log 3.
    expected = (math.log(2) + math.log(3)) / 2
    assert mil_loss(logits, labels, 10.0).item() == pytest.approx(expected)


def test_only_the_chosen_masks_get_a_gradient():
    logits = torch.tensor([[[5.0, 0.0], [0.0, 4.0], [1.0, 1.0]]], requires_grad=True)
    mil_loss(logits, torch.tensor([[1.0, 0.0]]), 10.0).backward()
    assert logits.grad is not None
    # k = 1: mask 0 speaks for class 0, mask 1 for class 1, mask 2 for none.
    touched = logits.grad[0] != 0
    assert touched.tolist() == [[True, False], [False, True], [False, False]]
