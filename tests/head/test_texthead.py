"""The text side of a head: zero-shot by hand, weighed against a learned head, saved and loaded."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from tests.head.test_train import CONFIG, source, toy
from usam_core.config.schema import InferenceConfig
from usam_core.head.checkpoint import card_path, load_head, save_head
from usam_core.head.model import Head, TextHead
from usam_core.head.train import train
from usam_core.inference.scoring import candidates
from usam_core.types import MaskSet


def text_head(learned=None, first=0, outputs=(0, 1), weight=0.5, vectors=((1, 0), (0, 1))):
    """Return two names along the axes of a space of two dimensions, scale 2."""
    head = TextHead(learned, first, 2, outputs, weight)
    head.vectors.copy_(torch.tensor(vectors, dtype=torch.float32))
    head.scale.fill_(2.0)
    return head.eval()


class Fixed(nn.Module):
    """A learned head that says the same of every mask."""

    def __init__(self, logits, width):
        super().__init__()
        self.logits, self.width = torch.tensor(logits), width

    def forward(self, rows):
        assert rows.shape[-1] == self.width
        return self.logits.expand(*rows.shape[:-1], -1)


def odds(head, *row):
    """Return probabilities over the first, to be compared as plain ratios."""
    p = head(torch.tensor([row], dtype=torch.float32)).softmax(-1)[0]
    return (p / p[0]).tolist()


def test_zero_shot_is_the_softmax_of_scaled_cosines():
    # (3, 4) has length 5: cosines 0.6 and 0.8, logits 1.2 and 1.6.
    logits = text_head()(torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(logits, torch.tensor([[1.2, 1.6]]))
    assert odds(text_head(), 3, 4) == pytest.approx([1, np.exp(0.4)], rel=1e-5)
    # The length of a mask's vector says nothing.
    assert odds(text_head(), 30, 40) == pytest.approx([1, np.exp(0.4)], rel=1e-5)


def test_siglips_bias_shifts_logits_and_no_probability():
    head = text_head()
    head.bias.fill_(-16.5)
    torch.testing.assert_close(head(torch.tensor([[3.0, 4.0]])), torch.tensor([[-15.3, -14.9]]))
    assert odds(head, 3, 4) == pytest.approx(odds(text_head(), 3, 4), rel=1e-4)


def test_the_softmax_of_sigmoid_logits_is_the_chance_that_this_name_alone_fits():
    z = torch.tensor([-1.0, 0.5, -3.0])
    fits = z.sigmoid()
    alone = torch.stack(
        [fits[i] * torch.prod(1 - fits[torch.arange(3) != i]) for i in range(len(z))]
    )
    torch.testing.assert_close(alone / alone.sum(), z.softmax(0))


def test_only_the_blocks_own_columns_are_read():
    head = text_head(Fixed([0.0, 0.0], 3), first=3, weight=1.0)
    assert head.width == 5
    assert odds(head, 9, 9, 9, 3, 4) == pytest.approx(odds(text_head(), 3, 4), rel=1e-5)
    assert odds(head, 1, 5, 7, 3, 4) == pytest.approx(odds(head, 0, 0, 0, 3, 4), rel=1e-5)


def test_weighed_log_probabilities_by_hand():
    # Learned 1 : 4, names 1 : exp(0.4); at a quarter, 4^0.75 * exp(0.1).
    learned = Fixed([0.0, np.log(4.0)], 2)
    head = text_head(learned, weight=0.25)
    assert odds(head, 3, 4) == pytest.approx([1, 4**0.75 * np.exp(0.1)], rel=1e-5)


@pytest.mark.parametrize("outputs", [2, 3])
def test_weight_0_is_the_learned_head_and_weight_1_the_names(outputs):
    torch.manual_seed(0)
    learned = Head(2, outputs, (8, 8, 8), 0.5).eval()
    rows = torch.randn(5, 7, 2)
    nothing, all_of_it = (text_head(learned, weight=w) for w in (0.0, 1.0))
    torch.testing.assert_close(nothing(rows), learned(rows))
    found = all_of_it(rows)[..., :2].softmax(-1)
    torch.testing.assert_close(found, text_head()(rows).softmax(-1))


def test_an_output_that_no_text_speaks_of_keeps_its_probability():
    learned = Fixed([0.0, np.log(4.0), np.log(5.0)], 2)  # background: a half
    for weight in (0.0, 0.3, 1.0):
        said = text_head(learned, weight=weight)(torch.tensor([[3.0, 4.0]])).softmax(-1)
        assert float(said[0, 2]) == pytest.approx(0.5, abs=1e-6)


def test_a_parent_has_the_sum_of_its_classes():
    three = ((1, 0), (0, 1), (-1, 0))
    fine = text_head(outputs=(0, 1, 2), vectors=three)(torch.tensor([[3.0, 4.0]])).softmax(-1)[0]
    head = text_head(outputs=(1, 0, 1), vectors=three)
    coarse = head(torch.tensor([[3.0, 4.0]])).softmax(-1)[0]
    torch.testing.assert_close(coarse, torch.stack([fine[1], fine[0] + fine[2]]))
    turned = text_head(outputs=(2, 0, 1), vectors=three)(torch.tensor([[3.0, 4.0]])).softmax(-1)[0]
    torch.testing.assert_close(turned, fine[[1, 2, 0]])


def test_a_mask_that_a_negative_name_claims_is_no_candidate():
    mask_set = MaskSet(
        tokens=np.zeros((2, 1024), np.float16),
        packed_masks=np.full((2, 4, 8, 1), 255, np.uint8),
        predicted_iou=np.ones((2, 4), np.float32),
        stability=np.ones((2, 4), np.float32),
        points_xy=np.full((2, 2), 0.5, np.float32),
        size_hw=(8, 8),
        features={"clip": np.array([[[4, 3]] * 4, [[3, 4]] * 4], np.float16)},
    )
    found = candidates(text_head(), mask_set, ["clip"], InferenceConfig(threshold=0.0), 1)
    assert found.prompts.tolist() == [0]
    assert found.confidence[0] == pytest.approx(1 / (1 + np.exp(-0.4)), abs=1e-4)


def card_of(head, config, outputs, classes=("a", "b", "c"), widths=(16,), **text):
    text = {"first": 0, "width": 16, "outputs": outputs, "weight": config.text_weight, **text}
    return {
        "classes": list(classes),
        "settings": config.model_dump(mode="json"),
        "block_widths": list(widths),
        "text": text,
    }


@pytest.mark.parametrize("mode", ["alone", "fuse"])
def test_a_saved_head_says_the_same(tmp_path, mode):
    rows, labels, _ = toy(30)
    config = CONFIG.model_copy(update={"text": mode, "text_weight": 0.3, "steps": 6})
    learned = None
    if mode == "fuse":
        learned = train(source(rows, labels), config, seed=0).student
    card = card_of(learned, config, [0, 1, 2])
    head = TextHead(learned, **card["text"])
    torch.manual_seed(1)
    head.vectors.copy_(nn.functional.normalize(torch.randn(3, 16), dim=-1))
    head.scale.fill_(33.0)
    head.bias.fill_(-4.0)
    path = tmp_path / "head.safetensors"
    save_head(path, head, card)
    again, read = load_head(path)
    masks = torch.randn(4, 16)
    assert torch.equal(again(masks), head.eval()(masks))
    assert read["features_width"] == 16
    assert json.loads(card_path(path).read_text())["text"]["weight"] == 0.3
