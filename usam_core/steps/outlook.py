"""What is still to come in a run, roughly: bytes of embeddings, and seconds of the later steps."""

import shutil
from collections.abc import Sequence

from usam_core.config.project import Project
from usam_core.errors import UsamError
from usam_core.progress import size

_BYTES_A_PROMPT = {"float16": 5600, "int8": 2500}
"""Of the nano SAM (docs/speed.md), until the store has an image to count."""

_SECONDS = {
    "fit": (12.0, 0.03),
    "calibrate": (4.0, 0.0),
    "annotate": (2.0, 0.1),
    "evaluate": (2.0, 0.05),
    "export": (1.0, 0.02),
    "report": (3.0, 0.02),
}
"""Seconds of a step, and of it for each image, pictures included; two cores of an AMD EPYC. What
SAM sees is not here: it takes as long as what it has seen."""


def disk(project: Project, images: int) -> str:
    """Say how much disk so many more embeddings will take, and how much is free."""
    need, place = images * bytes_an_image(project), project.store_root
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    text = f"about {size(need)} of disk, {size(free)} free"
    return f"{text}: TOO LITTLE, free some or set outputs.store" if need > free else text


def bytes_an_image(project: Project) -> float:
    """Bytes of an embedding: as a shard of the store has them, else by the number of prompts."""
    from usam_core.steps.embed import open_store
    from usam_core.store.layout import SHARDS

    try:
        store = open_store(project)
        for name in store.shards()[-1:]:
            folder = store.path / SHARDS / name
            total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            if images := len(store.images_of(name)):
                return total / images
    except (UsamError, OSError, ValueError, KeyError):
        pass
    config = project.config
    return config.sam.points_per_side**2 * float(_BYTES_A_PROMPT[config.outputs.precision])


def seconds_of(project: Project, now: str, later: Sequence[str], each: float) -> float:
    """Seconds that later steps will take; 0 before the images have been listed.

    Args:
        now: the step at work.
        later: the steps after it.
        each: seconds that the step at work takes for an item.
    """
    if now == "collect":
        return 0.0
    from usam_core.steps.compose import wanted_scenes
    from usam_core.steps.embed import wanted_files

    images = len(wanted_files(project))
    seconds = 0.0
    for step in later:
        if step == "compose":
            seconds += sum(wanted_scenes(project).values()) * each
        elif step == "describe":
            seconds += images * each
        elif step in _SECONDS:
            fixed, more = _SECONDS[step]
            seconds += fixed + more * images
    return seconds
