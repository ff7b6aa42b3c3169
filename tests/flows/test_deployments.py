"""`prefect.yaml`: every entrypoint is a flow that Prefect loads by module path."""

import re
from pathlib import Path

import pytest
import yaml
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.schema_tools.validation import is_valid_schema, validate

from flows.serve import FLOWS
from usam_core.steps import STEPS

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_the_entrypoint_is_a_flow_that_takes_the_parameters(deployment):
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert flow.name == deployment["name"]
    schema = flow.parameters.model_dump()
    is_valid_schema(schema)
    validate(deployment["parameters"], schema, raise_on_error=True)
    with pytest.raises(Exception, match=r"project_file"):
        validate({"settings": {}}, schema, raise_on_error=True)


def test_every_flow_that_is_served_can_be_deployed_too():
    assert [d["name"] for d in DEPLOYMENTS] == ["annotate-dataset", *STEPS]
    assert [flow.name for flow in FLOWS] == ["annotate-dataset", *STEPS]


def test_the_deployment_of_a_step_says_what_its_command_says():
    for deployment in DEPLOYMENTS[1:]:
        step = STEPS[deployment["name"]]
        assert deployment["entrypoint"] == f"flows.steps:{step.name}"
        assert deployment["description"] == step.title
        assert deployment["tags"] == ["usam", "step"]


@pytest.mark.parametrize("name", ["docker-compose.yaml", "kubernetes-job.yaml"])
def test_an_example_is_yaml_and_names_plain_images(name):
    text = (ROOT / "deployments" / name).read_text()
    assert yaml.safe_load(text)
    for image in re.findall(r"image: (\S+)", text):
        assert re.fullmatch(r"[a-z]+(:[a-z0-9.]+)?", image)


def test_the_image_holds_what_its_file_copies():
    copied = re.findall(r"^COPY (.+) \S+$", (ROOT / "deployments" / "Dockerfile").read_text(), re.M)
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for name in " ".join(copied).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed
