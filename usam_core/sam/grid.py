"""The prompts of SAM's automatic mode: a uniform grid of points."""

import numpy as np


def grid_points(points_per_side: int) -> np.ndarray:
    """Return the grid's points as fractions of the image, float32 (d, 2), row by row.

    Points lie at the centres of equal cells of the image itself, not of SAM's padded square, so
    that a wide image wastes none on its padding (the papers leave this open).

    >>> grid_points(2).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    centers = (np.arange(points_per_side, dtype=np.float32) + 0.5) / points_per_side
    columns, rows = np.meshgrid(centers, centers)
    return np.stack([columns.ravel(), rows.ravel()], axis=1)
