"""Write a `project.yaml`, short or with every setting explained, and its schema for editors."""

import json
import os
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from usam_core.config import PROJECT_FILE, preset_names
from usam_core.config.recipes import RECIPES
from usam_core.config.schema import ProjectConfig
from usam_core.config.yaml_source import section_at
from usam_core.errors import InputError
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.fsspec_io import is_url
from usam_core.files.paths import way_to

SCHEMA_FILE = "project.schema.json"
_WIDTH = 98
_MOST_LINES = 15
"""Longer lists of names stand in one line."""


def write_template(
    folder: Path,
    classes: Sequence[str],
    images: str | Path,
    *,
    training: Path | None = None,
    source: str = "folder",
    contact: str | None = None,
    sam: str | None = None,
    preset: dict[str, str] | None = None,
    recipe: str | None = None,
    force: bool = False,
    full: bool = False,
) -> Path:
    """Write `project.yaml` and its schema into a folder, and return the project file.

    Arguments are those of `usam init`; `preset` says of `classes` what the project file may, and
    without `sam` it is the recipe's, or `nano`. The file says what was chosen, in at most 30 lines;
    a `full` one explains every other setting too.

    Raises:
        InputError: there is a project file already, or what it shall name is missing.
    """
    target = folder / PROJECT_FILE
    check_new(folder, force)
    if bool(classes) == bool(preset):
        raise InputError(
            f"--classes: got {'a preset too' if preset else 'no name'}; expected names with commas "
            f"between them, or --preset, one of {', '.join(preset_names())}"
        )
    for option, path in (("--images", images), ("--training", training)):
        if path is not None and not is_url(path) and not Path(path).exists():
            raise InputError(f"{option}: got {str(path)!r}; expected a folder that exists")
    if source == "web" and not contact:
        raise InputError(
            "--contact: missing; a crawl says who is asking: give an e-mail address or a page"
        )
    names = preset or list(classes)
    try:
        ProjectConfig.model_validate({"classes": names, "images": {"path": "images"}})
    except ValidationError as error:
        option = "--preset" if preset else "--classes"
        raise InputError(f"{option}: {error.errors()[0]['msg']}") from error
    chosen: dict[str, dict[str, Any]] = {
        "images": {"path": _as_written(images, folder)},
        "training": {"source": source},
    }
    if source == "folder":
        given = "training" if training is None else _as_written(training, folder)
        chosen["training"]["path"] = given
    elif source == "web":
        chosen["training"]["web"] = {"contact": contact}
    if sam or recipe not in RECIPES:
        chosen["sam"] = {"model": sam or "nano"}
    title = folder.absolute().name
    lines = list((_lines if full else _short_lines)(title, names, chosen))
    if recipe:
        note = "# The method as the papers print it; other settings are refused."
        if recipe in RECIPES:
            note = f"# {RECIPES[recipe].summary} (docs/recipes.md); every other setting is yours."
        head = [*([""] if full else []), note, f"recipe: {recipe}"]
        lines[2 + (not full) : 2 + (not full)] = head
    with whole_file(target) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_schema(folder / SCHEMA_FILE)
    return target


def check_new(folder: Path, force: bool = False) -> None:
    """Raise an `InputError` if a folder cannot become a project's, or is one and not `force`."""
    if (folder / PROJECT_FILE).exists() and not force:
        raise InputError(
            f"{folder / PROJECT_FILE}: exists already; expected a new folder, or use --force"
        )
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder, or nothing yet")


def write_schema(path: Path) -> None:
    """Write the JSON schema of project files, for editors."""
    write_json(path, ProjectConfig.model_json_schema())


def _as_written(path: str | Path, folder: Path) -> str:
    """A path as the project file in a folder has it; a URL as it is.

    It counts from there where it lies beside the project or in it, so that the folder that holds
    both can be moved; else, and where links make of `..` something else, it is absolute.
    """
    if is_url(path):
        return path
    place, home = Path(path).absolute(), Path(os.path.abspath(folder))
    if os.pardir in place.parts:
        place = place.resolve()
    beside = place.is_relative_to(home.parent) and home == home.resolve()
    return way_to(place, home) if beside else str(place)


def _lines(
    title: str, classes: Sequence[str] | dict[str, str], chosen: dict[str, dict[str, Any]]
) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA_FILE}"
    yield "# A usam project. Commented lines show the defaults. Run it with: usam run project.yaml"
    yield ""
    yield from _defaults((), {"name": title} if title else {}, only=("name", "recipe"), indent="")
    yield "\n# The names to be found."
    if isinstance(classes, dict):
        yield f"classes: {_scalar(classes)}"
    else:
        yield "classes:"
        for name in classes:
            yield f"  - name: {_scalar(name)}"
        yield from _defaults(("classes",), {}, leave_out=("name",), indent="    ")
    yield ""
    yield from _defaults((), {}, only=("negatives", "level"), indent="")
    yield "\n# The images to be labelled.\nimages:"
    yield from _defaults(("images",), chosen["images"])
    yield "\n# Single-object pictures of every class.\ntraining:"
    nested = ("render", "synthetic", "web", "filters")
    training = chosen["training"]
    yield from _defaults(("training",), training, leave_out=nested)
    for key in nested:
        if training["source"] == key:
            yield f"  {key}:"
            yield from _defaults(("training", key), training.get(key, {}), indent="    ")
        else:
            yield f"  # {key}:"
            yield from _defaults(("training", key), {}, indent="  #   ", mark="")
    for key in ("sam", "compose", "head", "inference", "outputs", "gate", "report", "compute"):
        yield f"\n{key}:"
        yield from _defaults((key,), chosen.get(key, {}))
    yield ""
    yield "# Further feature blocks for head.features, by encoders from transformers; one is shown."
    yield "# features:\n#   dinov2:\n#     model: facebook/dinov2-base"
    block = ("features", "dinov2")
    yield from _defaults(block, {}, leave_out=("model",), indent="#     ", mark="")
    yield "\n# Truth to measure against, if there is any."
    yield "# evaluation:\n#   format: voc        # palette PNGs; or coco\n#   path: truth"
    known = ("classes", "objects")
    yield from _defaults(("evaluation",), {}, only=known, indent="#   ", mark="")
    yield "\n# A small, fast model that learns the labels.\n# distill:"
    yield from _defaults(("distill",), {}, indent="#   ", mark="")
    yield "\n# Everything random follows from this number.\nseed: 0"


def _short_lines(
    title: str, classes: Sequence[str] | dict[str, str], chosen: dict[str, dict[str, Any]]
) -> Iterator[str]:
    yield f"# yaml-language-server: $schema={SCHEMA_FILE}"
    yield "# A usam project; run it with: usam run project.yaml. Editors that read the schema"
    yield "# explain every setting; `usam init --full` writes them all here, with their defaults."
    if title:
        yield f"name: {_scalar(title)}"
    if isinstance(classes, dict) or len(classes) > _MOST_LINES:
        yield f"classes: {_scalar(classes)}"
    else:
        yield "classes:"
        yield from (f"  - {_scalar(name)}" for name in classes)
    for key, section in chosen.items():
        yield f"{key}:"
        yield from (f"  {name}: {_scalar(value)}" for name, value in section.items())


def _defaults(
    place: tuple[str, ...],
    chosen: dict[str, Any],
    *,
    leave_out: Sequence[str] = (),
    only: Sequence[str] = (),
    indent: str = "  ",
    mark: str = "# ",
) -> Iterator[str]:
    """Yield a section's keys with their docstrings; those that are not chosen are commented out."""
    section = section_at(place)
    for name, field in section.model_fields.items() if section else ():
        if name in leave_out or (only and name not in only):
            continue
        for line in textwrap.wrap(field.description or "", _WIDTH - len(indent) - 2):
            yield f"{indent}# {line}"
        default = "..." if field.is_required() else field.get_default(call_default_factory=True)
        value = json.loads(json.dumps(chosen.get(name, default), default=str))
        yield f"{indent}{'' if name in chosen else mark}{name}: {_scalar(value)}"


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...").strip()
