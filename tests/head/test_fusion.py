"""Several feature blocks in one head: a head each, whose logits are averaged."""

import json

import numpy as np
import pytest
import torch

from tests.head.test_train import CONFIG, source, toy
from usam_core.errors import StoreError
from usam_core.head.checkpoint import card_path, load_head, save_head
from usam_core.head.model import LateHead, make_head
from usam_core.head.train import train
from usam_core.inference.scoring import class_logits
from usam_core.types import MaskSet

BLOCKS = ["tokens", "encoder"]


def fused(**settings):
    rows, labels, truth = toy(45)
    config = CONFIG.model_copy(update=settings)
    return train(source(rows, labels, features=BLOCKS), config, seed=0), rows, labels, truth


def test_the_object_is_found_beside_a_block_of_noise():
    heads, rows, labels, truth = fused()
    assert isinstance(heads.student, LateHead)
    bags, *_ = next(source(rows, labels, features=BLOCKS).batches(np.random.default_rng(0), 45))
    order = np.random.default_rng(0).permutation(45)
    found = heads.student(torch.from_numpy(bags)).detach()[:, :3].argmax(-1).numpy()
    assert (found == truth[order][:, None]).mean() > 0.8


def test_late_fusion_is_the_mean_of_heads_that_learned_alone():
    heads, rows, labels, _ = fused(steps=20)
    config = CONFIG.model_copy(update={"steps": 20})
    alone = [train(source(rows, labels, features=[name]), config, seed=0) for name in BLOCKS]
    for together, single in zip(heads.student.heads, alone, strict=True):
        for name, values in single.student.state_dict().items():
            assert torch.equal(together.state_dict()[name], values), name
    one = torch.randn(7, 8 + 16)
    expected = (alone[0].student(one[:, :8]) + alone[1].student(one[:, 8:])) / 2
    torch.testing.assert_close(heads.student(one), expected)
    assert [epoch["block"] for epoch in heads.history[:: len(heads.history) - 1]] == BLOCKS


def test_late_fusion_without_distillation_has_no_student():
    heads, *_ = fused(steps=2, distil=False)
    assert heads.student is None
    assert isinstance(heads.teacher, LateHead)


def test_masks_of_one_prompt_are_told_apart_by_the_blocks_that_do():
    rng = np.random.default_rng(0)
    masks = MaskSet(
        tokens=rng.normal(size=(6, 1024)).astype(np.float16),
        packed_masks=rng.integers(0, 256, (6, 4, 8, 1), dtype=np.uint8),
        predicted_iou=rng.random((6, 4), np.float32),
        stability=rng.random((6, 4), np.float32),
        points_xy=rng.random((6, 2), np.float32),
        size_hw=(8, 8),
        features={"encoder": rng.normal(size=(6, 4, 16)).astype(np.float16)},
    )
    head = make_head([1024, 16], 3, (32, 16, 8), 0.5).eval()
    logits = class_logits(head, masks, BLOCKS)
    row = np.concatenate([masks.tokens[4], masks.features["encoder"][4, 2]]).astype(np.float32)
    np.testing.assert_allclose(logits[4, 2], head(torch.from_numpy(row)).detach(), atol=1e-5)


def test_a_fused_head_comes_back_from_disk(tmp_path):
    settings = {"hidden": [32, 16, 8], "dropout": 0.5}
    settings["fusion"] = "late"  # as cards had it while there was a choice
    card = {"classes": list("abc"), "settings": settings, "block_widths": [8, 16]}
    head = make_head([8, 16], 3, (32, 16, 8), 0.5).eval()
    save_head(tmp_path / "head.safetensors", head, card)
    loaded, read = load_head(tmp_path / "head.safetensors")
    rows = torch.randn(4, 24)
    assert torch.equal(loaded(rows), head(rows))
    assert (read["format"], read["features_width"], read["block_widths"]) == (3, 24, [8, 16])


def edited(path, **changes):
    card = json.loads(card_path(path).read_text())
    card.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del card[key]
    card_path(path).write_text(json.dumps(card))
    return path


def test_heads_of_other_days(tmp_path):
    path = tmp_path / "head.safetensors"
    head = make_head([24], 3, (32, 16, 8), 0.5).eval()
    settings = {"hidden": [32, 16, 8], "dropout": 0.5}
    save_head(path, head, {"classes": list("abc"), "settings": settings})
    loaded, _ = load_head(edited(path, format=None, block_widths=None))
    rows = torch.randn(4, 24)
    assert torch.equal(loaded(rows), head(rows))
    loaded, _ = load_head(edited(path, settings={**settings, "fusion": "concat", "bank": "off"}))
    assert torch.equal(loaded(rows), head(rows)), "one block: nothing was fused"
    with pytest.raises(StoreError, match=r"format 4; expected at most 3"):
        load_head(edited(path, format=4))
    with pytest.raises(StoreError, match="does not describe the head"):
        load_head(edited(path, format=3, block_widths=[8, 8], settings=settings))


@pytest.mark.parametrize(
    ("settings", "widths"),
    [
        ({"bank": "mean", "bank_size": 4, "bank_weight": 0.3}, [24]),
        ({"fusion": "concat"}, [8, 16]),
        ({"fusion": "concat_equal"}, [8, 16]),
    ],
)
def test_a_head_of_an_option_that_is_no_more_says_what_to_do(tmp_path, settings, widths):
    path = tmp_path / "head.safetensors"
    settings = {"hidden": [32, 16, 8], "dropout": 0.5, **settings}
    card = {"classes": list("abc"), "settings": settings, "block_widths": widths}
    save_head(path, make_head([24], 3, (32, 16, 8), 0.5), card)
    with pytest.raises(StoreError) as told:
        load_head(path)
    message = str(told.value)
    assert message.startswith(f"{path}: the head was trained with head.")
    assert "docs/decisions/0019-what-went.md" in message
    assert "usam fit project.yaml" in message
