"""Random generators from a seed and a name, so that no step disturbs another's numbers."""

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on the project's seed and the names alone.

    >>> derive_seed(0, "train", 3) == derive_seed(0, "train", 3)
    True
    >>> derive_seed(0, "train", 3) == derive_seed(0, "train", 4)
    False
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return NumPy's default generator for a seed and a name (see `derive_seed`)."""
    return np.random.default_rng(derive_seed(seed, *names))
