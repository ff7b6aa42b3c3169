"""The demo's world: drawn scenes with exact truth, and two projects that share one store.

The images to be labelled are drawn with another seed and another camera (blur, noise, uneven
light) than the training pictures, so that the demo measures something.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml
from PIL import Image

from usam_core.files.atomic import whole_file
from usam_core.files.digest import file_digest
from usam_core.labels.label_map import LabelMap
from usam_core.masks.label_png import save_label_png
from usam_core.masks.rle import mask_record
from usam_core.outputs.lists import write_coco
from usam_core.rng import generator
from usam_core.sources.scenes import FIELD_LOOK, scene

DEMO_CLASSES = {
    "disc": "round things",
    "ring": "round things",
    "crescent": "round things",
    "rod": "long things",
    "wave": "long things",
    "star": "cornered things",
    "cross": "cornered things",
    "triangle": "cornered things",
}
"""Names drawn in the demo, and the coarser class of each."""

TRUTH = "truth.json"
"""Every drawn object with its mask, as COCO instances; `truth/` shows the same as label PNGs."""

_SCENE_SEED = 1000
_SIZE_HW = (288, 384)
_SMALLEST = 0.15
_THRESHOLD = 0.6  # on drawn surfaces the head is surer than on photographs
_DROPOUT = 0.3  # 0.9 needs more steps than the demo has time for
_FAMILIAR = 0.0  # all shapes wear the same surfaces: their means say little of outlines
_HELD_OUT_SCENES = 12  # each is a second of SAM
_SCENE_SIDE = 384
_STEPS = 100  # enough for so few pictures, and the demo is waited for

_HEADER = """\
# A usam project made by `usam demo`. Run it with: usam run {name}
# Coarser classes from the same embeddings:        usam run {name} --level parents
"""


class Demo(NamedTuple):
    """Project files of a demo; they share one store."""

    default: Path
    papers: Path


def prepare_demo(folder: Path, scenes: int = 32, pictures: int = 20, seed: int = 0) -> Demo:
    """Draw the scenes and write the two project files; what exists already is left alone.

    Each class gets so many `pictures` for training, drawn later by the collect step. Scenes and
    training pictures never share random numbers.
    """
    if not (folder / TRUTH).exists():
        labels = LabelMap.of_names(list(DEMO_CLASSES))
        rows = [_draw_scene(folder, number, seed, labels) for number in range(scenes)]
        header = {"info": {"description": "usam"}, "categories": labels.categories()}
        write_coco(folder / TRUTH, header, rows)
    demo = Demo(folder / "project.yaml", folder / "papers.yaml")
    ours = {
        "compose": {"scenes": 0, "held_out_scenes": _HELD_OUT_SCENES, "size": _SCENE_SIDE},
        "head": {"steps": _STEPS, "dropout": _DROPOUT, "familiar": _FAMILIAR},
        "inference": {"threshold": _THRESHOLD},
        "outputs": {"path": "out"},
    }
    theirs = {"recipe": "papers", "outputs": {"path": "out/papers", "store": "out/store"}}
    for path, settings in ((demo.default, ours), (demo.papers, theirs)):
        if path.exists():
            continue
        project = {
            "name": f"demo-{path.stem}",
            "classes": [{"name": name, "parent": parent} for name, parent in DEMO_CLASSES.items()],
            "images": {"path": "images"},
            "training": {"source": "render", "render": {"per_class": pictures}},
            **settings,
            "evaluation": {"format": "coco", "path": TRUTH},
            "seed": seed,
        }
        text = yaml.safe_dump(project, sort_keys=False, allow_unicode=True)
        with whole_file(path) as temporary:
            temporary.write_text(_HEADER.format(name=path.name) + text, encoding="utf-8")
    return demo


def _draw_scene(folder: Path, number: int, seed: int, labels: LabelMap) -> dict[str, Any]:
    """Draw a scene and its label PNG; return its row of the COCO JSON of all."""
    classes, ids = labels.names, labels.ids()
    rng = generator(seed + _SCENE_SEED, "demo", number)
    drawn = scene(rng, classes, _SIZE_HW, FIELD_LOOK, smallest=_SMALLEST)
    image = folder / "images" / f"scene_{number:03d}.png"
    with whole_file(image) as temporary:
        Image.fromarray(drawn.image).save(temporary, format="PNG")
    save_label_png(folder / "truth" / image.name, drawn.label_map(classes))
    return {
        "image": {
            "file_name": image.name,
            "height": _SIZE_HW[0],
            "width": _SIZE_HW[1],
            "sha256": file_digest(image),
        },
        "annotations": [
            mask_record(drawn.instances == value, ids[name])
            for value, name in enumerate(drawn.names, start=1)
            if (drawn.instances == value).any()
        ],
    }
