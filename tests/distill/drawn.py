"""Drawn scenes whose labels are their truth: something a small model can learn in seconds."""

from PIL import Image

from tests.labelled_run import write_project, write_run
from usam_core.masks.label_png import save_label_png
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene

CLASSES = ["disc", "ring", "rod"]


def drawn_project(root, count, side=96, **settings):
    """Write a labelled project of drawn scenes, three to a folder; return its file."""
    labels = {}
    for number in range(count):
        drawn = scene(generator(9, number), CLASSES, (side, side), TRAINING_LOOK, most=3)
        name = f"plate{number // 3}/s{number}.png"
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(root / "images" / name)
        labels[name] = drawn.label_map(CLASSES).clip(0).astype("uint8")
        (root / "truth" / name).parent.mkdir(parents=True, exist_ok=True)
        save_label_png(root / "truth" / name, labels[name])
    settings["evaluation"] = {"format": "voc", "path": "truth"}
    plain = {"path": "images", "window": "percentile"}
    file = write_project(root, CLASSES, images=plain, **settings)
    write_run(root, labels, CLASSES, **settings)
    return file
