"""Training pictures that are drawn: simple named shapes, for the demo and for tests."""

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from usam_core.config.training import ClassSpec, RenderConfig
from usam_core.errors import InputError
from usam_core.files.atomic import whole_file
from usam_core.files.digest import file_digest
from usam_core.progress import Progress
from usam_core.rng import generator
from usam_core.sources.base import Collected, TrainingPicture, class_folder
from usam_core.sources.scenes import TRAINING_LOOK, single_object
from usam_core.sources.shapes import SHAPES

RENDER_REVISION = 1
"""Raised when the same settings draw other pictures than before."""


class RenderSource:
    """Draws pictures of a shape's name into `<folder>/<class name>/`.

    Picture i of a class follows from (seed, class, i) alone: more pictures later, or a run that
    was interrupted, leave those that exist as they are.

    Args:
        folder: where the pictures go.
        config: how many and how large.
        seed: the project's seed.
    """

    name = "render"
    wanted = None
    filtered = False  # a disc looks like a disc: near duplicates are meant

    def __init__(self, folder: Path, config: RenderConfig, seed: int) -> None:
        self._folder = folder
        self._config = config
        self._seed = seed

    def inputs(self, spec: ClassSpec) -> Any:
        """Return what decides the drawing."""
        return {
            "revision": RENDER_REVISION,
            "class": _drawable(spec),
            "seed": self._seed,
            **self._config.model_dump(),
        }

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Draw what is missing; return the class's pictures."""
        del spare
        shape = _drawable(spec)
        folder = self._folder_of(spec)
        pictures = []
        with progress.bar(f"Drawing {spec.name}", self._config.per_class) as bar:
            for number in range(self._config.per_class):
                path = folder / f"{number:04d}.png"
                if not path.exists():
                    rng = generator(self._seed, "render", shape, number)
                    drawn = single_object(rng, shape, self._config.size, TRAINING_LOOK)
                    with whole_file(path) as temporary:
                        Image.fromarray(drawn.image).save(temporary, format="PNG")
                pictures.append(
                    TrainingPicture(
                        class_name=spec.name,
                        path=str(path),
                        sha256=file_digest(path),
                        bytes=path.stat().st_size,
                        source=self.name,
                        provenance={"shape": shape, "seed": self._seed, "number": number},
                    )
                )
                bar.advance()
        return Collected(pictures)

    def forget(self, spec: ClassSpec) -> None:
        """Delete the class's drawings."""
        shutil.rmtree(self._folder_of(spec), ignore_errors=True)

    def _folder_of(self, spec: ClassSpec) -> Path:
        settings = f"{self._config.size}-{self._seed}-{RENDER_REVISION}"
        return self._folder / f"{class_folder(spec.name)}-{settings}"


def _drawable(spec: ClassSpec) -> str:
    for word in (spec.name, *spec.synonyms):
        if word in SHAPES:
            return word
    raise InputError(
        f"classes: {spec.name!r} cannot be drawn; training.source 'render' knows "
        f"{sorted(SHAPES)}. Use one of them, or training.source: folder"
    )
