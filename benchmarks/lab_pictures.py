"""Drawn single-object pictures of nuclei and bacteria, as microscopes show them.

They stand in for what a laboratory has and we may not take: crops of its own images. Everything is
drawn from numbers; no photograph is read.

    s  side of a picture, pixels
"""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from usam_core.rng import generator

SIDE = 128
NUCLEUS, BACTERIUM = "nucleus", "bacterium"
CYTOPLASM, EMPTY = "cytoplasm", "empty field"
WHITE_SLIDE, PURPLE_SLIDE = (238, 230, 238), (196, 166, 238)
"""What a stained slide shows between its cells: glass, or tissue."""
VIOLET = (88, 34, 140)


def draw_pictures(folder: Path, per_kind: int, seed: int) -> dict[str, int]:
    """Write `folder/<class>/<kind>_<number>.png`; return how many pictures each class got.

    Args:
        folder: of the class folders; pictures that are there already are written again.
        per_kind: pictures of each kind of microscopy.
        seed: everything random follows from it.
    """
    counts: dict[str, int] = {}
    for class_name, kinds in KINDS.items():
        (folder / class_name).mkdir(parents=True, exist_ok=True)
        for kind, draw in kinds.items():
            for number in range(per_kind):
                picture = draw(generator(seed, "lab", class_name, kind, number))
                Image.fromarray(picture).save(folder / class_name / f"{kind}_{number:03d}.png")
        counts[class_name] = per_kind * len(kinds)
    return counts


def draw_sheet(file: Path, columns: int, seed: int) -> None:
    """Write one picture that shows a row of each kind, as docs/lab-example.md does."""
    rows = [
        np.hstack([draw(generator(seed, "lab", name, kind, n)) for n in range(columns)])
        for name, kinds in KINDS.items()
        for kind, draw in kinds.items()
    ]
    sheet = Image.fromarray(np.vstack(rows))
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(file)


def fluorescent_nucleus(random: np.random.Generator) -> np.ndarray:
    """Return a bright, blurred nucleus on a dark, hazy field, uint8 (s, s, 3)."""
    light = random.uniform(50, 250) * (0.75 + 0.25 * _grain(random, random.uniform(2, 6)))
    grey = _dark_field(random) + light * _blob(random)
    return _taken(random, grey, blur=random.uniform(0.5, 2.0), noise=random.uniform(1, 8))


def stained_nucleus(random: np.random.Generator) -> np.ndarray:
    """Return a violet nucleus in tissue or on glass, uint8 (s, s, 3)."""
    picture = _stained_field(random)
    if random.random() < 0.5:
        around = 0.5 * _blob(random, scale=1.5)
        picture = _mixed(picture, np.array([222, 170, 214.0]), around)
    ink = np.array(VIOLET) * random.uniform(0.6, 1.4) + random.normal(0, 12, 3)
    cover = _blob(random) * (0.85 + 0.15 * _grain(random, 3))
    return _taken(random, _mixed(picture, ink, cover), random.uniform(0.4, 1.2), 4)


def brightfield_nucleus(random: np.random.Generator) -> np.ndarray:
    """Return a small dark nucleus in a grey cell on white, uint8 (s, s, 3)."""
    grey = _bright_cell(random)
    cover = _blob(random, scale=random.uniform(0.25, 0.5))
    grey = grey * (1 - cover) + random.uniform(30, 90) * cover
    return _taken(random, grey, random.uniform(0.5, 1.2), random.uniform(1, 5))


def phase_bacterium(random: np.random.Generator) -> np.ndarray:
    """Return a dark rod with a bright rim on grey, uint8 (s, s, 3)."""
    far, radius = _rod(random)
    field = random.uniform(60, 150)
    grey = field + 6 * (_grain(random, 5) - 0.5)
    rim = np.exp(-(((far - radius - 3) / 3) ** 2))
    grey = grey + random.uniform(20, 90) * rim
    inside = np.clip(radius - far + 0.5, 0, 1)
    core = np.clip(radius * 0.5 - far + 0.5, 0, 1) * random.choice([0, 0.6])
    ink = field * random.uniform(0.15, 0.5) + (225 - field * 0.3) * core
    grey = grey * (1 - inside) + ink * inside
    return _taken(random, grey, random.uniform(0.5, 1.3), random.uniform(1, 5))


def bright_cytoplasm(random: np.random.Generator) -> np.ndarray:
    """Return a grey cell on white whose nucleus is not there, uint8 (s, s, 3)."""
    return _taken(random, _bright_cell(random), random.uniform(0.5, 1.2), random.uniform(1, 5))


def stained_tissue(random: np.random.Generator) -> np.ndarray:
    """Return stained tissue between nuclei, uint8 (s, s, 3)."""
    cloud = np.array([215, 160, 220.0])
    picture = _mixed(_stained_field(random), cloud, 0.6 * _blob(random, scale=1.8))
    return _taken(random, picture, random.uniform(0.4, 1.2), 5)


def dark_field(random: np.random.Generator) -> np.ndarray:
    """Return fluorescence without a nucleus, uint8 (s, s, 3)."""
    grey = _dark_field(random) + random.uniform(5, 40) * _grain(random, 25)
    return _taken(random, grey, random.uniform(0.5, 2), random.uniform(3, 9))


def grey_field(random: np.random.Generator) -> np.ndarray:
    """Return phase contrast without a bacterium, uint8 (s, s, 3)."""
    grey = random.uniform(60, 150) + 25 * (_grain(random, 20) - 0.5)
    return _taken(random, grey, 1, random.uniform(4, 8))


def white_field(random: np.random.Generator) -> np.ndarray:
    """Return brightfield without a cell but with dust, uint8 (s, s, 3)."""
    grey = np.full((SIDE, SIDE), random.uniform(205, 240))
    for _ in range(3):
        grey -= random.uniform(20, 90) * _blob(random, scale=0.1, spread=40)
    return _taken(random, grey, 1, random.uniform(4, 7))


KINDS = {
    NUCLEUS: {
        "fluorescence": fluorescent_nucleus,
        "stained": stained_nucleus,
        "brightfield": brightfield_nucleus,
    },
    BACTERIUM: {"phase": phase_bacterium},
    CYTOPLASM: {"brightfield": bright_cytoplasm, "stained": stained_tissue},
    EMPTY: {"fluorescence": dark_field, "phase": grey_field, "brightfield": white_field},
}
"""Who draws the pictures of each class, by kind of microscopy; the last two are negatives."""


def _places() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    return rows, columns


def _grain(random: np.random.Generator, sigma: float) -> np.ndarray:
    """Return smooth noise from 0 to 1, (s, s)."""
    noise = gaussian_filter(random.normal(size=(SIDE, SIDE)), sigma, mode="wrap")
    return (noise - noise.min()) / np.ptp(noise)


def _blob(random: np.random.Generator, scale: float = 1.0, spread: float = 8.0) -> np.ndarray:
    """Return how much of each pixel a bulging ellipse covers, (s, s)."""
    rows, columns = _places()
    rows, columns = rows - random.normal(0, spread), columns - random.normal(0, spread)
    angle = np.arctan2(rows, columns)
    long = random.uniform(16, 42) * scale
    short = long * random.uniform(0.5, 1.0)
    turned = angle - random.uniform(0, np.pi)
    edge = long * short / np.hypot(short * np.cos(turned), long * np.sin(turned))
    for waves in (2, 3, 4):
        edge = edge * (1 + random.normal(0, 0.04) * np.cos(waves * angle + random.uniform(0, 6)))
    return np.clip(edge - np.hypot(rows, columns) + 0.5, 0, 1)


def _rod(random: np.random.Generator) -> tuple[np.ndarray, float]:
    """Return how far each pixel is from a bent line, (s, s), and the rod's radius."""
    rows, columns = _places()
    turn, length = random.uniform(0, np.pi), random.uniform(30, 100)
    along = np.linspace(-0.5, 0.5, 40) * length
    across = random.normal(0, 0.1) * length * (4 * (along / length) ** 2 - 0.3)
    line_x = along * np.cos(turn) - across * np.sin(turn)
    line_y = along * np.sin(turn) + across * np.cos(turn)
    far = np.hypot(rows[..., None] - line_y, columns[..., None] - line_x).min(axis=-1)
    return far, random.uniform(6, 13)


def _dark_field(random: np.random.Generator) -> np.ndarray:
    return random.uniform(2, 30) * (0.7 + 0.6 * _grain(random, 30))


def _bright_cell(random: np.random.Generator) -> np.ndarray:
    grey = np.full((SIDE, SIDE), random.uniform(205, 240))
    body = _blob(random, scale=1.6) * (0.8 + 0.2 * _grain(random, 4))
    return grey * (1 - body) + random.uniform(130, 185) * body


def _stained_field(random: np.random.Generator) -> np.ndarray:
    base = np.array(WHITE_SLIDE if random.random() < 0.5 else PURPLE_SLIDE, float)
    return base + 22 * (_grain(random, random.uniform(2, 8))[..., None] - 0.5)


def _mixed(picture: np.ndarray, ink: np.ndarray, cover: np.ndarray) -> np.ndarray:
    return picture * (1 - cover[..., None]) + ink * cover[..., None]


def _taken(
    random: np.random.Generator, picture: np.ndarray, blur: float, noise: float
) -> np.ndarray:
    """Return a picture as a camera takes it, uint8 (s, s, 3); grey ones get three channels."""
    soft = gaussian_filter(picture, (blur, blur, 0)[: picture.ndim])
    seen = np.clip(soft + random.normal(0, noise, soft.shape), 0, 255).astype(np.uint8)
    return seen if seen.ndim == 3 else np.repeat(seen[..., None], 3, axis=-1)
