"""How well the small model of `usam distill` learns drawn scenes whose labels are their truth.

    python benchmarks/distill.py --scenes 200 --side 192 --steps 600

From random weights, on the CPU; prints seconds, mIoU on the test images, milliseconds an image.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.distill.drawn import drawn_project
from usam_core.config.project import load_project
from usam_core.steps import STEPS, run_step


def main() -> None:
    """Draw, train, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--side", type=int, default=192)
    parser.add_argument("--steps", type=int, default=600)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"size": options.side, "steps": options.steps}
        file = drawn_project(Path(folder), options.scenes, options.side, distill=settings)
        begun = time.perf_counter()
        result = run_step("distill", load_project(file))
        print(f"{options}, seed 0, {torch.get_num_threads()} threads")
        took = time.perf_counter() - begun
        print(f"{took:.0f} s: {STEPS['distill'].sentence(result.summary, False)}")
        print((Path(result.path).with_name("student.csv")).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
