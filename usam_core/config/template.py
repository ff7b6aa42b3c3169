"""Write a commented `project.yaml` and its JSON schema, both made from the settings' docstrings."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from usam_core.config import preset_names
from usam_core.config.images import ImagesConfig
from usam_core.config.model import FeatureConfig
from usam_core.config.results import ComputeConfig, EvaluationConfig, OutputsConfig, ReportConfig
from usam_core.config.schema import (
    ClassSpec,
    GateConfig,
    HeadConfig,
    InferenceConfig,
    ProjectConfig,
    SamConfig,
)
from usam_core.config.training import (
    ComposeConfig,
    FilterConfig,
    RenderConfig,
    SyntheticConfig,
    TrainingConfig,
    WebConfig,
)
from usam_core.errors import InputError
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.fsspec_io import is_url

SCHEMA_FILE = "project.schema.json"
PROJECT_FILE = "project.yaml"
_WIDTH = 98


def write_template(
    folder: Path,
    classes: Sequence[str],
    images: str | Path,
    *,
    training: Path | None = None,
    source: str = "folder",
    contact: str | None = None,
    sam: str = "nano",
    preset: dict[str, str] | None = None,
    papers: bool = False,
    force: bool = False,
) -> Path:
    """Write `project.yaml` and its schema into a folder, and return the project file.

    Args:
        folder: where to; made if it is not there.
        classes: the class names.
        images: folder of the images to be labelled, a URL, or a file that names them.
        training: folder with one folder of pictures per class; None leaves a place to fill in.
        source: where training pictures come from, as `training.source`.
        contact: for the web, who is asking: an e-mail address or a page.
        sam: which SAM.
        preset: in place of class names a list that ships with usam, as `classes` may say it.
        papers: write `recipe: papers`.
        force: overwrite an existing project file.

    Raises:
        InputError: there is a project file already, or there is no class name.
    """
    target = folder / PROJECT_FILE
    if target.exists() and not force:
        raise InputError(f"{target}: exists already; expected a new folder, or use --force")
    if bool(classes) == bool(preset):
        raise InputError(
            f"--classes: got {'a preset too' if preset else 'no name'}; expected names with commas "
            f"between them, or --preset, one of {', '.join(preset_names())}"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder, or nothing yet")
    for option, path in (("--images", images), ("--training", training)):
        if path is not None and not is_url(path) and not Path(path).exists():
            raise InputError(f"{option}: got {str(path)!r}; expected a folder that exists")
    if source == "web" and not contact:
        raise InputError(
            "--contact: missing; a crawl says who is asking: give an e-mail address or a page"
        )
    _check_names(preset or list(classes))
    path = "training" if training is None else str(training.absolute())
    given = {"source": source, **({"path": path} if source == "folder" else {})}
    place = images if is_url(images) else str(Path(images).absolute())
    lines = [*_lines(preset or classes, place, given, contact, sam)]
    if papers:
        lines[2:2] = [
            "",
            "# The method as the papers print it; other settings are refused.",
            "recipe: papers",
        ]
    text = "\n".join(lines) + "\n"
    with whole_file(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    write_schema(folder / SCHEMA_FILE)
    return target


def _check_names(classes: list[str] | dict[str, str]) -> None:
    try:
        ProjectConfig.model_validate({"classes": classes, "images": {"path": "images"}})
    except ValidationError as error:
        option = "--preset" if isinstance(classes, dict) else "--classes"
        raise InputError(f"{option}: {error.errors()[0]['msg']}") from error


def write_schema(path: Path) -> None:
    """Write the JSON schema of project files, for editors."""
    write_json(path, ProjectConfig.model_json_schema())


def _lines(
    classes: Sequence[str] | dict[str, str],
    images: str,
    training: dict[str, str],
    contact: str | None,
    sam: str,
) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA_FILE}"
    yield "# A usam project. Commented lines show the defaults. Run it with: usam run project.yaml"
    yield ""
    yield from _defaults(ProjectConfig, {}, only=("name", "recipe"), indent="")
    yield ""
    yield "# The names to be found."
    if isinstance(classes, dict):
        yield f"classes: {_scalar(classes)}"
    else:
        yield "classes:"
        for name in classes:
            yield f"  - name: {_scalar(name)}"
        yield from _defaults(ClassSpec, {}, leave_out=("name",), indent="    ")
    yield ""
    yield from _defaults(ProjectConfig, {}, only=("negatives", "level"), indent="")
    yield ""
    yield "# The images to be labelled."
    yield "images:"
    yield from _defaults(ImagesConfig, {"path": images})
    yield ""
    yield "# Single-object pictures of every class."
    yield "training:"
    nested = ("render", "synthetic", "web", "filters")
    yield from _defaults(TrainingConfig, training, leave_out=nested)
    for key, model in (
        ("render", RenderConfig),
        ("synthetic", SyntheticConfig),
        ("web", WebConfig),
        ("filters", FilterConfig),
    ):
        if training["source"] == key:
            yield f"  {key}:"
            yield from _defaults(model, {"contact": contact} if key == "web" else {}, indent="    ")
        else:
            yield f"  # {key}:"
            yield from _defaults(model, {}, indent="  #   ", mark="")
    for key, model, given in (
        ("sam", SamConfig, {"model": sam}),
        ("compose", ComposeConfig, {}),
        ("head", HeadConfig, {}),
        ("inference", InferenceConfig, {}),
        ("outputs", OutputsConfig, {}),
        ("gate", GateConfig, {}),
        ("report", ReportConfig, {}),
        ("compute", ComputeConfig, {}),
    ):
        yield ""
        yield f"{key}:"
        yield from _defaults(model, given)
    yield ""
    yield "# Further feature blocks for head.features, by encoders from transformers; one is shown."
    yield "# features:\n#   dinov2:\n#     model: facebook/dinov2-base"
    yield from _defaults(FeatureConfig, {}, leave_out=("model",), indent="#     ", mark="")
    yield ""
    yield "# Truth to measure against, if there is any."
    yield "# evaluation:\n#   format: voc        # palette PNGs; or coco\n#   path: truth"
    known = ("classes", "objects")
    yield from _defaults(EvaluationConfig, {}, only=known, indent="#   ", mark="")
    yield ""
    yield "# Everything random follows from this number."
    yield "seed: 0"


def _defaults(
    model: type[BaseModel],
    given: dict[str, Any],
    *,
    leave_out: Sequence[str] = (),
    only: Sequence[str] | None = None,
    indent: str = "  ",
    mark: str = "# ",
) -> Iterator[str]:
    """Yield a section's keys with their docstrings; those that are not given are commented out."""
    for name, field in model.model_fields.items():
        if name in leave_out or (only is not None and name not in only):
            continue
        for line in textwrap.wrap(field.description or "", _WIDTH - len(indent) - 2):
            yield f"{indent}# {line}"
        default = "..." if field.is_required() else field.get_default(call_default_factory=True)
        value = json.loads(json.dumps(given.get(name, default), default=str))
        yield f"{indent}{'' if name in given else mark}{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...").strip()
