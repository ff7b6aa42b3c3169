"""Encoders from a hub: downloaded once, known by commit, and a clear word when out of reach.

Each call is a process of its own: the hub's address is read when its library is imported.
"""

import json

import pytest

from tests.feature_models import save_model
from tests.hub_site import COMMIT, hub
from tests.usam_process import python

_SCRIPT = """
import json, sys
from pathlib import Path
from usam_core.config.features import FeatureConfig
from usam_core.errors import UsamError
from usam_core.features.encoder import encoder_spec, open_encoder

root, task, *models = sys.argv[1:]
for model in models:
    config = FeatureConfig(model=model)
    try:
        if task == "spec":
            print(json.dumps(encoder_spec(config, Path(root))))
        else:
            print(json.dumps(open_encoder(config, "cpu", Path(root)).spec))
    except UsamError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def answers(tmp_path, address, task, *models):
    environment = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = python(_SCRIPT, tmp_path, task, *models, **environment)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line[0] in "[{"]


@pytest.mark.slow
def test_a_hub_model_is_known_by_commit_downloaded_once_and_used_offline(tmp_path):
    model = save_model(tmp_path / "model", "dinov2")
    (model / "onnx").mkdir()
    (model / "onnx" / "model.safetensors").write_bytes(b"not for us")
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    with hub("lab/tiny-dino", model) as (address, asked):
        spec, missing = answers(tmp_path, address, "spec", "lab/tiny-dino", "lab/none")
        assert spec["weights"] == f"lab/tiny-dino@{COMMIT}"
        assert not [path for path in asked if "safetensors" in path]  # the small files alone
        assert missing[0] == "InputError"
        assert "features.model: got 'lab/none'" in missing[1]
        assert "neither a folder nor on the hub" in missing[1]
        assert answers(tmp_path, address, "open", "lab/tiny-dino") == [spec]
        assert any(path.endswith("/model.safetensors") for path in asked)
        assert not [path for path in asked if "onnx" in path or path.endswith(".bin")]
    # The hub is gone: what was downloaded serves, what was not says how to get it.
    cached, unreachable = answers(
        tmp_path, "http://127.0.0.1:9", "open", "lab/tiny-dino", "facebook/dinov2-base"
    )
    assert cached == spec
    assert unreachable[0] == "TransientError"
    for part in ("hf download facebook/dinov2-base --local-dir", "name it as features.model"):
        assert part in unreachable[1]
