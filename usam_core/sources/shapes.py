"""Outlines of simple named objects: the vocabulary of the demo and of the nano SAM's scenes.

An outline is float64 (k, 2), column before row, centred on 0 and reaching about 1 from it. A
shape is a list of outlines; by the even-odd rule the second cuts a hole into the first.
"""

from collections.abc import Callable

import numpy as np

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
