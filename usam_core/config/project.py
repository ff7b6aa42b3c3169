"""Read `project.yaml`, reporting all mistakes at once: line, key, what came, what is expected."""

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from usam_core.config.base import IN_QUOTES, WAS_REMOVED, PlacedError
from usam_core.config.checks import mistakes_on_disk
from usam_core.config.images import ImagePlace, image_place
from usam_core.config.schema import ProjectConfig
from usam_core.config.yaml_source import Location, dotted, read_yaml
from usam_core.errors import ConfigError, InputError
from usam_core.files.fsspec_io import is_url, join
from usam_core.files.paths import inside
from usam_core.redact import without_secrets

_LONGEST_SHOWN = 300
_KEY = re.compile(r"[\w .-]{1,40}")


@dataclass(frozen=True)
class Project:
    """A validated project and the file it was read from; paths count from that file's folder.

    Attributes:
        config: what the file says.
        file: absolute path of the file.
    """

    config: ProjectConfig
    file: Path

    @property
    def root(self) -> Path:
        """Return the folder of the project file."""
        return self.file.parent

    @property
    def images(self) -> ImagePlace:
        """Return where the images to be labelled lie, and which file names them."""
        return image_place(self.config.images, self.root)

    @property
    def images_path(self) -> Path:
        """Return the folder of the images to be labelled.

        Raises:
            InputError: they lie behind a URL; `image_address` says where one lies.
        """
        if is_url(self.images.root):
            raise InputError(f"{self.images.root}: expected a local folder of images, got a URL")
        return Path(self.images.root)

    def image_address(self, name: str) -> str:
        """Return the path or URL of an image by its listed name."""
        return join(self.images.root, name)

    def as_listed(self, text: str) -> str:
        """Return a text with images' paths and URLs as they are listed."""
        return text.replace(self.image_address(""), "")

    @property
    def training_path(self) -> Path | None:
        """Return the folder of class folders, or None if the source needs none."""
        path = self.config.training.path
        return None if path is None else self.root / path

    def picture(self, name: str, named_by: Path) -> Path:
        """Return where a training picture lies that a manifest names.

        Raises:
            StoreError: neither below this project, its results or the user's own pictures, nor
                anywhere that a CSV file of the user's may name.
        """
        own = self.training_path
        place = os.path.normpath(self.root / name)
        listed = own is not None and own.is_file()
        for root in [Path("/")] if listed else [self.root, self.out, *([own] if own else [])]:
            way = Path(os.path.relpath(place, os.path.normpath(root))).as_posix()
            if not way.startswith(os.pardir):
                return inside(os.path.normpath(root), way, named_by, linked=True)
        return inside(self.root, name, named_by)

    @property
    def checkpoint(self) -> Path | None:
        """Return the local checkpoint, or None for the bundled or official one."""
        path = self.config.sam.checkpoint
        return None if path is None else self.root / path

    @property
    def truth_path(self) -> Path | None:
        """Return the truth's folder or file, or None if there is none."""
        evaluation = self.config.evaluation
        return None if evaluation is None else self.root / evaluation.path

    @property
    def objects_path(self) -> Path | None:
        """Return the folder that numbers the truth's objects, or None if there is none."""
        evaluation = self.config.evaluation
        if evaluation is None or evaluation.objects is None:
            return None
        return self.root / evaluation.objects

    @property
    def out(self) -> Path:
        """Return the folder of the results."""
        return self.root / self.config.outputs.path

    @property
    def store_root(self) -> Path:
        """Return the folder of the embedding stores."""
        store = self.config.outputs.store
        return self.out / "store" if store is None else self.root / store


def load_project(path: str | Path, **changes: Any) -> Project:
    """Read and check a project file, before any work.

    Args:
        path: the YAML file.
        changes: top-level settings that replace the file's, such as `level="parents"`.

    Raises:
        ConfigError: all mistakes of the file, one a line.
    """
    file = Path(path).absolute()
    values, lines, duplicates = read_yaml(file)
    if not isinstance(values, dict):
        # What kind, not what: the file may be another, and the sentence is shown on a run's page.
        kind = {str: "text", list: "a list", type(None): "nothing"}.get(type(values), "one value")
        raise ConfigError(f"{path}: expected a mapping with `classes` and `images`, got {kind}")
    if duplicates:
        raise ConfigError("\n".join(duplicates))
    return _checked({**values, **changes}, file, file.name, lines)


def open_project(path: str | Path, level: str | None) -> Project:
    """Read a project, as `load_project`; `level` replaces the file's when it is given."""
    return load_project(path, **({"level": level} if level else {}))


def check_values(values: dict[str, Any], file: Path, settings: Path | None = None) -> Project:
    """Check what a project file that is still to be written will say.

    Args:
        values: its keys and values.
        file: where it will lie; relative paths count from its folder.
        settings: a YAML file that some of the values come from, which mistakes shall name.

    Raises:
        ConfigError: all mistakes, one a line.
    """
    if settings is None:
        return _checked(values, file, file.name, {})
    _, lines, duplicates = read_yaml(settings)
    if duplicates:
        raise ConfigError("\n".join(duplicates))
    return _checked(values, file, settings.name, lines)


def _checked(values: dict[str, Any], file: Path, name: str, lines: dict[Location, int]) -> Project:
    try:
        config = ProjectConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(name, error, lines))) from None
    project = Project(config, file)
    mistakes = [
        f"{name}:{_line(place, lines)}: {dotted(place)}: {text}"
        for place, text in mistakes_on_disk(project)
    ]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return project


def _explain(name: str, error: ValidationError, lines: dict[Location, int]) -> Iterator[str]:
    """Yield one line a mistake; a union's many complaints about one key become one."""
    seen: dict[Location, list[dict[str, Any]]] = {}
    for problem in error.errors():
        place = _known_place(problem["loc"], lines, problem["type"])
        seen.setdefault(place, []).append(problem)
    for place, problems in seen.items():
        first = problems[0]
        at = f"{name}:{_line(place, lines)}"
        if first["type"] == "extra_forbidden" and place[-1] in _removed(place):
            yield f"{at}: {dotted(place)}: got {_shown(first['input'])}; this setting {WAS_REMOVED}"
        elif first["type"] == "extra_forbidden":
            # A line of another file may pass for a key: it is not quoted.
            key = dotted(place) if _KEY.fullmatch(str(place[-1])) else "what stands there"
            yield f"{at}: {key}: unknown key{_suggestion(place)}"
        elif first["type"] == "missing":
            yield f"{at}: {dotted(place)}: missing; expected {_expected(place)}"
        elif isinstance(error_of := first.get("ctx", {}).get("error"), PlacedError):
            place = (*place, *error_of.place)
            yield f"{name}:{_line(place, lines)}: {dotted(place)}: {error_of}"
        else:
            wishes = dict.fromkeys(_wish(problem) for problem in problems)
            yield f"{at}: {dotted(place)}: got {_shown(first['input'])}; {' or '.join(wishes)}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of thousands of digits
        return "a number of thousands of digits"
    text = without_secrets(text, queries=True)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]} ..."


def _known_place(loc: Location, lines: dict[Location, int], kind: str) -> Location:
    """Drop what pydantic adds to a place for the branches of a union."""
    if kind in ("missing", "extra_forbidden") or loc in lines:
        return loc
    while loc and loc not in lines:
        loc = loc[:-1]
    return loc


def _line(place: Location, lines: dict[Location, int]) -> int:
    while place and place not in lines:
        place = place[:-1]
    return lines.get(place, 1)


def _wish(problem: dict[str, Any]) -> str:
    message = problem["msg"]
    if problem["type"] == "string_type":
        return f"expected text: {IN_QUOTES}"
    for start, words in (("Input should be ", "expected "), ("Value error, ", "")):
        if message.startswith(start):
            return words + message.removeprefix(start)
    return "expected: " + message


def _section(place: Location) -> type[BaseModel] | None:
    """Return the model whose keys stand at a place."""
    model: Any = ProjectConfig
    named = False
    for part in place:
        if isinstance(part, int) or named:
            named = False  # a name of the user's choice, of sections that are alike
            continue
        field = model.model_fields.get(part) if model else None
        model = next((m for m in _models(field.annotation)), None) if field else None
        named = field is not None and get_origin(field.annotation) is dict
    return model


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _models(inner)


def _removed(place: Location) -> dict[str, object]:
    return getattr(_section(place[:-1]), "removed", {})


def _suggestion(place: Location) -> str:
    model = _section(place[:-1])
    if model is None:
        return ""
    known = list(model.model_fields)
    close = difflib.get_close_matches(str(place[-1]), known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"; expected one of {', '.join(known)}{hint}"


def _expected(place: Location) -> str:
    model = _section(place[:-1])
    field = model.model_fields.get(str(place[-1])) if model else None
    return (field.description if field and field.description else "a value").split(". ")[0]
