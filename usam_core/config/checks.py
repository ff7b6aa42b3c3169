"""What a project file promises and the disk does not hold, found before any work."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from usam_core.config.features import FAMILY_OF, WITH_TEXT
from usam_core.config.images import LIST_ENDINGS
from usam_core.errors import MissingExtraError
from usam_core.extras import complaint
from usam_core.files.fsspec_io import EXTRA_OF, is_url

if TYPE_CHECKING:
    from usam_core.config.project import Project

_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")

Mistake = tuple[tuple[str | int, ...], str]
"""The keys that lead to it, and what came and what was expected."""


def mistakes_on_disk(project: "Project") -> Iterator[Mistake]:
    """Yield every path that is missing or of the wrong kind, and what a source lacks."""
    config = project.config
    yield from _images(project)
    yield from _path(("sam", "checkpoint"), config.sam.checkpoint, project.checkpoint, "file")
    if config.training.source == "folder":
        yield from _folder_source(project)
    if config.training.source == "web":
        yield from _web_source(project)
    if config.evaluation is not None:
        kind = "folder" if config.evaluation.format == "voc" else "file"
        yield from _path(("evaluation", "path"), config.evaluation.path, project.truth_path, kind)
        objects = config.evaluation.objects
        yield from _path(("evaluation", "objects"), objects, project.objects_path, "folder")
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
    if not is_url(project.images.root) and _same(project.out, project.images_path):
        yield (
            ("outputs", "path"),
            f"got {str(config.outputs.path)!r}, the folder of the images; expected another, so "
            "that results are not labelled too",
        )


def needed_extras(project: "Project") -> Iterator[tuple[str, str]]:
    """Yield each extra that a project's settings need, and the setting."""
    config, place = project.config, project.images
    addresses = (config.images.path, place.root, place.names or "")
    remote = {a.partition("://")[0]: a for a in reversed(addresses) if is_url(a)}
    for protocol, address in remote.items():
        if protocol in EXTRA_OF:
            yield EXTRA_OF[protocol], f"images: {address}"
    if config.training.source in ("synthetic", "web"):
        yield config.training.source, f"training.source: {config.training.source}"
    for name, block in config.features.items():
        yield "features", f"features.{name}: {block.model}"
    if config.compute.workers or config.compute.scheduler:
        yield "dask", f"compute: {config.compute.scheduler or f'{config.compute.workers} workers'}"


def check_extras(project: "Project") -> None:
    """Check that everything which a whole run of a project needs is installed.

    Raises:
        MissingExtraError: one line a setting whose extra is not.
    """
    found = [complaint(extra, setting) for extra, setting in needed_extras(project)]
    if any(found):
        raise MissingExtraError("\n".join(f"{project.file.name}: {text}" for text in found if text))


def _images(project: "Project") -> Iterator[Mistake]:
    """Yield what is wrong with the images' place; what lies behind a URL is seen when listed."""
    images, place = project.config.images, project.images
    named = images.files is None and place.names is not None
    if images.root is not None and not named:
        yield (
            ("images", "root"),
            f"got {images.root!r}; expected none: it belongs to a `path` that names images, a file "
            f"ending in {', '.join(LIST_ENDINGS)}",
        )
    if not is_url(place.root):
        key = "root" if images.root is not None and named else "path"
        # A list that is missing has no folder of images either: one complaint is enough.
        if not named or os.path.isfile(place.names):
            given = getattr(images, key)
            yield from _path(("images", key), given, Path(place.root), "folder")
    if place.names is not None and not is_url(place.names):
        key = "path" if named else "files"
        yield from _path(("images", key), getattr(images, key), Path(place.names), "file")


def _path(
    place: tuple[str, ...], given: str | Path | None, path: Path | None, kind: str
) -> Iterator[Mistake]:
    if path is None:
        return
    # By functions for which a path too long for the system is none that is there.
    there = {"folder": os.path.isdir, "file": os.path.isfile, "folder or file": os.path.exists}
    if not there[kind](path):
        yield (
            place,
            f"got {str(given)!r}; expected a {kind} that exists ({path} does not; relative paths "
            "count from the project file)",
        )


def _cannot_be(path: Path) -> str | None:
    """Return why nothing can be made at a path, such as a name too long or a file above it."""
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError as error:
        return error.strerror
    return None


def _same(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def _text_side(project: "Project") -> Iterator[Mistake]:
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


def _folder_source(project: "Project") -> Iterator[Mistake]:
    place, given = ("training", "path"), project.config.training.path
    if given is None:
        yield (
            place,
            "missing; expected the folder with one folder of pictures per class, or a CSV file "
            "with the columns class and path",
        )
    yield from _path(place, given, project.training_path, "folder or file")


def _web_source(project: "Project") -> Iterator[Mistake]:
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
