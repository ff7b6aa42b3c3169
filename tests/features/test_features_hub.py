"""Encoders from a hub: downloaded once, known by commit, and a clear word when out of reach."""

import pytest

from tests.feature_models import save_model
from tests.hub_site import COMMIT, answers, hub

_SCRIPT = """
import json, sys
from pathlib import Path
from usam_core.config.model import FeatureConfig
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


def asked_of(address, tmp_path, *arguments):
    return answers(tmp_path / "cache", address, _SCRIPT, str(tmp_path), *arguments)


@pytest.mark.slow
def test_a_hub_model_is_known_by_commit_downloaded_once_and_used_offline(tmp_path):
    model = save_model(tmp_path / "model", "dinov2")
    (model / "onnx").mkdir()
    (model / "onnx" / "model.safetensors").write_bytes(b"not for us")
    (model / "pytorch_model.bin").write_bytes(b"a pickle")
    with hub("lab/tiny-dino", model) as (address, asked):
        spec, missing = asked_of(address, tmp_path, "spec", "lab/tiny-dino", "lab/none")
        assert spec["weights"] == f"lab/tiny-dino@{COMMIT}"
        assert not [path for path in asked if "safetensors" in path]  # the small files alone
        assert missing[0] == "InputError"
        assert "features.model: got 'lab/none'" in missing[1]
        assert "neither a folder nor on the hub" in missing[1]
        assert asked_of(address, tmp_path, "open", "lab/tiny-dino") == [spec]
        assert any(path.endswith("/model.safetensors") for path in asked)
        assert not [path for path in asked if "onnx" in path or path.endswith(".bin")]
    # The hub is gone: what was downloaded serves, what was not says how to get it.
    cached, unreachable = asked_of(
        "http://127.0.0.1:9", tmp_path, "open", "lab/tiny-dino", "facebook/dinov2-base"
    )
    assert cached == spec
    assert unreachable[0] == "TransientError"
    for part in ("hf download facebook/dinov2-base --local-dir", "name it as features.model"):
        assert part in unreachable[1]
