"""Segment Anything: checkpoints, the bundled nano model, images to mask sets."""
