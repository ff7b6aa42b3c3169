"""How well and how fast the nano SAM answers a person's clicks, and what showing an image costs.

    python benchmarks/clicks.py --data ../shared/data

For the largest object of each class in photographs of `tune`: a click at its middle, two more where
the answer is wrong most, and its box; answered as `usam review` and `usam crop` do, composed of
single points, and natively, by all prompts at once. Prints mean IoU, the time of an answer, and
that of the first pass over an image, which the store does not save: it holds masks and their
features, not the dense embedding of an image. `--time vit_b` times random weights of that SAM too.
"""

import argparse
import platform
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from segment_anything import sam_model_registry

from usam_core.sam.backend import SegmentAnything
from usam_core.sam.nano import build_nano_sam
from usam_core.sam.prompt import Click, Prompter, Prompts

MIN_PIXELS = 2000


def objects(data: Path, count: int):
    """Yield photographs, uint8 (h, w, 3), each with the masks, bool (h, w), of its objects."""
    voc = data / "voc"
    names = (voc / "ImageSets" / "Segmentation" / "tune.txt").read_text().split()
    for name in names[:count]:
        rgb = np.asarray(Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB"))
        classes = np.asarray(Image.open(voc / "SegmentationClass" / f"{name}.png"))
        masks = []
        for value in np.unique(classes[(classes > 0) & (classes < 255)]):
            parts, _ = ndimage.label(classes == value)
            largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
            if largest.sum() >= MIN_PIXELS:
                masks.append(largest)
        yield name, rgb, masks


def middle(mask: np.ndarray, positive: bool) -> Click:
    """A click where a mask, bool (h, w), is thickest."""
    deep = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = divmod(int(deep.argmax()), mask.shape[1])
    return Click(column + 0.5, row + 0.5, positive)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Of two masks, bool (h, w)."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def play(prompter: Prompter, name: str, mask: np.ndarray) -> tuple[dict[str, float], list[float]]:
    """IoU of the answers to one object's prompts, and the seconds of each answer."""
    seconds, clicks, scores = [], [middle(mask, True)], {}

    def ask(prompts: Prompts) -> np.ndarray:
        began = time.perf_counter()
        answer = prompter.answer(name, None, prompts)
        seconds.append(time.perf_counter() - began)
        return answer

    for count in (1, 2, 3):
        answer = ask(Prompts(clicks))
        scores[f"{count} click{'s' * (count > 1)}"] = iou(answer, mask)
        missed, wrong = mask & ~answer, answer & ~mask
        more = missed.sum() > wrong.sum()
        clicks = [*clicks, middle(missed if more else wrong, bool(more))]
    rows, columns = np.nonzero(mask)
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    scores["box"] = iou(ask(Prompts(box_xyxy=box)), mask)
    return scores, seconds


def main() -> None:
    """Play, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--time", choices=("vit_b", "vit_l", "vit_h"), help="time this one too")
    args = parser.parse_args()
    ways = {"composed": True, "native": False}
    prompters = {
        name: Prompter(SegmentAnything(build_nano_sam()), points_alone=alone)
        for name, alone in ways.items()
    }
    if args.time:
        prompters[args.time] = Prompter(SegmentAnything(sam_model_registry[args.time]()))
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in prompters}
    answers: dict[str, list[float]] = {name: [] for name in prompters}
    first: dict[str, list[float]] = {name: [] for name in prompters}
    for name, rgb, masks in objects(args.data, args.images):
        for way, prompter in prompters.items():
            began = time.perf_counter()
            prompter.prepare(name, lambda rgb=rgb: rgb)
            first[way].append(time.perf_counter() - began)
            for mask in masks:
                found, seconds = play(prompter, name, mask)
                scores[way].append(found)
                answers[way] += seconds
    count, threads = len(scores["native"]), torch.get_num_threads()
    print(f"{date.today()}, {platform.machine()}, {threads} threads, {count} objects\n")
    prompts = list(scores["native"][0])
    print(f"| | {' | '.join(prompts)} | ms an answer, median (95 %) | ms the first pass |")
    print("| --- " * (len(prompts) + 3) + "|")
    for way, found in scores.items():
        # Of random weights only the time means anything.
        means = "".join(
            f"{np.mean([one[prompt] for one in found]):.3f} | " if way in ways else "- | "
            for prompt in prompts
        )
        median, high = (1e3 * np.percentile(answers[way], q) for q in (50, 95))
        shown = f"{median:.0f} ({high:.0f}) | {1e3 * np.median(first[way]):.0f}"
        print(f"| {way} | {means}{shown} |")


if __name__ == "__main__":
    main()
