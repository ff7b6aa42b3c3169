"""The benchmarks' peak memory belongs to the work that is measured, not to what came before."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HELD_MIB = 128

# In a process of its own: what other tests have left is given back at any moment.
MEASURED = f"""
import json
import numpy as np
from memory import forget_peak, peak_mib
peaks = []
forget_peak()
peaks.append(peak_mib())
held = np.ones({HELD_MIB} * 2**20, np.uint8)
del held
peaks.append(peak_mib())
forget_peak()
peaks.append(peak_mib())
print(json.dumps(peaks))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_peak_is_seen_and_forgotten():
    folder = Path(__file__).parents[2] / "benchmarks"
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], cwd=folder, capture_output=True, text=True, check=True
    )
    before, during, after = json.loads(done.stdout)
    assert during - before == pytest.approx(HELD_MIB, abs=8)
    assert after - before == pytest.approx(0, abs=8)
