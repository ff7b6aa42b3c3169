"""Names compared with masks, from the project file to the labels: alone, fused, and refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.conftest import change
from tests.feature_models import PUBLISHED, random_model, save_model
from usam_core.config.project import load_project
from usam_core.errors import ConfigError, InputError
from usam_core.features.encoder import open_encoder
from usam_core.features.text import TEMPLATES, open_text
from usam_core.head.checkpoint import load_head
from usam_core.images.read import read_image
from usam_core.inference.scoring import class_logits
from usam_core.lineage.chain import facts, read_chain
from usam_core.masks.bits import unpack, valid_hw
from usam_core.steps import STEPS, annotate, run_step, step_folder, step_key
from usam_core.steps import blocks as names
from usam_core.steps.annotate import head_path
from usam_core.steps.blocks import block_specs
from usam_core.steps.embed import open_store
from usam_core.steps.lineage_checks import check_chain

ROOT = Path(__file__).parents[2]
NAMES = ["disc", "ring", "rod"]
IDS = {"disc": 8, "ring": 9, "rod": 10}  # of the tiny tokenizer
SCALE = 15.0
"""Trained CLIPs have 100; this one is then sure of some masks and not of others."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for model_type in ("clip", "siglip", "dinov2"):
        save_model(root / model_type, model_type)
    sharp().save_pretrained(root / "clip")
    return root


def sharp():
    model = random_model("clip")
    with torch.no_grad():
        model.logit_scale.fill_(np.log(SCALE))
    return model


@pytest.fixture
def copied(finished_project, models, tmp_path):
    """Return the project file of a finished project with the toy models beside it."""
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    shutil.copytree(models, tmp_path / "copy" / "models")
    return tmp_path / "copy" / "project.yaml"


@pytest.fixture
def bare(tiny_project, models):
    """Return a project with the papers' SAM+CLIP settings: names, images, and no picture."""
    settings = yaml.safe_load((ROOT / "benchmarks" / "sam_clip.yaml").read_text())
    settings["features"]["clip"]["model"] = str(models / "clip")
    values = yaml.safe_load(tiny_project.read_text())
    for name, section in settings.items():
        values[name] = section if name == "training" else {**values.get(name, {}), **section}
    tiny_project.write_text(yaml.safe_dump(values))
    return tiny_project


def direct(image, masks):
    """Return CLIP's softmax over the names of masked images, by plain calls of transformers."""
    model, (mean, std) = sharp(), PUBLISHED["clip"]
    scale = 4 / max(image.shape[:2])  # 64 pixels in patches of 16
    size = [max(1, round(side * scale)) * 16 for side in image.shape[:2]]
    picture = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)) / 255
    ids = torch.tensor([[2, IDS[name], 1] for name in NAMES])
    with torch.no_grad():
        texts = model.get_text_features(ids).pooler_output
        found = []
        for mask in masks:
            seen = torch.nn.functional.interpolate(
                torch.from_numpy(mask).float()[None, None], size, mode="bilinear"
            )[0, 0].numpy()
            black = picture * (seen >= 0.5)[..., None]
            pixels = torch.tensor(((black - mean) / std).transpose(2, 0, 1)[None]).float()
            one = model.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output[0]
            cosines = torch.nn.functional.cosine_similarity(one[None], texts)
            found.append((SCALE * cosines).softmax(0).numpy())
    return np.stack(found)


@pytest.mark.slow
def test_the_papers_baseline_is_clip_of_each_masked_image_at_70_percent(bare, models):
    project = load_project(bare)
    results = {step: run_step(step, project) for step in STEPS}
    assert results["collect"].summary["pictures"] == 0
    assert results["embed"].summary["images"] == 4
    assert results["compose"].summary["notes"] == []
    assert results["describe"].summary["described"] == 4
    assert results["fit"].summary["used"] == "zero_shot"
    said = STEPS["fit"].sentence(results["fit"].summary, False)
    assert said == "3 classes by their names alone (clip), no pictures"
    head, card = load_head(head_path(project))
    store = open_store(project)
    blocks = card["blocks"]
    store.use_blocks(blocks)
    index = store.index(refresh=True)
    scores = []
    for row in index.itertuples():
        image = read_image(
            row.source, max_megapixels=10, window="percentile", sha256=row.sha256
        ).rgb
        mask_set = store.read(row.sha256)
        height, width = valid_hw(mask_set.size_hw, mask_set.packed_masks.shape[2])
        masks = unpack(mask_set.packed_masks[:, 0])[:, :height, :width]
        there = masks.any((1, 2))
        logits = class_logits(head, mask_set, card["settings"]["features"])[there, 0]
        found = torch.from_numpy(logits).softmax(-1).numpy()
        # Masks' vectors are kept in half precision.
        np.testing.assert_allclose(found, direct(image, masks[there]), atol=0.003)
        scores += found.max(-1).tolist()
    kept = [
        instance.score
        for image in annotate.labels(project).images()
        for instance in image.instances
    ]
    assert kept
    assert len(kept) < sum(score >= 0.7 for score in scores) < len(scores)
    assert project.config.inference.threshold == 0.7
    assert project.config.features["clip"].pooling == "masked_image"
    assert [run_step(step, project).reused for step in STEPS] == [True] * len(STEPS)


def test_labelling_by_names_loads_no_text_model(bare, monkeypatch):
    project = load_project(bare)
    for step in list(STEPS)[: list(STEPS).index("annotate")]:
        run_step(step, project)

    def loaded(*_):
        raise AssertionError("a text model was opened")

    monkeypatch.setattr(names, "open_text", loaded)
    run_step("annotate", project)
    assert len(list(annotate.labels(project).images())) == 4


def with_clip(file, model="clip", **head):
    features = {"words": {"model": f"models/{model}"}}
    return change(file, features=features, head={"text": "alone", **head})


def run(project):
    results = {step: run_step(step, project) for step in STEPS}
    return results, *load_head(head_path(project))


def test_alone_with_pictures_there_reads_none_of_them(copied):
    project = with_clip(copied)
    _, head, card = run(project)
    assert head.learned is None
    assert (card["training_pictures"], card["training_provenance"]) == ({}, {})
    files = {path.name for path in step_folder(project, "fit").glob("*.*")}
    assert files >= {"zero_shot.safetensors", "zero_shot.card.json"}
    assert not files & {"student.safetensors", "teacher.card.json", "training.parquet"}
    # Fewer training pictures: the manifest is another, the head is not.
    before = step_key("fit", project)
    fewer = change(copied, training={"render": {"per_class": 2, "size": 96}, "min_per_class": 1})
    run_step("collect", fewer)
    assert step_key("fit", fewer) == before
    chain = read_chain(head_path(project))
    (link,) = [link for link in chain.links.values() if link.step == "fit"]
    assert {parent["step"] for parent in link.document["parents"]} == {"embed", "describe"}
    assert {"text", "blocks"} <= {fact.name for fact in facts(link.document)}
    assert "pictures" not in link.document["inputs"]
    run_step("collect", project)
    assert [f for f in check_chain(read_chain(head_path(project))) if f.verdict == "broken"] == []
    # And back: the head of names does not stay behind.
    learned = change(copied, head={"text": "off"})
    run_step("compose", learned)
    run_step("fit", learned)
    assert head_path(learned).name == "student.safetensors"
    assert not (step_folder(learned, "fit") / "zero_shot.safetensors").exists()


@pytest.mark.parametrize(("model", "read_too"), [("clip", False), ("siglip", True)])
def test_fused_with_a_learned_head_that_reads_the_block_or_not(copied, model, read_too):
    features = ["words", "encoder"] if read_too else ["encoder"]
    project = with_clip(copied, model, text="fuse", text_weight=0.25, features=features)
    results, head, card = run(project)
    assert results["fit"].summary["features"] == [*features, *([] if read_too else ["words"])]
    texts = open_text(project.config.features["words"], "cpu", project.root)
    assert len(card["block_widths"]) == len(features)
    store = open_store(project)
    store.use_blocks(card["blocks"])
    sha256 = next(iter(store.index(refresh=True)["sha256"]))
    mask_set = store.read(sha256)
    vectors = mask_set.features["words"].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    by_name = texts.scale * vectors @ texts.vectors({name: [] for name in NAMES}).T + texts.bias
    own = class_logits(head.learned, mask_set, features)
    expected = 0.75 * torch.from_numpy(own).log_softmax(-1)
    expected = (expected + 0.25 * torch.from_numpy(by_name).log_softmax(-1)).softmax(-1)
    found = class_logits(head, mask_set, card["settings"]["features"])
    torch.testing.assert_close(torch.from_numpy(found).softmax(-1), expected, rtol=1e-3, atol=1e-4)
    assert len(list(annotate.labels(project).images())) == 4
    assert head_path(project).name == "student.safetensors"


@pytest.mark.slow
def test_parents_negatives_and_background_have_their_place(copied):
    project = with_clip(copied, text="fuse", background=True)
    project = change(
        copied, level="parents", negatives=["star"], compose={"scenes": 2}, head={"steps": 2}
    )
    _, head, card = run(project)
    assert card["classes"] == ["round", "long"]
    assert card["text"]["outputs"] == [0, 0, 1, 2]
    assert head(torch.zeros(1, head.width)).shape == (1, 4)
    assert list(card["text"]["sentences"]) == [*NAMES, "star"]


def test_the_card_says_model_and_every_sentence(copied):
    values = yaml.safe_load(copied.read_text())
    values["classes"][1]["synonyms"] = ["circle"]
    values["classes"][2]["text_prompts"] = ["a long {c}", "a stick"]
    copied.write_text(yaml.safe_dump(values))
    project = with_clip(copied, text_prompts=["the {c}", "{c}"])
    run_step("describe", project)
    run_step("fit", project)
    text = json.loads((step_folder(project, "fit") / "zero_shot.card.json").read_text())["text"]
    assert text["sentences"] == {
        "disc": ["the disc", "disc"],
        "ring": ["the ring", "ring", "the circle", "circle"],
        "rod": ["a long rod", "a stick"],
    }
    assert (text["block"], text["family"], text["model"]) == ("words", "clip", "models/clip")
    assert len(text["weights"]) == 64
    texts = open_text(project.config.features["words"], "cpu", project.root)
    head, _ = load_head(head_path(project))
    words = {"disc": [], "ring": ["ring", "circle"]}
    expected = texts.vectors(words, ["the {}", "{}"])
    np.testing.assert_allclose(head.vectors[:2].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_without_prompts_the_usual_seven_are_said(copied):
    project = with_clip(copied)
    assert names.sentences(project)["rod"] == [part.format("rod") for part in TEMPLATES]


def test_sentences_and_the_text_model_are_part_of_fits_key(copied):
    def key(**head):
        return step_key("fit", with_clip(copied, **head))

    first = key()
    assert key(text_prompts=["the {c}"]) != first
    assert key(text_prompts=[]) == first
    values = yaml.safe_load(copied.read_text())
    for more in ({"synonyms": ["circle"]}, {"text_prompts": ["a {c}"]}):
        before = key()
        values["classes"][1].update(more)
        copied.write_text(yaml.safe_dump(values))
        assert key() != before
    first = key()
    tokenizer = copied.parent / "models" / "clip" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert key() != first


def mistake(file):
    with pytest.raises(ConfigError) as caught:
        load_project(file)
    return str(caught.value)


def test_wrong_blocks_are_refused_with_their_place(copied):
    with_clip(copied)

    def changed(**sections):
        values = yaml.safe_load(copied.read_text())
        for name, section in sections.items():
            values[name] = section
        copied.write_text(yaml.safe_dump(values))
        return mistake(copied)

    assert "head.text_block" in changed(head={"text": "alone", "text_block": "wrods"})
    assert "expected a block under `features`" in mistake(copied)
    said = changed(features={}, head={"text": "alone"})
    assert "head.text: there is no block" in said
    assert "openai/clip-vit-base-patch16" in said
    said = changed(features={"d": {"model": "models/dinov2"}})
    assert "head.text: block 'd' is of the family dinov2, which has no texts" in said
    said = changed(features={"d": {"model": "models/dinov2", "family": "dinov2"}})
    assert "head.text_block" in said
    two = {"a": {"model": "models/clip"}, "b": {"model": "models/siglip"}}
    assert "head.text_block" in changed(features=two)
    assert "head.text_prompts" in changed(head={"text": "alone", "text_prompts": ["a photo"]})
    said = changed(features={"a": two["a"]}, head={"text": "fuse"}, training={"source": "none"})
    assert "training.source: got 'none'" in said
    assert "or head.text: alone" in said


def test_the_only_block_of_a_family_with_texts_is_taken(copied):
    blocks = {
        "dino": {"model": "models/dinov2"},
        "words": {"model": "models/clip", "family": "clip"},
    }
    project = change(copied, features=blocks, head={"text": "fuse", "features": ["dino"]})
    assert project.config.text_block == "words"
    assert project.config.row_blocks == ["dino", "words"]
    off = change(copied, head={"text": "off"})
    assert off.config.row_blocks == ["dino"]


def test_a_block_of_another_length_is_refused(copied):
    project = with_clip(copied)
    width = open_encoder(project.config.features["words"], "cpu", project.root).width
    with pytest.raises(InputError, match=f"vectors of 5 numbers.*have {width}"):
        names.TextSide(project, {"words": 5})


def test_a_tokenizer_that_changes_names_no_other_block_of_pictures(copied):
    project = load_project(copied)
    before = block_specs(project)
    tokenizer = copied.parent / "models" / "clip" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert block_specs(load_project(copied)) == before
