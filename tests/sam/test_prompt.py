"""What a person's clicks and boxes give: the model's own answer, for every back-end."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry

from tests.sam_models import random_sam
from usam_core.rng import generator
from usam_core.sam.backend import SegmentAnything
from usam_core.sam.nano import build_nano_sam
from usam_core.sam.prompt import Click, Prompter, Prompts
from usam_core.sam.translated import TranslatedSam
from usam_core.sources.scenes import TRAINING_LOOK, scene

CLICKS = [Click(60.0, 40.0, True), Click(20.0, 70.0, False)]
BOX = (30.0, 20.0, 100.0, 80.0)
START = np.zeros((96, 128), bool)
START[20:70, 30:90] = True
PROMPTS = {
    "a click": Prompts(CLICKS[:1]),
    "two clicks": Prompts(CLICKS),
    "a box": Prompts((), BOX),
    "a box and a click": Prompts(CLICKS[:1], BOX),
    "a mask and a click": Prompts(CLICKS[1:], start=START),
}


@pytest.fixture(scope="module")
def image():
    return scene(
        generator(5, "prompt"), ["disc", "ring", "rod"], (96, 128), TRAINING_LOOK, most=3
    ).image


def small_logits(shape):
    """START as logits of the decoder's own size over (rows, columns) of a square frame."""
    rows, columns, side = shape
    full = torch.from_numpy(START)[None, None].float()
    logits = torch.full((1, 1, side, side), -10.0)
    area = torch.nn.functional.interpolate(full, (rows, columns), mode="area")
    logits[..., :rows, :columns] = 10 * (2 * area - 1)
    return logits


@pytest.fixture(scope="module")
def both(image):
    """Ours and the official predictor of a random ViT-B, the image embedded by both."""
    torch.manual_seed(2)
    sam = sam_model_registry["vit_b"]().eval()
    official = SamPredictor(sam)
    official.set_image(image)
    mine = Prompter(SegmentAnything(sam))
    mine.prepare("image", lambda: image)
    return mine, official


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMPTS)
def test_sam_1_answers_as_its_own_predictor(both, image, name):
    prompter, official = both
    prompts = PROMPTS[name]
    several = name == "a click"
    masks, quality, _ = official.predict(
        np.array([c[:2] for c in prompts.clicks]) if prompts.clicks else None,
        np.array([c.positive for c in prompts.clicks]) if prompts.clicks else None,
        None if prompts.box_xyxy is None else np.array(prompts.box_xyxy),
        None if prompts.start is None else small_logits((192, 256, 256))[0].numpy(),
        multimask_output=several,
    )
    mine = prompter.answer("image", lambda: image, prompts)
    assert mine.shape == image.shape[:2]
    assert (mine != masks[quality.argmax()]).mean() < 1e-3


@pytest.mark.parametrize("kind", ["sam2", "sam3"])
@pytest.mark.parametrize("name", PROMPTS)
def test_the_others_answer_as_transformers_does(image, kind, name):
    model = random_sam(kind)
    side = model.prompt_encoder.input_image_size
    sam = TranslatedSam(model, (0.5,) * 3, (0.5,) * 3)
    prompts = PROMPTS[name]
    scale = torch.tensor([side / 128, side / 96])
    points = torch.tensor([c[:2] for c in prompts.clicks]).reshape(1, 1, -1, 2) * scale
    box = None if prompts.box_xyxy is None else torch.tensor(prompts.box_xyxy).view(1, 1, 2, 2)
    with torch.inference_mode():
        pixels = torch.from_numpy(sam.resized(image).transpose(2, 0, 1).copy()).float()
        done = model(
            pixel_values=sam.frame(pixels)[None],
            input_points=points if prompts.clicks else None,
            input_labels=torch.tensor([[[int(c.positive) for c in prompts.clicks]]])
            if prompts.clicks
            else None,
            input_boxes=None if box is None else (box * scale).view(1, 1, 4),
            input_masks=None if prompts.start is None else small_logits((64, 64, 64)),
            multimask_output=name == "a click",
        )
        full = torch.nn.functional.interpolate(done.pred_masks[0], (96, 128), mode="bilinear")
    expected = full[0, done.iou_scores[0, 0].argmax()].numpy() > 0
    mine = Prompter(sam).answer("image", lambda: image, prompts)
    assert 0 < expected.mean() < 1
    assert (mine != expected).mean() < 1e-3


def test_nano_adds_and_takes_away_by_clicks_and_reads_an_image_once(image):
    prompter = Prompter(SegmentAnything(build_nano_sam()), points_alone=True)
    reads = []

    def read():
        reads.append(1)
        return image

    first = prompter.answer("image", read, Prompts(CLICKS[:1]))
    assert first[40, 60]
    less = prompter.answer("image", read, Prompts([Click(60.0, 40.0, False)], start=first))
    assert not less[40, 60]
    assert not (less & ~first).any()
    inside = prompter.answer("image", read, Prompts((), BOX))
    assert not inside[:, 102:].any()
    assert len(reads) == 1


def test_a_stretched_model_serves_clicks_alone_too(image):
    sam = TranslatedSam(random_sam("sam2"), (0.5,) * 3, (0.5,) * 3)
    prompter = Prompter(sam, points_alone=True)
    mask = prompter.answer("image", lambda: image, Prompts(CLICKS[:1]))
    assert mask.shape == image.shape[:2]
    assert mask[40, 60]
