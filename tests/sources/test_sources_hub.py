"""Models from a hub: downloaded once, known by commit, and a clear word when they cannot be had.

Each test is a process of its own: the hub's address is read when its library is imported.
"""

import json
import textwrap

import pytest

from benchmarks.untrained_diffusion import TOY_SIZE, save_untrained
from tests.hub_site import COMMIT, hub
from tests.usam_process import python

_SCRIPT = """
import json, sys
from pathlib import Path
from usam_core.config.schema import ClassSpec
from usam_core.config.training import SyntheticConfig
from usam_core.errors import UsamError
from usam_core.progress import SILENT
from usam_core.sources.synthetic import SyntheticSource

folder = Path(sys.argv[1])
for model in sys.argv[2:]:
    config = SyntheticConfig(model=model, size={size}, steps=2, per_class=1)
    try:
        found = SyntheticSource(folder / "pictures", config, 0, folder)
        found.forget(ClassSpec(name="dog"))
        print(json.dumps(found.collect(ClassSpec(name="dog"), SILENT).pictures[0].provenance))
    except UsamError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def answers(tmp_path, address, *models):
    script = textwrap.dedent(_SCRIPT).format(size=TOY_SIZE)
    environment = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = python(script, tmp_path, *models, **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line[0] in "[{"]


@pytest.mark.slow
def test_a_hub_model_is_downloaded_once_and_known_by_its_commit(tmp_path):
    model = save_untrained(tmp_path / "model")
    with hub("lab/tiny-sd", model) as (address, asked):
        made, missing = answers(tmp_path, address, "lab/tiny-sd", "lab/none")
    assert made["revision"] == COMMIT
    assert made["model"] == "lab/tiny-sd"
    weights = [path for path in asked if path.endswith(".safetensors")]
    assert len(weights) >= 3
    assert missing[0] == "InputError"
    assert "got 'lab/none'" in missing[1]
    assert "neither a folder nor on the hub" in missing[1]
    # The hub is gone: what was downloaded serves, what was not says how to get it.
    cached, unreachable = answers(
        tmp_path, "http://127.0.0.1:9", "lab/tiny-sd", "CompVis/stable-diffusion-v1-4"
    )
    assert cached == made
    assert unreachable[0] == "TransientError"
    for part in ("about 5.5 GB", "hf download CompVis/stable-diffusion-v1-4", "synthetic.model"):
        assert part in unreachable[1]
