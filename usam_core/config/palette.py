"""Labels and their colours: the PASCAL VOC palette, and the user's own."""

from collections.abc import Mapping, Sequence

import numpy as np

MAX_CLASSES = 2**15 - 1
"""Labels of truth have 16 bit and a sign: what is void there is no class's number."""


def label_dtype(classes: int) -> type[np.uint8] | type[np.uint16]:
    """Return the smallest type that holds the labels 0 to c and, as its largest value, void."""
    return np.uint8 if classes < 255 else np.uint16


def voc_palette(colors: int = 256) -> np.ndarray:
    """Return the VOC palette, uint8 (colours, 3).

    The bits of an index are dealt in turn to red, green and blue, highest bit of the colour first.

    >>> voc_palette()[:3].tolist()
    [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    index = np.arange(colors)
    palette = np.zeros((colors, 3), np.uint8)
    for place in range(8):
        for channel in range(3):
            bit = (index >> (3 * place + channel)) & 1
            palette[:, channel] |= (bit << (7 - place)).astype(np.uint8)
    return palette


def class_colors(classes: Sequence[str], chosen: Mapping[str, str | None]) -> np.ndarray:
    """Return the colour of background and of each class, uint8 (c + 1, 3).

    Args:
        classes: names in the order of the labels 1, 2, ...
        chosen: the user's colour by class name as "#rrggbb"; the others take the VOC palette's.
    """
    colors = voc_palette(len(classes) + 1)
    for color, name in zip(colors[1:], classes, strict=True):
        text = chosen.get(name)
        if text:
            color[:] = np.frombuffer(bytes.fromhex(text[1:]), np.uint8)
    return colors
