"""Composed scenes: truth is what is visible, labels name it, held-out pictures stay out."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usam_core.compose import scene as cutouts
from usam_core.compose.scene import Cutout, compose, mask_targets, object_mask
from usam_core.compose.studio import Studio, deal, held_out
from usam_core.config.project import load_project
from usam_core.config.training import ComposeConfig
from usam_core.errors import ConfigError, MissingStepError
from usam_core.head.losses import UNKNOWN
from usam_core.masks.label_png import read_label_png
from usam_core.rng import generator
from usam_core.sources.scenes import SHAPES
from usam_core.steps import STEPS, intact, run_step, step_folder
from usam_core.steps import compose as compose_step
from usam_core.steps.compose import held_out_pictures, read_scenes
from usam_core.steps.embed import open_store
from usam_core.steps.training_set import lessons
from usam_core.types import MaskSet

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}
CONFIG = ComposeConfig(size=96)


def plain_cutout(name, side=40):
    """Return a disc of the class's own colour on black."""
    rows, columns = np.mgrid[:side, :side] - side // 2
    mask = rows**2 + columns**2 < (side * 0.4) ** 2
    rgb = np.zeros((side, side, 3), np.uint8)
    rgb[mask] = COLORS[name]
    return Cutout(name, name, rgb, mask)


def plain_scene(seed, names=tuple(COLORS), config=CONFIG):
    background = np.zeros((72, 96, 3), np.uint8)
    return compose(generator(seed), background, [plain_cutout(name) for name in names], config)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 4), least=st.floats(0.1, 1))
def test_truth_is_what_is_visible(seed, count, least):
    config = ComposeConfig(size=96, min_visible=least)
    names = list(COLORS)[:count]
    scene = plain_scene(seed, names, config)
    labels = scene.label_map(list(COLORS))
    found = {list(COLORS)[value - 1] for value in np.unique(labels) if value}
    assert found == set(scene.names), "every named object is visible, and no other is"
    if least <= 0.7:
        assert scene.names, "there is room for one at least"
    color = np.array([(0, 0, 0), *COLORS.values()], float)
    nearest = np.abs(scene.image[:, :, None] - color).sum(-1).argmin(-1)
    # Borders are mixed of two colours.
    assert (nearest == labels).mean() > 0.9
    for number, name in enumerate(scene.names, start=1):
        here = scene.instances == number
        assert (nearest[here] == list(COLORS).index(name) + 1).mean() > 0.7


def test_objects_cover_each_other_and_enough_of_each_stays():
    overlapping = 0
    for seed in range(30):
        config = ComposeConfig(size=96, object_sides=(0.7, 0.7), min_visible=0.5)
        scene = plain_scene(seed, ("red", "green"), config)
        areas = np.bincount(scene.instances.ravel(), minlength=3)[1:]
        whole = np.pi * (0.4 * 0.7 * 72) ** 2
        assert all(areas[: len(scene.names)] > 0.45 * whole)
        overlapping += len(scene.names) == 2 and areas[0] < 0.95 * areas[1]
    assert overlapping > 3


def test_the_same_seed_gives_the_same_scene():
    assert np.array_equal(plain_scene(3).image, plain_scene(3).image)
    assert not np.array_equal(plain_scene(3).image, plain_scene(4).image)


def test_more_classes_than_a_palette_holds():
    scene = plain_scene(0, ("red",))
    labels = scene.label_map([*map(str, range(300)), "red"])
    assert labels.dtype == np.uint16
    assert labels.max() == 301


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 99),
)
def test_held_out_is_a_share_of_each_class(counts, share, seed):
    pictures = {f"c{c}": [f"{c}-{i}" for i in range(n)] for c, n in enumerate(counts)}
    out = held_out(pictures, share, seed)
    for digests in pictures.values():
        taken = len(out & set(digests))
        assert taken == (0 if len(digests) < 4 else max(1, round(share * len(digests))))
    assert out == held_out({k: v[::-1] for k, v in pictures.items()}, share, seed)


@given(
    classes=st.integers(1, 9),
    scenes=st.integers(1, 40),
    objects=st.sampled_from([(1, 1), (2, 4), (3, 3), (2, 12)]),
    seed=st.integers(0, 99),
)
def test_classes_are_dealt_evenly_and_no_scene_has_one_twice(classes, scenes, objects, seed):
    names = [str(number) for number in range(classes)]
    hands = deal(np.random.default_rng(seed), names, scenes, objects)
    assert len(hands) == scenes
    for hand in hands:
        assert min(objects[0], classes) <= len(hand) <= min(objects[1], classes)
        assert len(set(hand)) == len(hand)
    counts = [sum(name in hand for hand in hands) for name in names]
    assert max(counts) - min(counts) <= 2


def mask_set(masks, quality):
    """Return a mask set of one prompt a mask; only its single mask is not empty."""
    packed = np.zeros((len(masks), 4, 32, 4), np.uint8)
    packed[:, 0] = np.packbits(np.asarray(masks), axis=-1)
    iou = np.zeros((len(masks), 4), np.float32)
    iou[:, 0] = quality
    ones, points = np.ones_like(iou), np.zeros((len(masks), 2), np.float32)
    tokens = np.zeros((len(masks), 1024), np.float16)
    return MaskSet(tokens, packed, iou, ones, points, (32, 32))


def box(top, left, bottom, right):
    mask = np.zeros((32, 32), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_the_object_is_the_best_mask_that_is_neither_ground_nor_speck_nor_aside():
    middle = box(8, 8, 24, 24)
    others = [box(0, 0, 32, 32), box(15, 15, 17, 17), box(1, 1, 9, 9), box(0, 8, 32, 32)]
    found = object_mask(mask_set([middle, *others], [0.5, 0.9, 0.9, 0.9, 0.9]), CONFIG)
    assert np.array_equal(found, middle)
    assert object_mask(mask_set(others, 0.9), CONFIG) is None


@given(st.integers(0, 500))
def test_the_largest_empty_rectangle_is_empty_and_none_is_larger(seed):
    taken = np.random.default_rng(seed).random((6, 7)) < 0.3
    top, left, bottom, right = cutouts.largest_empty(taken)
    assert not taken[top:bottom, left:right].any()
    every = [
        (b - t) * (r - c)
        for t in range(6)
        for b in range(t + 1, 7)
        for c in range(7)
        for r in range(c + 1, 8)
        if not taken[t:b, c:r].any()
    ]
    assert (bottom - top) * (right - left) == max(every, default=0)


def test_the_part_beside_an_object_shows_nothing_of_it():
    cutout = plain_cutout("red", side=64)
    rgb = np.pad(cutout.rgb, ((0, 0), (0, 64), (0, 0)))
    shifted = Cutout("red", "x", rgb, np.pad(cutout.mask, ((0, 0), (0, 64))))
    part = cutouts.beside(shifted, (60, 90))
    assert part.shape == (60, 90, 3)
    assert part.max() == 0
    everywhere = Cutout("red", "x", cutout.rgb, np.ones_like(cutout.mask))
    assert cutouts.beside(everywhere, (60, 90)) is None


def test_a_class_without_a_usable_mask_is_left_out():
    def cut(name, sha256):
        return None if name == "blue" else plain_cutout(name)

    pictures = {"red": ["a"], "green": ["b"], "blue": ["c", "d"]}
    studio = Studio(pictures, [], cut, lambda _: None, CONFIG, 0, "train")
    assert studio.classes == ["red", "green"]
    assert all(set(hand) == {"red", "green"} for hand in studio.hands(5))
    nothing = Studio({"blue": ["c"]}, [], cut, lambda _: None, CONFIG, 0, "train")
    assert nothing.hands(5) == []


@pytest.fixture(scope="module")
def composed(tmp_path_factory):
    """Return a project that has composed scenes of both splits."""
    from tests.conftest import write_tiny_project

    file = write_tiny_project(tmp_path_factory.mktemp("composed"))
    values = yaml.safe_load(file.read_text())
    values["training"]["render"]["per_class"] = 5
    values["compose"] = {"scenes": 5, "held_out_scenes": 4, "held_out": 0.4, "size": 96}
    file.write_text(yaml.safe_dump(values))
    for step in ("collect", "embed", "compose"):
        run_step(step, load_project(file))
    return file


@pytest.fixture
def copied(composed, tmp_path):
    shutil.copytree(composed.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project.yaml"


def test_the_table_says_what_the_files_are(composed):
    project = load_project(composed)
    classes = [spec.name for spec in project.config.classes]
    folder = step_folder(project, "compose")
    table = pd.read_parquet(folder / "scenes.parquet")
    assert table["split"].value_counts().to_dict() == {"train": 5, "held_out": 4}
    store = open_store(project)
    for row in table.itertuples():
        truth = read_label_png(folder / row.truth)
        with Image.open(folder / row.path) as picture:
            assert truth.shape == picture.size[::-1]
        assert {classes[v - 1] for v in np.unique(truth) if v} == set(row.labels)
        assert len(store.read(row.sha256)) == 16


def test_held_out_pictures_are_in_no_train_scene_and_teach_no_head(composed):
    project = load_project(composed)
    out = held_out_pictures(project)
    assert len(out) == 6
    used = {
        split: read_scenes(project, split)["sources"].explode() for split in ("train", "held_out")
    }
    assert not set(used["train"]) & out
    assert set(used["held_out"]) <= out
    run_step("fit", project)
    card = json.loads((step_folder(project, "fit") / "student.card.json").read_text())
    assert card["training_pictures"] == {"disc": 3, "ring": 3, "rod": 3}
    table = pd.read_parquet(step_folder(project, "fit") / "training.parquet")
    assert set(table.loc[~table["learned"], "sha256"]) == out
    assert table.groupby("class")["learned"].sum().to_dict() == card["training_pictures"]


def test_a_second_run_does_nothing_and_a_refresh_gives_the_same_scenes(copied):
    project = load_project(copied)
    assert run_step("compose", project).reused
    table = step_folder(project, "compose") / "scenes.parquet"
    before = table.read_bytes()
    again = run_step("compose", project, refresh=True)
    assert not again.reused
    assert again.summary["embedded"] == 0
    assert table.read_bytes() == before


@pytest.mark.parametrize("victim", ["scenes/train-00001.png", "truth/held_out-00002.png"])
def test_a_damaged_scene_is_made_again(copied, victim):
    project = load_project(copied)
    file = step_folder(project, "compose") / victim
    before = file.read_bytes()
    file.write_bytes(before[:-5])
    assert intact("compose", project) is None
    run_step("compose", project)
    assert file.read_bytes() == before


def test_a_scene_that_the_store_lost_is_embedded_again(copied):
    project = load_project(copied)
    store = open_store(project)
    index = store.index().set_index("sha256")
    shard = index.loc[read_scenes(project, "train")["sha256"].iloc[0], "shard"]
    store.drop_shard(shard)
    assert intact("compose", project) is None
    assert run_step("compose", project).summary["embedded"] > 0


def test_no_scenes_is_nothing_to_do_and_holds_nothing_out(copied):
    project = load_project(copied, compose={"scenes": 0, "held_out_scenes": 0})
    result = run_step("compose", project)
    assert (result.summary["train"], result.summary["held_out"]) == (0, 0)
    assert held_out_pictures(project) == set()
    assert not list((step_folder(project, "compose") / "scenes").iterdir())
    assert run_step("fit", project).summary["pictures"] == 15


def test_both_levels_share_the_scenes(copied):
    assert run_step("compose", load_project(copied, level="parents")).reused


def test_fit_asks_for_the_scenes_first(copied):
    shutil.rmtree(copied.parent / "out" / "compose")
    with pytest.raises(MissingStepError, match="run `usam compose"):
        run_step("fit", load_project(copied))


def test_what_each_mask_shows_is_what_it_lies_on():
    truth = np.zeros((32, 32), np.uint8)
    truth[:, 16:] = 2
    masks = [box(0, 17, 32, 32), box(0, 0, 32, 14), box(0, 8, 32, 24), box(0, 14, 32, 32)]
    masks.append(np.zeros((32, 32), bool))
    packed = np.packbits(np.asarray(masks), axis=-1)
    found = mask_targets(packed, truth, np.array([7, 0, 4]))
    # Of the fourth, 16 of 18 columns are on the object; the fifth is empty.
    assert found.tolist() == [4, 7, UNKNOWN, 4, UNKNOWN]


@pytest.mark.parametrize("level", ["classes", "parents"])
def test_fit_knows_the_scenes_labels_and_masks_at_both_levels(composed, level):
    head = {"composed": "masks", "background": True, "steps": 2, "hidden": [8, 8, 8]}
    project = load_project(composed, level=level, head=head)
    taught = lessons(project, open_store(project))
    names = project.config.label_names
    scenes = read_scenes(project, "train").set_index("sha256")
    assert taught.scenes == 5
    label_of = project.config.label_of
    for sha256, label, target in zip(taught.shas, taught.labels, taught.targets, strict=True):
        here = {names[number] for number in np.flatnonzero(label)}
        if sha256 in scenes.index:
            assert here == {label_of[name] for name in scenes.loc[sha256, "labels"]}
            assert {names[t] for t in target if 0 <= t < len(names)} <= here
        else:
            assert (target == UNKNOWN).all()
    known = taught.targets[-5:]
    assert (known == len(names)).any(), "some masks lie on no object"
    assert ((known >= 0) & (known < len(names))).any(), "some lie on one"


def test_without_the_option_scenes_change_nothing_of_the_head(copied):
    def weights(**changes):
        project = load_project(copied, **changes)
        run_step("compose", project)
        run_step("fit", project, refresh=True)
        return (step_folder(project, "fit") / "student.safetensors").read_bytes()

    held = {"held_out_scenes": 4, "held_out": 0.4, "size": 96}
    head = {"steps": 3, "hidden": [16, 8, 8], "composed": "off", "background": False}
    with_scenes = weights(compose={"scenes": 5, **held}, head=head)
    assert weights(compose={"scenes": 0, **held}, head=head) == with_scenes
    learned = weights(compose={"scenes": 5, **held}, head={**head, "composed": "bags"})
    assert learned != with_scenes


@pytest.mark.slow
def test_negative_names_are_collected_and_learned_and_never_listed(copied):
    values = yaml.safe_load(copied.read_text())
    values["negatives"] = ["star"]
    values["compose"]["backgrounds"] = ["negative"]
    values["head"] |= {"composed": "masks", "background": True}
    values["inference"]["threshold"] = 0.0
    copied.write_text(yaml.safe_dump(values))
    project = load_project(copied)
    results = {step: run_step(step, project) for step in STEPS}
    assert results["collect"].summary["per_class"]["star"] == 5
    scenes = read_scenes(project, "train")
    assert set(scenes["background"]) == {"negative"}
    assert "star" not in set(scenes["labels"].explode())
    card = json.loads((step_folder(project, "fit") / "student.card.json").read_text())
    assert card["classes"] == ["disc", "ring", "rod"]
    assert card["training_pictures"]["star"] == 3
    coco = json.loads((step_folder(project, "annotate") / "coco.json").read_text())
    assert [category["name"] for category in coco["categories"]] == ["disc", "ring", "rod"]
    for png in (step_folder(project, "annotate") / "masks").glob("*.png"):
        assert read_label_png(png).max() <= 3
    assert set(results["evaluate"].summary["per_class_iou"]) == {"background", *card["classes"]}


def test_a_name_is_a_class_or_a_negative(composed):
    with pytest.raises(ConfigError, match=r"negatives.*'rod', which names 'rod' already"):
        load_project(composed, negatives=["rod"])
    with pytest.raises(ConfigError, match=r"expected compose\.scenes above 0"):
        load_project(composed, compose={"scenes": 0}, head={"background": True})


class _Given:
    """A generator whose numbers are given."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return 0.9  # no flip

    def uniform(self, low, high):
        return self.numbers.pop(0)


def test_of_an_object_that_sticks_out_of_the_frame_the_part_inside_is_shown():
    rgb = np.zeros((40, 40, 3), np.uint8)
    rgb[:, :20, 0] = rgb[:, 20:, 2] = 255  # red, and blue on the right
    cutout = Cutout("two", "x", rgb, np.ones((40, 40), bool))
    # Half of 80 pixels large, its first row at the top, ten columns beyond the left border.
    placed = cutouts._placed(_Given(0.5, 0, -10), cutout, (80, 80), ComposeConfig())
    color, cover, area = placed
    assert area == 1600
    assert np.array_equal(color[5, [2, 15]], [[255, 0, 0], [0, 0, 255]])
    assert (cover[5, [0, 29]] == 1).all()
    assert not cover[5, 30:].any()


@pytest.mark.parametrize(
    ("count", "classes", "scenes"),
    [(12, 1, 60), (12, 2, 36), (12, 3, 29), (12, 4, 24), (239, 9, 24), (240, 9, 60), (240, 2, 60)],
)
def test_scenes_for_calibration_grow_with_the_project(
    tiny_project, monkeypatch, count, classes, scenes
):
    names = list(SHAPES)[:classes]
    project = load_project(tiny_project, compose={}, classes=names)
    monkeypatch.setattr(compose_step.embed, "wanted_files", lambda _: dict.fromkeys(range(count)))
    assert compose_step.wanted_scenes(project) == {"train": 0, "held_out": scenes}
    project = load_project(tiny_project, compose={"held_out_scenes": 7})
    assert compose_step.wanted_scenes(project)["held_out"] == 7
