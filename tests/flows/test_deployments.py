"""`prefect.yaml`: every entrypoint is a flow that Prefect loads by module path."""

from pathlib import Path

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint

FILE = Path(__file__).parents[2] / "prefect.yaml"
DEPLOYMENTS = yaml.safe_load(FILE.read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_the_entrypoint_is_a_flow_that_takes_the_parameters(deployment):
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name == deployment["name"]
    flow.validate_parameters(deployment["parameters"])


def test_every_step_can_be_deployed_alone():
    names = {deployment["name"] for deployment in DEPLOYMENTS}
    assert names == {"annotate-dataset", "collect", "embed", "fit", "annotate", "evaluate"}
