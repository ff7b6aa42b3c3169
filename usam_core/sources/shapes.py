"""Outlines of simple named objects: the vocabulary of the demo and of the nano SAM's scenes.

An outline is float64 (k, 2), column before row, centred on 0 and reaching about 1 from it. A
shape is a list of outlines; by the even-odd rule the second cuts a hole into the first.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

Outline = np.ndarray
Shape = list[Outline]

_TURN = 2 * np.pi


def _circle(radius: float = 1.0, corners: int = 48) -> Outline:
    angle = np.linspace(0, _TURN, corners, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _polygon(corners: int) -> Outline:
    return _circle(corners=corners)


def _disc(rng: np.random.Generator) -> Shape:
    return [_circle() * (1.0, rng.uniform(0.8, 1.0))]


def _ring(rng: np.random.Generator) -> Shape:
    return [_circle(), _circle(rng.uniform(0.45, 0.65))]


def _crescent(rng: np.random.Generator) -> Shape:
    # The outer arc of a circle, closed by the arc of a second one that is moved aside.
    shift = rng.uniform(0.45, 0.65)
    half = np.arccos(shift / 2)
    outer = np.linspace(half, _TURN - half, 40)
    inner = np.linspace(np.pi + half, np.pi - half, 28)
    return [
        np.concatenate(
            [
                np.stack([np.cos(outer), np.sin(outer)], axis=1),
                np.stack([np.cos(inner) + shift, np.sin(inner)], axis=1),
            ]
        )
    ]


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
    return [_polygon(10) * radius[:, None]]


def _cross(rng: np.random.Generator) -> Shape:
    w = rng.uniform(0.22, 0.32)
    quarter = np.array([(1, -w), (1, w), (w, w)])
    turn = np.array([[0, 1], [-1, 0]])
    return [np.concatenate([quarter @ np.linalg.matrix_power(turn, i) for i in range(4)])]


def _triangle(rng: np.random.Generator) -> Shape:
    return [_polygon(3) * (1.0, rng.uniform(0.85, 1.0))]


def _square(rng: np.random.Generator) -> Shape:
    return [_polygon(4) * (1.0, rng.uniform(0.9, 1.0))]


SHAPES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "disc": _disc,
    "ring": _ring,
    "crescent": _crescent,
    "rod": _rod,
    "wave": _wave,
    "arrow": _arrow,
    "star": _star,
    "cross": _cross,
    "triangle": _triangle,
    "square": _square,
}
"""The names that can be drawn; each function varies its shape within what the name means."""


def blob(rng: np.random.Generator) -> Shape:
    """Return a smooth or cornered closed outline without a name, sometimes with a hole.

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
    if rng.random() < 0.1:
        return [outline, outline * rng.uniform(0.3, 0.7)]
    return [outline]


def place(shape: Shape, center_xy: tuple[float, float], radius: float, angle: float) -> Shape:
    """Turn a shape by `angle` (radians), scale it to `radius` pixels, move it to a centre."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [outline @ turn * radius + center_xy for outline in shape]


def color(rng: np.random.Generator) -> np.ndarray:
    """Return one colour, float32 (3,), 0 to 255, not nearly black."""
    return rng.uniform(15, 245, 3).astype(np.float32)


def noise_field(rng: np.random.Generator, size_hw: tuple[int, int], cells: int) -> np.ndarray:
    """Return smooth noise, float32 (h, w), mean 0, deviation about 1, `cells` bumps across."""
    h, w = size_hw
    coarse = rng.normal(size=(cells + 3, cells + 3)).astype(np.float32)
    rows = np.linspace(1, cells + 1, h, dtype=np.float32)
    columns = np.linspace(1, cells + 1, w, dtype=np.float32)
    grid = np.meshgrid(rows, columns, indexing="ij")
    return ndimage.map_coordinates(coarse, grid, order=1)


def surface(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Return a textured patch, float32 (h, w, 3), about 0 to 255.

    One of: plain, gradient, smooth clouds, stripes, speckle, cells of two colours.
    """
    h, w = size_hw
    base, other = color(rng), color(rng)
    kind = rng.choice(["plain", "gradient", "clouds", "stripes", "speckle", "cells"])
    rows, columns = np.mgrid[0:h, 0:w].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = rows * np.sin(angle) + columns * np.cos(angle)
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


def shading(rng: np.random.Generator, size_hw: tuple[int, int], strength: float) -> np.ndarray:
    """Return a lighting factor, float32 (h, w, 1), around 1, falling off across the picture."""
    h, w = size_hw
    rows, columns = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    slope = rows * np.sin(angle) + columns * np.cos(angle)
    return (1 + strength * slope)[..., None]


def camera(
    rng: np.random.Generator, picture: np.ndarray, *, blur: float, noise: float, light: float
) -> np.ndarray:
    """Return the picture as a camera sees it: uneven light, blur, noise; uint8 (h, w, 3).

    Args:
        rng: source of the noise.
        picture: float32 (h, w, 3), 0 to 255.
        blur: largest standard deviation of the blur, pixels.
        noise: largest standard deviation of the noise, grey levels.
        light: largest relative change of light across the picture.
    """
    lit = picture * shading(rng, picture.shape[:2], rng.uniform(0, light))
    sigma = rng.uniform(0, blur)
    if sigma > 0.3:
        lit = ndimage.gaussian_filter(lit, (sigma, sigma, 0))
    lit = lit + rng.normal(0, rng.uniform(0, noise), lit.shape)
    return np.clip(lit, 0, 255).astype(np.uint8)
