"""Drawn pictures of simple named objects with their exact truth: single objects and scenes.

The vocabulary of the demo, of the tests and of the nano SAM's training. An outline is float64
(k, 2), column before row, centered on 0 and reaching about 1 from it. A shape is a list of
outlines; by the even-odd rule the second cuts a hole into the first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw
from scipy import ndimage

from usam_core.config.training import label_dtype
from usam_core.labels.label_map import LabelMap

Outline = np.ndarray
Shape = list[Outline]

_TURN = 2 * np.pi
_SUPERSAMPLING = 3


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture is taken: largest deviation of blur (pixels) and noise (gray levels), and
    largest relative change of light across the picture."""

    blur: float = 0.6
    noise: float = 6.0
    light: float = 0.15


TRAINING_LOOK = Look()
"""The demo's training pictures: a clean camera."""
FIELD_LOOK = Look(blur=1.4, noise=16.0, light=0.45)
"""The demo's images to be labelled: out of focus, noisy, lit from one side."""


def _circle(radius: float = 1.0, corners: int = 48) -> Outline:
    angle = np.linspace(0, _TURN, corners, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _crescent(rng: np.random.Generator) -> Shape:
    # The outer arc of a circle, closed by the arc of a second one that is moved aside.
    shift = rng.uniform(0.45, 0.65)
    half = np.arccos(shift / 2)
    outer = np.linspace(half, _TURN - half, 40)
    inner = np.linspace(np.pi + half, np.pi - half, 28)
    arcs = [(np.cos(outer), np.sin(outer)), (np.cos(inner) + shift, np.sin(inner))]
    return [np.concatenate([np.stack(arc, axis=1) for arc in arcs])]


def _rod(rng: np.random.Generator) -> Shape:
    half = rng.uniform(0.10, 0.16)
    angle = np.linspace(-np.pi / 2, np.pi / 2, 12)
    cap = half * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    end = np.array([1 - half, 0])
    return [np.concatenate([cap + end, -cap - end])]


def _wave(rng: np.random.Generator) -> Shape:
    half, height = rng.uniform(0.08, 0.12), rng.uniform(0.22, 0.32)
    along = np.linspace(-1, 1, 40)
    middle = height * np.sin(along * np.pi * 1.5)
    slope = np.gradient(middle, along)
    normal = np.stack([-slope, np.ones_like(slope)], axis=1)
    normal *= half / np.linalg.norm(normal, axis=1, keepdims=True)
    line = np.stack([along, middle], axis=1)
    return [np.concatenate([line + normal, (line - normal)[::-1]])]


def _arrow(rng: np.random.Generator) -> Shape:
    shaft, head, neck = rng.uniform(0.08, 0.13), rng.uniform(0.32, 0.42), rng.uniform(0.2, 0.4)
    upper = np.array([(-1, shaft), (neck, shaft), (neck, head), (1, 0)])
    return [np.concatenate([upper, upper[-2::-1] * (1, -1)])]


def _star(rng: np.random.Generator) -> Shape:
    radius = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.38, 0.48))
    return [_circle(corners=10) * radius[:, None]]


def _cross(rng: np.random.Generator) -> Shape:
    w = rng.uniform(0.22, 0.32)
    quarter = np.array([(1, -w), (1, w), (w, w)])
    turn = np.array([[0, 1], [-1, 0]])
    return [np.concatenate([quarter @ np.linalg.matrix_power(turn, i) for i in range(4)])]


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "disc": lambda rng: [_circle() * (1.0, rng.uniform(0.8, 1.0))],
    "ring": lambda rng: [_circle(), _circle(rng.uniform(0.45, 0.65))],
    "crescent": _crescent,
    "rod": _rod,
    "wave": _wave,
    "arrow": _arrow,
    "star": _star,
    "cross": _cross,
    "triangle": lambda rng: [_circle(corners=3) * (1.0, rng.uniform(0.85, 1.0))],
    "square": lambda rng: [_circle(corners=4) * (1.0, rng.uniform(0.9, 1.0))],
}
"""The names that can be drawn; each function varies its shape within what the name means."""


def blob(rng: np.random.Generator) -> Shape:
    """A smooth or cornered closed outline without a name, sometimes with a hole.

    Only the nano SAM's class-agnostic training draws these.
    """
    corners = int(rng.integers(40, 60))
    angle = np.linspace(0, _TURN, corners, endpoint=False)
    radius = np.ones(corners)
    for wave in range(2, 6):
        radius += rng.normal(0, 0.35 / wave) * np.cos(wave * angle + rng.uniform(0, _TURN))
    radius = np.clip(radius, 0.25, None)
    outline = _circle(corners=corners) * (radius / radius.max())[:, None]
    if rng.random() < 0.3:
        outline = outline[:: int(rng.integers(5, 12))]
    outline = outline * (1.0, rng.uniform(0.3, 1.0))
    return [outline, outline * rng.uniform(0.3, 0.7)] if rng.random() < 0.1 else [outline]


def place(shape: Shape, center_xy: tuple[float, float], radius: float, angle: float) -> Shape:
    """Turn a shape by `angle` (radians), scale it to `radius` pixels, move it to a center."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [outline @ turn * radius + center_xy for outline in shape]


def noise_field(rng: np.random.Generator, size_hw: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise, float32 (h, w), mean 0, deviation about 1, `cells` bumps across."""
    h, w = size_hw
    coarse = rng.normal(size=(cells + 3, cells + 3)).astype(np.float32)
    rows = np.linspace(1, cells + 1, h, dtype=np.float32)
    columns = np.linspace(1, cells + 1, w, dtype=np.float32)
    grid = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(coarse, grid, order=1)


def surface(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """A textured patch of two colors, float32 (h, w, 3), about 0 to 255."""
    h, w = size_hw
    base, other = (rng.uniform(15, 245, 3).astype(np.float32) for _ in range(2))
    kind = rng.choice(["plain", "gradient", "clouds", "stripes", "speckle", "cells"])
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
    mix: np.ndarray
    if kind == "plain":
        mix = np.zeros((h, w), np.float32)
    elif kind == "gradient":
        mix = (along - along.min()) / (np.ptp(along) + 1e-6)
    elif kind == "clouds":
        mix = 0.5 + 0.3 * noise_field(rng, size_hw, int(rng.integers(3, 12)))
    elif kind == "stripes":
        period = rng.uniform(4, max(5.0, max(h, w) / 5))
        mix = 0.5 + 0.5 * np.sin(along * 2 * np.pi / period)
    elif kind == "speckle":
        mix = (noise_field(rng, size_hw, int(rng.integers(20, 50))) > 0.8).astype(np.float32)
    else:
        mix = (noise_field(rng, size_hw, int(rng.integers(4, 16))) > 0).astype(np.float32)
    strength = rng.uniform(0.2, 1.0)
    mix = np.clip(mix, 0, 1)[..., None] * strength
    grain = rng.normal(0, rng.uniform(0, 8), (h, w, 1)).astype(np.float32)
    return base * (1 - mix) + other * mix + grain


def camera(rng: np.random.Generator, picture: np.ndarray, look: Look) -> np.ndarray:
    """A float32 picture, 0 to 255, in uneven light, blurred and noisy, uint8 (h, w, 3)."""
    h, w = picture.shape[:2]
    strength = rng.uniform(0, look.light)
    rows, columns = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rows * np.sin(angle) + columns * np.cos(angle)
    lit = picture * (1 + strength * slope)[..., None]
    sigma = rng.uniform(0, look.blur)
    if sigma > 0.3:
        lit = ndimage.gaussian_filter(lit, (sigma, sigma, 0))
    lit = lit + rng.normal(0, rng.uniform(0, look.noise), lit.shape)
    return np.clip(lit, 0, 255).astype(np.uint8)


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
        """(h, w): 0 background, and ids of the objects' names in `classes`; uint8 or uint16."""
        kind, ids = label_dtype(len(classes)), LabelMap.of_names(classes).ids()
        return np.array([0, *(ids[name] for name in self.names)], kind)[self.instances]


def coverage(shape: Shape, size_hw: tuple[int, int]) -> np.ndarray:
    """How much of each pixel a placed shape covers, float32 (h, w), 0 to 1."""
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
    """Draw 2 to `most` objects that overlap little, of names chosen with repetition.

    `blobs` is the share of objects that are unnamed outlines instead, `smallest` the radius of the
    smallest object, as a share of the picture's shorter side.
    """
    h, w = size_hw
    placed: list[tuple[str, tuple[float, float], float]] = []
    wanted = int(rng.integers(2, most + 1))
    for _ in range(wanted * 8):
        if len(placed) == wanted:
            break
        radius = min(h, w) * rng.uniform(smallest, 0.26)
        x, y = (rng.uniform(radius * 0.6, side - radius * 0.6) for side in (w, h))
        if all(np.hypot(x - a, y - b) > 0.8 * (radius + r) for _, (a, b), r in placed):
            name = "" if rng.random() < blobs else str(rng.choice(list(names)))
            placed.append((name, (x, y), radius))
    return _draw(rng, placed, size_hw, look)


def _draw(
    rng: np.random.Generator,
    objects: Sequence[tuple[str, tuple[float, float], float]],
    size_hw: tuple[int, int],
    look: Look,
) -> Scene:
    picture = surface(rng, size_hw)
    instances = np.zeros(size_hw, np.uint8)
    for number, (name, center, radius) in enumerate(objects, start=1):
        outline = SHAPES[name](rng) if name else blob(rng)
        placed = place(outline, center, radius, rng.uniform(0, 2 * np.pi))
        cover = coverage(placed, size_hw)
        paint = _contrasting(rng, picture, cover, size_hw)
        picture = picture * (1 - cover[..., None]) + paint * cover[..., None]
        instances[cover >= 0.5] = number
    return Scene(camera(rng, picture, look), instances, tuple(name for name, _, _ in objects))


def _contrasting(
    rng: np.random.Generator, picture: np.ndarray, cover: np.ndarray, size_hw: tuple[int, int]
) -> np.ndarray:
    """A surface whose mean color differs from what lies under the object."""
    inside = cover > 0.5
    under = picture[inside].mean(0) if inside.any() else picture.mean((0, 1))
    best = surface(rng, size_hw)
    for _ in range(4):
        if np.abs(best[inside].mean(0) - under).max() > 50 if inside.any() else True:
            break
        best = surface(rng, size_hw)
    return best
