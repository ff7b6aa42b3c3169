"""A project: `project.yaml` read and checked, all mistakes at once, each with its line and key."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from usam_core.config import OF_THE_HUB
from usam_core.config.images import LIST_ENDINGS, ImagePlace, image_place
from usam_core.config.model import FAMILY_OF, WITH_TEXT
from usam_core.config.schema import Location, Mistake, ProjectConfig
from usam_core.config.yaml_source import at_line, explain, read_yaml
from usam_core.errors import ConfigError, InputError, MissingExtraError, complaint
from usam_core.files.fsspec_io import EXTRA_OF, is_url, join
from usam_core.files.paths import inside, way_to

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


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
        """Folder of the project file."""
        return self.file.parent

    @property
    def images(self) -> ImagePlace:
        """Where the images to be labelled lie, and which file names them."""
        return image_place(self.config.images, self.root)

    @property
    def images_path(self) -> Path:
        """Folder of the images to be labelled.

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

    def picture(self, name: str, named_by: Path) -> Path:
        """Return where a training picture lies that a manifest names.

        Raises:
            StoreError: neither below this project, its results or the user's own pictures, nor
                anywhere that a CSV file of the user's may name.
        """
        own = self.training_path
        place = os.path.normpath(self.root / name)
        listed = own is not None and own.is_file()
        anywhere = Path(Path(place).anchor)
        for root in [anywhere] if listed else [self.root, self.out, *([own] if own else [])]:
            way = way_to(place, os.path.normpath(root))
            if not way.startswith(os.pardir) and not os.path.isabs(way):
                return inside(os.path.normpath(root), way, named_by, linked=True)
        return inside(self.root, name, named_by)

    @property
    def training_path(self) -> Path | None:
        """Folder of class folders, or None if the source needs none."""
        return self._absolute(self.config.training.path)

    @property
    def checkpoint(self) -> Path | None:
        """Local checkpoint, or None for the bundled or official one."""
        return self._absolute(self.config.sam.checkpoint)

    @property
    def truth_path(self) -> Path | None:
        """Folder or file of the truth, or None if there is none."""
        return self._absolute(getattr(self.config.evaluation, "path", None))

    @property
    def objects_path(self) -> Path | None:
        """Folder that numbers the truth's objects, or None if there is none."""
        return self._absolute(getattr(self.config.evaluation, "objects", None))

    @property
    def out(self) -> Path:
        """Folder of the results."""
        return self.root / self.config.outputs.path

    @property
    def store_root(self) -> Path:
        """Folder of the embedding stores."""
        return self._absolute(self.config.outputs.store) or self.out / "store"

    def _absolute(self, path: Path | None) -> Path | None:
        return None if path is None else self.root / path


def load_project(path: str | Path, **changes: Any) -> Project:
    """Read and check a project file, before any work.

    Args:
        path: the YAML file.
        changes: top-level settings that replace the file's, such as `level="parents"`.

    Raises:
        ConfigError: all mistakes of the file, one a line.
    """
    file = Path(path).absolute()
    values, lines = read_yaml(file)
    if not isinstance(values, dict):
        # What kind, not what: the file may be another, and the sentence is shown on a run's page.
        kind = {str: "text", list: "a list", type(None): "nothing"}.get(type(values), "one value")
        raise ConfigError(f"{path}: expected a mapping with `classes` and `images`, got {kind}")
    title = {"name": file.parent.name} if file.parent.name else {}
    return _checked({**title, **values, **changes}, file, file.name, lines)


def open_project(path: str | Path, level: str | None) -> Project:
    """Read a project, as `load_project`; `level` replaces the file's when it is given."""
    return load_project(path, **({"level": level} if level else {}))


def check_values(values: dict[str, Any], file: Path, settings: Path | None = None) -> Project:
    """Check what a project file that is still to be written will say.

    Mistakes are named by their lines in `settings`, a YAML file that some of the values come from.
    Raises a `ConfigError` with all mistakes, one a line.
    """
    lines = read_yaml(settings)[1] if settings else {}
    return _checked(values, file, (settings or file).name, lines)


def _checked(values: dict[str, Any], file: Path, name: str, lines: dict[Location, int]) -> Project:
    try:
        project = Project(ProjectConfig.model_validate(values), file)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(name, error, lines))) from None
    mistakes = [f"{at_line(name, place, lines)}: {text}" for place, text in _on_disk(project)]
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return project


def needed_extras(project: Project) -> Iterator[tuple[str, str]]:
    """Yield each extra that a project's settings need, and the setting."""
    config, place = project.config, project.images
    addresses = (config.images.path, place.root, place.names or "")
    remote = {a.partition("://")[0]: a for a in reversed(addresses) if is_url(a)}
    for protocol, address in remote.items():
        if protocol in EXTRA_OF:
            yield EXTRA_OF[protocol], f"images: {address}"
    if config.training.source in ("synthetic", "web"):
        yield config.training.source, f"training.source: {config.training.source}"
    if config.sam.model in OF_THE_HUB:
        extra = "edgetam" if config.sam.model == "edgetam" else "features"
        yield extra, f"sam.model: {config.sam.model}"
    for name, block in config.features.items():
        yield "features", f"features.{name}: {block.model}"
    if config.compute.workers or config.compute.scheduler:
        yield "dask", f"compute: {config.compute.scheduler or f'{config.compute.workers} workers'}"
    if config.distill is not None:
        yield "distill", "distill"


def check_extras(project: Project) -> None:
    """Raise a `MissingExtraError` with a line for each setting whose extra is not installed."""
    complaints = [complaint(extra, setting) for extra, setting in needed_extras(project)]
    if any(complaints):
        raise MissingExtraError("\n".join(f"{project.file.name}: {c}" for c in complaints if c))


def _on_disk(project: Project) -> Iterator[Mistake]:
    """Yield what the file promises and the disk does not hold, and what a source lacks."""
    config, evaluation = project.config, project.config.evaluation
    yield from _images(project)
    kind = "folder" if config.sam.model in OF_THE_HUB else "file"
    yield from _path(("sam", "checkpoint"), config.sam.checkpoint, project.checkpoint, kind)
    if config.training.source == "folder":
        given = config.training.path
        if given is None:
            yield (
                ("training", "path"),
                "missing; expected the folder with one folder of pictures per class, or a CSV file "
                "with the columns class and path",
            )
        yield from _path(("training", "path"), given, project.training_path, "folder or file")
    if config.training.source == "web":
        yield from _web_source(project)
    if evaluation is not None:
        kind = "folder" if evaluation.format == "voc" else "file"
        yield from _path(("evaluation", "path"), evaluation.path, project.truth_path, kind)
        place = ("evaluation", "objects")
        yield from _path(place, evaluation.objects, project.objects_path, "folder")
    for name, feature in config.features.items():
        if not os.path.isdir(project.root / feature.model) and not _HUB_ID.fullmatch(feature.model):
            yield (
                ("features", name, "model"),
                f"got {feature.model!r}; expected a folder that exists (relative paths count from "
                "the project file), or a model of the hub such as facebook/dinov2-base",
            )
    if config.head.text != "off":
        yield from _text_side(project)
    for key, path in (("path", project.out), ("store", project.store_root)):
        if os.path.exists(path) and not os.path.isdir(path):
            yield ("outputs", key), f"{path} is a file; expected a folder, or nothing yet"
        elif (fault := _cannot_be(path)) is not None:
            yield ("outputs", key), f"{path} cannot be a folder ({fault}); expected another path"
    root = project.images.root
    if not is_url(root) and os.path.realpath(project.out) == os.path.realpath(root):
        yield (
            ("outputs", "path"),
            f"got {str(config.outputs.path)!r}, the folder of the images; expected another, so "
            "that results are not labelled too",
        )


def _images(project: Project) -> Iterator[Mistake]:
    """Yield what is wrong with the images' place; what lies behind a URL is seen when listed."""
    images, place = project.config.images, project.images
    named = images.files is None and place.names is not None
    if images.root is not None and not named:
        yield (
            ("images", "root"),
            f"got {images.root!r}; expected none: it belongs to a `path` that names images, a file "
            f"ending in {', '.join(LIST_ENDINGS)}",
        )
    # A list that is missing has no folder of images either: one complaint is enough.
    if not is_url(place.root) and (not named or os.path.isfile(place.names or "")):
        key = "root" if images.root is not None and named else "path"
        yield from _path(("images", key), getattr(images, key), Path(place.root), "folder")
    if place.names is not None and not is_url(place.names):
        key = "path" if named else "files"
        yield from _path(("images", key), getattr(images, key), Path(place.names), "file")


def _path(
    place: Location, given: str | Path | None, path: Path | None, kind: str
) -> Iterator[Mistake]:
    # By functions for which a path too long for the system is none that is there.
    there = {"folder": os.path.isdir, "file": os.path.isfile, "folder or file": os.path.exists}
    if path is not None and not there[kind](path):
        yield (
            place,
            f"got {str(given)!r}; expected a {kind} that exists ({path} does not; relative paths "
            "count from the project file)",
        )


def _cannot_be(path: Path) -> str | None:
    """Say why nothing can be made at a path, such as a name too long or a file above it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    return None


def _text_side(project: Project) -> Iterator[Mistake]:
    """Yield a block that names cannot be compared with, as far as its folder says what it is."""
    name = project.config.text_block
    file = project.root / project.config.features[name].model / "config.json"
    try:
        model_type = json.loads(file.read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return  # a model of the hub, or a folder that `describe` will speak of
    family = FAMILY_OF.get(str(model_type))
    if family is not None and family not in WITH_TEXT:
        yield (
            ("head", "text"),
            f"block {name!r} is of the family {family}, which has no texts to compare names "
            f"with; expected a block of {' or '.join(WITH_TEXT)}",
        )


def _web_source(project: Project) -> Iterator[Mistake]:
    """Yield what a crawl lacks: who is asking, and what its engines need."""
    place, web = ("training", "web"), project.config.training.web
    if web is None:
        yield (
            place,
            "missing; expected at least its `contact`, an e-mail address or a page that site "
            "owners can turn to",
        )
        return
    if web.urls is not None:
        yield from _path((*place, "urls"), web.urls, project.root / web.urls, "file")
    elif "urls" in web.engines:
        yield (*place, "urls"), "missing; the engine 'urls' needs a CSV file: class,url"
    names = {spec.name for spec in project.config.collected}
    unknown = sorted(set(web.sites) - names)
    if unknown:
        yield (
            (*place, "sites", unknown[0]),
            f"got {unknown[0]!r}, which is no class; expected some of {sorted(names)}",
        )
    if "sites" in web.engines and not web.sites:
        yield (*place, "sites"), "missing; the engine 'sites' needs start pages by class name"
