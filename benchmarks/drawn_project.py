"""The project of the benchmarks whose images are drawn shapes."""

from pathlib import Path
from typing import Any

import yaml

CLASSES = ["disc", "ring", "rod"]


def write_project(file: Path, side: int, pictures: int, size: int, **sections: Any) -> Path:
    """Write a project for the folder `images` beside it, and return its file.

    Args:
        file: the project file.
        side: the nano SAM gets `side` x `side` prompts an image.
        pictures: training pictures to draw of each class.
        size: their side in pixels.
        sections: more sections, or more keys of those here.
    """
    settings: dict[str, Any] = {
        "classes": CLASSES,
        "images": {"path": "images"},
        "training": {"source": "render", "render": {"per_class": pictures, "size": size}},
        "sam": {"points_per_side": side},
        "compose": {"held_out_scenes": 0},
        "outputs": {"overlays": 0},
    }
    for name, section in sections.items():
        known = settings.get(name)
        settings[name] = {**known, **section} if isinstance(known, dict) else section
    file.write_text(yaml.safe_dump(settings))
    return file
