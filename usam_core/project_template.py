"""Write a commented `project.yaml` and its JSON schema, both made from the settings' docstrings."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from usam_core.atomic import whole_file, write_json
from usam_core.config import (
    HeadConfig,
    InferenceConfig,
    OutputsConfig,
    ProjectConfig,
    SamConfig,
)
from usam_core.errors import InputError

SCHEMA_FILE = "project.schema.json"
PROJECT_FILE = "project.yaml"
_WIDTH = 98


def write_template(
    folder: Path,
    classes: Sequence[str],
    images: Path,
    *,
    training: Path | None = None,
    sam: str = "nano",
    force: bool = False,
) -> Path:
    """Write `project.yaml` and its schema into a folder, and return the project file.

    Args:
        folder: where to; made if it is not there.
        classes: the class names.
        images: folder of the images to be labelled.
        training: folder with one folder of pictures per class; None leaves a place to fill in.
        sam: which SAM.
        force: overwrite an existing project file.

    Raises:
        InputError: there is a project file already, or there is no class name.
    """
    target = folder / PROJECT_FILE
    if target.exists() and not force:
        raise InputError(f"{target}: exists already; expected a new folder, or use --force")
    if not classes:
        raise InputError("--classes: got no name; expected names with commas between them")
    text = "\n".join(_lines(classes, images, training, sam)) + "\n"
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_schema(folder / SCHEMA_FILE)
    return target


def write_schema(path: Path) -> None:
    """Write the JSON schema of project files, for editors."""
    write_json(path, ProjectConfig.model_json_schema())


def _lines(classes: Sequence[str], images: Path, training: Path | None, sam: str) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA_FILE}"
    yield "# A usam project. Commented lines show the defaults. Run it with: usam run project.yaml"
    yield ""
    yield "# The names to be found."
    yield "classes:"
    for name in classes:
        yield f"  - name: {_scalar(name)}"
    yield "    # synonyms: []     other words for the class; folders with these names count too"
    yield "    # parent: null     a coarser class, used with level: parents"
    yield '    # colour: null     "#rrggbb"'
    yield ""
    yield "# The images to be labelled."
    yield f"images:\n  path: {_scalar(str(images.absolute()))}"
    yield ""
    yield "# Single-object pictures: a folder with one folder per class."
    yield "training:\n  source: folder"
    if training is not None:
        yield f"  path: {_scalar(str(training.absolute()))}"
    else:
        yield "  path: training    # fill in"
    for key, model, given in (
        ("sam", SamConfig, {"model": sam}),
        ("head", HeadConfig, {}),
        ("inference", InferenceConfig, {}),
        ("outputs", OutputsConfig, {}),
    ):
        yield ""
        yield f"{key}:" if given else f"# {key}:"
        yield from _defaults(model, given)
    yield ""
    yield "# Truth to measure against, if there is any."
    yield "# evaluation:\n#   format: voc        # palette PNGs; or coco\n#   path: truth"
    yield ""
    yield "# Everything random follows from this number."
    yield "seed: 0"


def _defaults(model: type[BaseModel], given: dict[str, Any]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        for line in textwrap.wrap(field.description or "", _WIDTH - 4):
            yield f"  # {line}"
        value = given.get(name, field.default)
        plain = json.loads(json.dumps(value, default=str))
        mark = "" if name in given else "# "
        yield f"  {mark}{name}: {_scalar(plain)}"


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...").strip()
