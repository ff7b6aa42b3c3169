"""Train the bundled nano SAM: neck, prompt encoder and mask decoder; the backbone stays frozen.

    python scripts/train_nano_sam.py --minutes 60 --photographs ../shared/data/voc

The photographs are optional and class-agnostic: only the outlines of their objects are used.
Progress goes to the terminal; every five minutes, and at the end, the weights are written as
float16 safetensors.
"""

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from nano_data import LOW, Photographs, Samples, fit_frame
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from usam_core.rng import generator
from usam_core.sam.nano import NANO_WEIGHTS, trained_part, untrained_nano_sam
from usam_core.sources import scenes


def losses(logits: Tensor, iou: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return SAM's training loss: 20 focal + dice on the best of three, IoU regression on all.

    Args:
        logits: (k, 4, 80, 80) low-resolution masks in token order.
        iou: (k, 4) predicted IoU.
        target: (k, 80, 80) 0 or 1.
        weight: (k, 80, 80) 0 where the truth is void.
    """
    target, weight = target[:, None].expand_as(logits), weight[:, None].expand_as(logits)
    bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    hit = p * target + (1 - p) * (1 - target)
    balance = 0.25 * target + 0.75 * (1 - target)
    pixels = weight.sum((2, 3)).clamp(min=1)
    focal = (balance * (1 - hit) ** 2 * bce * weight).sum((2, 3)) / pixels
    both = (p * target * weight).sum((2, 3))
    dice = 1 - (2 * both + 1) / (((p + target) * weight).sum((2, 3)) + 1)
    mask_loss = 20 * focal + dice
    with torch.no_grad():
        found, truth = (logits > 0) & (weight > 0), (target > 0) & (weight > 0)
        true_iou = (found & truth).sum((2, 3)) / (found | truth).sum((2, 3)).clamp(min=1)
    best_of_three = mask_loss[:, 1:].min(dim=1).values
    return (best_of_three + 0.5 * mask_loss[:, 0] + (iou - true_iou).square().sum(1)).mean()


def decode(sam, embedding: Tensor, points_xy: Tensor) -> tuple[Tensor, Tensor]:
    """Return low-resolution logits (k, 4, 80, 80) and IoU (k, 4) for one image's points."""
    ones = torch.ones(len(points_xy), 1, dtype=torch.int64)
    sparse, dense = sam.prompt_encoder(points=(points_xy[:, None], ones), boxes=None, masks=None)
    return sam.mask_decoder.predict_masks(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
    )


@torch.inference_mode()
def grid_quality(sam, samples) -> tuple[float, float, float]:
    """Return how a 10 x 10 grid finds objects: (mean best IoU of masks 1 to 3, recall at 0.5,
    mean IoU of the mask that SAM's own predicted IoU picks)."""
    best, picked = [], []
    for frame, labels, nh, nw in samples:
        x = sam.preprocess(torch.from_numpy(frame.transpose(2, 0, 1).copy()).float())
        cells = (np.arange(10, dtype=np.float32) + 0.5) / 10
        points = np.stack(np.meshgrid(cells * nw, cells * nh), -1).reshape(-1, 2)
        embedding = sam.image_encoder(x[None])
        pieces = [
            decode(sam, embedding, torch.from_numpy(points[i : i + 10].astype(np.float32)))
            for i in range(0, 100, 10)
        ]
        masks = torch.cat([m for m, _ in pieces])[:, 1:] > 0
        choice = torch.cat([q for _, q in pieces])[:, 1:].argmax(1)
        for value in np.unique(labels):
            if value in (0, 255) or (labels == value).sum() < 100:
                continue
            truth = (labels == value).reshape(LOW, 4, LOW, 4).mean((1, 3)) >= 0.5
            known = torch.from_numpy((labels != 255).reshape(LOW, 4, LOW, 4).mean((1, 3)) > 0)
            t = torch.from_numpy(truth)
            m = masks & known
            iou = (m & t).sum((2, 3)) / (m | t).sum((2, 3)).clamp(min=1)
            best.append(float(iou.max()))
            picked.append(float(iou[torch.arange(100), choice].max()))
    return float(np.mean(best)), float(np.mean(np.array(best) >= 0.5)), float(np.mean(picked))


def held_out(photographs: Path | None) -> dict[str, list]:
    """Return unseen drawn scenes and, if there, photographs of the `tune` split."""
    look = scenes.Look(blur=1.5, noise=18, light=0.5)
    drawn = [
        scenes.scene(generator(991, "held-out", i), list(scenes.SHAPES), (240, 320), look, 7)
        for i in range(24)
    ]
    sets = {"drawn": [fit_frame(s.image, s.instances) for s in drawn]}
    if photographs:
        tune = Photographs(photographs, "tune")
        sets["photographs"] = [fit_frame(*tune.load(i)) for i in range(0, len(tune.pairs), 4)]
    return sets


def save(sam, path: Path) -> None:
    """Write the trained part as float16 safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.half().contiguous() for name, value in trained_part(sam).items()}
    save_file(state, path, metadata={"format": "pt", "model": "usam nano sam"})


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--photographs", type=Path, help="folder in VOC layout with a train list")
    parser.add_argument("--out", type=Path, default=NANO_WEIGHTS)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--rate", type=float, default=5e-4)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    sam = untrained_nano_sam()
    if args.start:
        sam.load_state_dict({k: v.float() for k, v in load_file(args.start).items()}, strict=False)
    train = Photographs(args.photographs, "train") if args.photographs else None
    loader = iter(
        torch.utils.data.DataLoader(
            Samples(args.seed, args.prompts, train),
            batch_size=args.batch,
            num_workers=1,
            prefetch_factor=4,
        )
    )
    weights = [p for p in sam.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.rate, weight_decay=1e-4)
    tests = held_out(args.photographs)
    start, saved, step, running = time.monotonic(), 0.0, 0, 0.0
    while (spent := (time.monotonic() - start) / 60) < args.minutes:
        frames, points, targets, weight = next(loader)
        warm = min(1.0, (step + 1) / 100)
        rate = args.rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, spent / args.minutes)))
        optimizer.param_groups[0]["lr"] = rate + 1e-6
        x = (frames.float() - sam.pixel_mean) / sam.pixel_std
        # bfloat16 makes a step about twice as fast on CPUs that have it; the losses stay float32.
        with torch.autocast("cpu", dtype=torch.bfloat16):
            with torch.no_grad():
                levels = sam.image_encoder.levels(x)
            embeddings = sam.image_encoder.embed(levels)
            outputs = [decode(sam, embeddings[i : i + 1], points[i]) for i in range(len(frames))]
        total = torch.stack(
            [
                losses(logits.float(), iou.float(), targets[i], weight[i])
                for i, (logits, iou) in enumerate(outputs)
            ]
        ).mean()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        now = float(total.detach())
        running = 0.98 * running + 0.02 * now if step > 1 else now
        if step % 100 == 0:
            print(f"{spent:6.1f} min  step {step:5d}  loss {running:.3f}", flush=True)
        if spent - saved > 10:
            saved = spent
            save(sam, args.out)
            report(sam, tests)
    save(sam, args.out)
    report(sam, tests)


def report(sam, tests: dict[str, list]) -> None:
    """Print the grid's quality on the held-out pictures."""
    for name, samples in tests.items():
        best, recall, picked = grid_quality(sam, samples)
        print(
            f"  {name}: best IoU {best:.3f}, recall@0.5 {recall:.3f}, picked {picked:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
