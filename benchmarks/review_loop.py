"""Does review pay? From 0 to 200 decisions of a simulated person, doubt first against random.

    python benchmarks/review_loop.py --data ../shared/data --out out/photographs --picture out
    python benchmarks/review_loop.py --data ../shared/data --out out/photographs --head

The photographs of `tune` are labelled by the default head, and their masks decided on in the order
of `usam review`: by the truth, a mask is called what most of its pixels are (half at least), or
rejected. With `outlines` it also gets the truth's outline where it overlaps that by less than 0.75.
After each 20 decisions: mean IoU over all photographs, and the share of the listed masks that the
truth calls the same.

`--head` fits heads on decisions too: decisions are made on half of the photographs (those of even
digests), and the head is measured on the other half, which nobody has looked at.
"""

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from photographs import NAMES, merged, project
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

from usam_core.config.project import Project
from usam_core.files.atomic import whole_file
from usam_core.labels.image import LabelledImage
from usam_core.masks.rle import encode, inside
from usam_core.review.decisions import SAME_MASK, Decision, append_decision
from usam_core.review.rulings import Rulings
from usam_core.review.sampling import Item
from usam_core.steps import annotate, run_step
from usam_core.steps.record import decisions_file
from usam_core.steps.review import open_review

EVERY, MOST = 20, 200
VOID = 255
MOSTLY = 0.5
COMMON = 10
"""Photographs of a class below which it is not counted as common."""
ORDERS = ("mix", "random")


def read_truth(data: Path, path: str) -> np.ndarray:
    """Return the truth of a photograph, uint8 (h, w)."""
    name = Path(path).with_suffix(".png").name
    return np.asarray(Image.open(data / "voc" / "SegmentationClass" / name))


def true_name(mask: np.ndarray, truth: np.ndarray) -> str | None:
    """Return what most of a mask's pixels are; None for background, or where nothing is most."""
    values = truth[mask]
    counts = np.bincount(values[values != VOID], minlength=len(NAMES) + 1)
    best = int(counts.argmax())
    most = best > 0 and counts[best] >= MOSTLY * counts.sum()
    return NAMES[best - 1] if most else None


def outline(mask: np.ndarray, truth: np.ndarray, name: str) -> np.ndarray:
    """Return the part of the truth of a name that a mask shares most with."""
    parts, _ = ndimage.label(truth == NAMES.index(name) + 1)
    shared = np.bincount(parts[mask & (parts > 0)])
    return parts == shared.argmax()


def decide(item: Item, truth: np.ndarray, number: int, outlines: bool) -> Decision:
    """Decide on a mask as a person who knows the truth would."""
    mask = item.instance.mask()
    label, drawn = true_name(mask, truth), None
    if label is not None and outlines:
        right = encode(outline(mask, truth, label))
        if coco_mask.iou([item.instance.rle], [right], [0])[0, 0] < SAME_MASK:
            drawn = right
    return Decision(
        id=f"{number}",
        time=f"{number:06d}",
        sha256=item.sha256,
        file_name=item.file_name,
        prompt=item.instance.prompt or 0,
        mask=item.instance.rle,
        head_class=item.name,
        label=label,
        sampled=False,
        drawn=drawn,
    )


class Scores:
    """Counts over photographs; one at a time is replaced when decisions change it."""

    def __init__(self, truths: dict[str, np.ndarray]) -> None:
        self._truths = truths
        self._pixels: dict[str, np.ndarray] = {}
        self._masks: dict[str, tuple[int, int]] = {}
        shown = [np.unique(truth) for truth in truths.values()]
        count = np.bincount(np.concatenate(shown), minlength=VOID + 1)[: len(NAMES) + 1]
        self._common = count >= COMMON

    def put(self, image: LabelledImage, labels: np.ndarray) -> None:
        """Count a photograph."""
        truth, size = self._truths[image.sha256], len(NAMES) + 1
        known = truth != VOID
        pairs = truth[known].astype(np.int64) * size + labels[known]
        self._pixels[image.sha256] = np.bincount(pairs, minlength=size * size).reshape(size, size)
        h, w = truth.shape
        right = sum(
            true_name(inside(one.rle, slice(0, h), slice(0, w)), truth) == NAMES[one.class_index]
            for one in image.instances
        )
        self._masks[image.sha256] = (right, len(image.instances))

    def row(self) -> dict[str, float]:
        """Return mean IoUs and the share of right masks, percent."""
        total = sum(self._pixels.values())
        union = total.sum(axis=0) + total.sum(axis=1) - np.diag(total)
        iou = np.where(union > 0, np.diag(total) / np.maximum(union, 1), np.nan)
        right, masks = np.sum(list(self._masks.values()), axis=0)
        values = {"miou": np.nanmean(iou), "miou_common": iou[self._common].mean()}
        values["precision"] = right / max(masks, 1)
        return {name: round(100 * float(value), 2) for name, value in values.items()}


def curve(this: Project, truths: dict[str, np.ndarray], order: str, outlines: bool) -> list[dict]:
    """Return the scores after each 20 decisions."""
    base = {image.sha256: image for image in annotate.labels(this).images()}
    scores = Scores(truths)
    for image in base.values():
        scores.put(image, image.labels)
    rows = [{"decisions": 0, **scores.row()}]
    made: dict[str, list[Decision]] = {}
    items = list(open_review(this, order, limit=MOST).items.values())
    config = this.config
    for number, item in enumerate(items, start=1):
        truth = truths[item.sha256]
        made.setdefault(item.sha256, []).append(decide(item, truth, number, outlines))
        if number % EVERY == 0:
            for sha256, said in made.items():
                labels = base[sha256].labels.copy()
                rulings = Rulings(said, config.label_of, config.inference.nms_iou)
                scores.put(rulings.apply(base[sha256], labels), labels)
            rows.append({"decisions": number, **scores.row()})
    return rows


def heads(args: argparse.Namespace, truths: dict[str, np.ndarray], counts: Sequence[int]) -> None:
    """Print how heads do, on the photographs nobody looked at, that learned from decisions."""
    first = project(args, "tune", {}, args.seed)
    held = {sha256: truth for sha256, truth in truths.items() if int(sha256[:8], 16) % 2}
    for order in ORDERS:
        shown = open_review(first, order, limit=5000).items.values()
        items = [item for item in shown if item.sha256 not in held]
        for count in counts:
            row = {"head": {"reviewed": True}} if count else {}
            out = {"path": str(args.out.resolve() / f"reviewed-{order}-{count}")}
            this = project(args, "tune", merged(row, {"outputs": out}), args.seed)
            for step in ("collect", "embed", "compose", "describe"):
                folder = Path(out["path"]) / step
                if not folder.exists() and (first.out / step).exists():
                    shutil.copytree(first.out / step, folder)
            log = decisions_file(this.out)
            log.unlink(missing_ok=True)
            for number, item in enumerate(items[:count], start=1):
                append_decision(log, decide(item, truths[item.sha256], number, args.outlines))
            start = time.monotonic()
            for step in ("collect", "embed", "compose", "describe", "fit", "calibrate", "annotate"):
                run_step(step, this)
            scores = Scores(held)
            for image in annotate.labels(this).images():
                if image.sha256 in held:
                    scores.put(image, image.labels)
            seconds = round(time.monotonic() - start)
            print(json.dumps({"order": order, "decisions": count, **scores.row(), "s": seconds}))


def draw(curves: dict[str, list[dict]], file: Path) -> None:
    """Draw the curves as SVG, one panel a score."""
    width, height, pad = 360, 240, 44
    colors = dict(zip(curves, ("#1d4ed8", "#9a3412", "#17663a", "#6b21a8"), strict=False))
    parts = []
    for panel, (key, title) in enumerate(
        {"miou_common": "mIoU, common classes, %", "precision": "listed masks right, %"}.items()
    ):
        values = [row[key] for rows in curves.values() for row in rows]
        low, high = np.floor(min(values)) - 1, np.ceil(max(values)) + 1
        left = panel * (width + pad) + pad

        def at(row: dict, key: str = key, low: float = low, high: float = high, left: int = left):
            x = left + row["decisions"] / MOST * (width - pad)
            return (
                f"{x:.1f},{height - pad - (row[key] - low) / (high - low) * (height - 2 * pad):.1f}"
            )

        parts.append(f'<text x="{left}" y="22" font-weight="600">{title}</text>')
        for value in np.linspace(low, high, 5):
            y = height - pad - (value - low) / (high - low) * (height - 2 * pad)
            parts.append(
                f'<path d="M{left} {y:.1f}h{width - pad}" stroke="#d4d6db"/>'
                f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.0f}</text>'
            )
        for x in (0, 100, 200):
            place = left + x / MOST * (width - pad)
            parts.append(
                f'<text x="{place}" y="{height - pad + 18}" text-anchor="middle">{x}</text>'
            )
        for name, rows in curves.items():
            dashes = ' stroke-dasharray="5 4"' if "random" in name else ""
            points = " ".join(at(row) for row in rows)
            parts.append(
                f'<polyline fill="none" stroke="{colors[name]}" stroke-width="2"{dashes} '
                f'points="{points}"/>'
            )
    for number, name in enumerate(curves):
        dashes = ' stroke-dasharray="5 4"' if "random" in name else ""
        x = pad + number * 190
        parts.append(
            f'<path d="M{x} {height + 8}h28" stroke="{colors[name]}" stroke-width="2"{dashes}/>'
            f'<text x="{x + 34}" y="{height + 12}">{name}</text>'
        )
    view = f"0 0 {2 * (width + pad)} {height + 24}"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}" role="img" '
        'font-family="system-ui, sans-serif" font-size="12" fill="#1b1b1f">'
        "<title>Scores after each 20 decisions</title>"
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
    with whole_file(file) as temporary:
        temporary.write_text(svg, encoding="utf-8")


def main() -> None:
    """Read the command line, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="folder of the drawing")
    parser.add_argument("--head", action="store_true", help="fit heads on decisions too")
    parser.add_argument("--counts", type=int, nargs="+", default=[0, 100, 200])
    parser.add_argument("--outlines", action="store_true", help="with --head: draw outlines too")
    args = parser.parse_args()
    args.sam, args.checkpoint = "nano", None
    this = project(args, "tune", {"head": {"reviewed": False}}, args.seed)
    for step in ("collect", "embed", "compose", "describe", "fit", "calibrate", "annotate"):
        run_step(step, this)
    images = list(annotate.labels(this).images([]))
    truths = {image.sha256: read_truth(args.data, image.path) for image in images}
    if args.head:
        heads(args, truths, args.counts)
        return
    curves = {}
    for outlines in (False, True):
        for order in ORDERS:
            name = ("doubt first" if order == "mix" else order) + (", outlines" if outlines else "")
            curves[name] = curve(this, truths, order, outlines)
            for row in curves[name]:
                print(json.dumps({"order": name, **row}), flush=True)
    if args.picture:
        draw(curves, args.picture / "review-loop.svg")


if __name__ == "__main__":
    main()
