"""The benchmarks' peak memory belongs to the work that is measured, not to what came before."""

import sys

import numpy as np
import pytest

from benchmarks.memory import forget_peak, peak_mib

HELD_MIB = 128


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_peak_is_seen_and_forgotten():
    forget_peak()
    before = peak_mib()
    held = np.ones(HELD_MIB * 2**20, np.uint8)
    del held
    assert peak_mib() - before == pytest.approx(HELD_MIB, abs=8)
    forget_peak()
    assert peak_mib() - before == pytest.approx(0, abs=8)
