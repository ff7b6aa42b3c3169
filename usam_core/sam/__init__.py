"""Segment Anything: checkpoints, the bundled nano model, images to mask sets."""

from pathlib import Path

NANO_WEIGHTS = Path(__file__).parent / "weights" / "nano_sam.safetensors"
