"""Surfaces for drawn scenes: colours, noise, stripes, speckle, shading, and the camera's faults."""

import numpy as np
from scipy import ndimage


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
