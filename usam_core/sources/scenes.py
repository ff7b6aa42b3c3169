"""Draw pictures of named shapes with their exact truth: single objects, and scenes of several."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from usam_core.config.training import label_dtype
from usam_core.labels.label_map import LabelMap
from usam_core.sources import shapes

_SUPERSAMPLING = 3


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture is taken: the largest blur (pixels), noise (grey levels), change of light."""

    blur: float = 0.6
    noise: float = 6.0
    light: float = 0.15


TRAINING_LOOK = Look()
"""The demo's training pictures: a clean camera."""

FIELD_LOOK = Look(blur=1.4, noise=16.0, light=0.45)
"""The demo's images to be labelled: out of focus, noisy, lit from one side."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn picture and what is in it.

    Attributes:
        image: uint8 (h, w, 3).
        instances: uint8 (h, w), 0 background, i + 1 where object i is on top.
        names: name of each object; empty for unnamed blobs.
    """

    image: np.ndarray
    instances: np.ndarray
    names: tuple[str, ...]

    def label_map(self, classes: Sequence[str]) -> np.ndarray:
        """Return (h, w): 0 background, and ids of the objects' names in `classes`.

        uint8, or uint16 from 255 classes on.
        """
        kind, ids = label_dtype(len(classes)), LabelMap.of_names(classes).ids()
        return np.array([0, *(ids[name] for name in self.names)], kind)[self.instances]


def coverage(shape: shapes.Shape, size_hw: tuple[int, int]) -> np.ndarray:
    """Return how much of each pixel a placed shape covers, float32 (h, w), 0 to 1."""
    h, w = size_hw
    wide = (w * _SUPERSAMPLING, h * _SUPERSAMPLING)
    mask = Image.new("1", wide)
    for outline in shape:
        # Outlines toggle each other: a second one inside the first is a hole.
        layer = Image.new("1", wide)
        points = [tuple(point) for point in (outline * _SUPERSAMPLING).tolist()]
        ImageDraw.Draw(layer).polygon(points, fill=1)
        mask = ImageChops.logical_xor(mask, layer)
    return np.asarray(mask.convert("L").resize((w, h), Image.Resampling.BOX), np.float32) / 255


def single_object(rng: np.random.Generator, name: str, size: int, look: Look) -> Scene:
    """Draw one object of a name on a textured background, `size` pixels square."""
    radius = size * rng.uniform(0.16, 0.42)
    center = tuple(rng.uniform(size * 0.4, size * 0.6, 2))
    return _draw(rng, [(name, center, radius)], (size, size), look)


def scene(
    rng: np.random.Generator,
    names: Sequence[str],
    size_hw: tuple[int, int],
    look: Look,
    most: int = 5,
    blobs: float = 0.0,
    smallest: float = 0.1,
) -> Scene:
    """Draw 2 to `most` objects that overlap little.

    Args:
        rng: decides everything.
        names: names to choose from, with repetition.
        size_hw: rows and columns of the picture.
        look: how the picture is taken.
        most: largest number of objects.
        blobs: share of objects that are unnamed outlines instead.
        smallest: radius of the smallest object, as a share of the picture's shorter side.
    """
    h, w = size_hw
    placed: list[tuple[str, tuple[float, float], float]] = []
    wanted = int(rng.integers(2, most + 1))
    for _ in range(wanted * 8):
        if len(placed) == wanted:
            break
        radius = min(h, w) * rng.uniform(smallest, 0.26)
        center = (
            rng.uniform(radius * 0.6, w - radius * 0.6),
            rng.uniform(radius * 0.6, h - radius * 0.6),
        )
        if all(
            np.hypot(center[0] - x, center[1] - y) > 0.8 * (radius + r) for _, (x, y), r in placed
        ):
            name = "" if rng.random() < blobs else str(rng.choice(list(names)))
            placed.append((name, center, radius))
    return _draw(rng, placed, size_hw, look)


def _draw(
    rng: np.random.Generator,
    objects: Sequence[tuple[str, tuple[float, float], float]],
    size_hw: tuple[int, int],
    look: Look,
) -> Scene:
    picture = shapes.surface(rng, size_hw)
    instances = np.zeros(size_hw, np.uint8)
    for number, (name, center, radius) in enumerate(objects, start=1):
        outline = shapes.SHAPES[name](rng) if name else shapes.blob(rng)
        placed = shapes.place(outline, center, radius, rng.uniform(0, 2 * np.pi))
        cover = coverage(placed, size_hw)
        paint = _contrasting(rng, picture, cover, size_hw)
        picture = picture * (1 - cover[..., None]) + paint * cover[..., None]
        instances[cover >= 0.5] = number
    image = shapes.camera(rng, picture, blur=look.blur, noise=look.noise, light=look.light)
    return Scene(image, instances, tuple(name for name, _, _ in objects))


def _contrasting(
    rng: np.random.Generator, picture: np.ndarray, cover: np.ndarray, size_hw: tuple[int, int]
) -> np.ndarray:
    """Return a surface whose mean colour differs from what lies under the object."""
    inside = cover > 0.5
    under = picture[inside].mean(0) if inside.any() else picture.mean((0, 1))
    best = shapes.surface(rng, size_hw)
    for _ in range(4):
        if np.abs(best[inside].mean(0) - under).max() > 50 if inside.any() else True:
            break
        best = shapes.surface(rng, size_hw)
    return best
