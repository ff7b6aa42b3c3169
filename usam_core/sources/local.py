"""Training pictures that need no network and no model, and the choice of a project's source."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.config.project import Project
from usam_core.config.training import ClassSpec, RenderConfig
from usam_core.errors import ConfigError, InputError, need
from usam_core.files.atomic import whole_file
from usam_core.files.paths import way_to
from usam_core.files.spreadsheet import as_written, read_separated
from usam_core.files.text import normalize_name
from usam_core.images.listing.scan import list_files, list_images
from usam_core.images.listing.walk import local_path, with_slashes
from usam_core.progress import SILENT, Progress
from usam_core.review.crops import LOG, read_crops
from usam_core.rng import generator
from usam_core.sources.base import (
    CUT_FROM,
    Collected,
    PictureSource,
    Rejected,
    TrainingPicture,
    class_folder,
    picture_of,
)
from usam_core.sources.scenes import SHAPES, TRAINING_LOOK, single_object

RENDER_REVISION = 1
"""Raised when the same settings draw other pictures than before."""


class NoSource:
    """The source of a project whose head learns nothing: no class has pictures."""

    name = "none"
    filtered = False
    wanted = None

    def inputs(self, spec: ClassSpec) -> Any:
        return None

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        return Collected([])

    def forget(self, spec: ClassSpec) -> None:
        pass


def _words(spec: ClassSpec) -> set[str]:
    return {normalize_name(word) for word in (spec.name, *spec.synonyms)}


def class_table(file: Path, column: str, spec: ClassSpec) -> pd.DataFrame:
    """A class's rows of a CSV file that has the columns `class` and `column`.

    A row counts when its class is the name or a synonym, in any case; repeated rows count once.
    The rows are as `read_separated` gives them.

    Raises:
        InputError: the file cannot be read, lacks a column, or has no row of the class.
    """
    try:
        table = read_separated(file.read_bytes(), ("class", column))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file}: cannot be read as CSV ({error}); expected UTF-8 with the columns class and "
            f"{column} between commas, semicolons or tabs"
        ) from error
    missing = [name for name in ("class", column) if name not in table]
    if missing:
        raise InputError(
            f"{file}: no column {missing[0]!r}; expected a first line with class and {column}, "
            f"got {list(table.columns)}"
        )
    table = table.map(as_written)
    named = table["class"].map(normalize_name).isin(_words(spec))
    rows = table[named & (table[column] != "")]
    if rows.empty:
        raise InputError(
            f"{file}: no row of the class {spec.name!r} (nor a synonym); expected rows "
            f"{spec.name},<{column}>, found the classes {sorted(set(table['class']))[:20]}"
        )
    return rows.drop_duplicates(column)


class FolderSource:
    """Reads `<root>/<class name or synonym>/**`, or the rows of a CSV file `class,path`.

    The log of `usam crop`, where the folder has one, says which pictures a person cut out.
    Paths in a CSV file count from its folder. `cache` is a folder for remembered digests, so that
    unchanged files are not read again.
    """

    name = "folder"
    filtered = True
    wanted = None

    def __init__(self, root: Path, images: ImagesConfig, cache: Path) -> None:
        self.root = root
        self._images = images
        self._cache = cache

    def inputs(self, spec: ClassSpec) -> Any:
        """Path and digest of each of the class's pictures, and the image it was cut out of."""
        listing = self._listing(spec, SILENT).dropna(subset="sha256")
        folder = self.root.parent if self.root.is_file() else self.root
        paths = [way_to(path, folder) for path in listing["path"]]
        cuts = self._cuts()
        return sorted(
            [path, sha256, cuts[sha256]] if sha256 in cuts else [path, sha256]
            for path, sha256 in zip(paths, listing["sha256"], strict=True)
        )

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Return the class's pictures, each content once."""
        listing = self._listing(spec, progress)
        usable = listing["status"] == "ok"
        again = usable & listing["sha256"].duplicated()
        cuts = self._cuts()
        pictures = []
        for row in listing[usable & ~again].itertuples():
            origin = {"given_by": "user"}
            if row.sha256 in cuts:
                origin[CUT_FROM] = cuts[row.sha256]
            picture = TrainingPicture(
                spec.name, row.path, row.sha256, int(row.bytes), self.name, origin
            )
            pictures.append(picture)
        rejected = [
            Rejected(spec.name, row.path, row.code, row.reason)
            for row in listing[~usable].itertuples()
        ]
        rejected += [
            Rejected(spec.name, path, "duplicate", "has the same bytes as another file")
            for path in listing[again]["path"]
        ]
        return Collected(pictures, rejected)

    def forget(self, spec: ClassSpec) -> None:
        """Do nothing: the pictures are the user's."""

    def _cuts(self) -> dict[str, str]:
        """Name of the image that each picture of the log was cut out of, by the picture's digest.

        By its content: a file that was put in a cut's place is none.
        """
        if self.root.is_file():
            return {}
        return {one.picture_sha256: one.file_name for one in read_crops(self.root / LOG)}

    def _listing(self, spec: ClassSpec, progress: Progress) -> pd.DataFrame:
        if self.root.is_file():
            rows, folder = class_table(self.root, "path", spec), self.root.parent
            paths = (folder / with_slashes(local_path(path), str(folder)) for path in rows["path"])
            files = [(str(path), path) for path in paths]
            cache = self._cache / f"{class_folder(spec.name)}.csv.parquet"
            return list_files(self._images, files, cache, progress)
        tables = []
        for folder in self._folders(spec):
            # One cache a folder: the listing drops what it did not see.
            cache = self._cache / f"{class_folder(folder.name)}.parquet"
            table = list_images(self._images, folder, cache, progress)
            table["path"] = [str(folder / path) for path in table["path"]]
            tables.append(table)
        return pd.concat(tables, ignore_index=True)

    def _folders(self, spec: ClassSpec) -> list[Path]:
        wanted = _words(spec)
        present = sorted(path for path in self.root.iterdir() if path.is_dir())
        folders = [path for path in present if normalize_name(path.name) in wanted]
        if not folders:
            raise InputError(
                f"{self.root}: no folder named {spec.name!r} (nor a synonym); expected one folder "
                f"of pictures per class, found {[path.name for path in present]}. Rename a folder, "
                "or list its name under the class's synonyms"
            )
        return folders


class RenderSource:
    """Draws pictures of a shape's name into `<folder>/<class name>/`.

    Picture i of a class follows from (seed, class, i) alone: more pictures later, or a run that
    was interrupted, leave those that exist as they are.
    """

    name = "render"
    wanted = None
    filtered = False  # a disc looks like a disc: near duplicates are meant

    def __init__(self, folder: Path, config: RenderConfig, seed: int) -> None:
        self._folder = folder
        self._config = config
        self._seed = seed

    def inputs(self, spec: ClassSpec) -> Any:
        """What decides the drawing."""
        return {
            "revision": RENDER_REVISION,
            "class": _drawable(spec),
            "seed": self._seed,
            **self._config.model_dump(),
        }

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Draw what is missing; return the class's pictures."""
        shape = _drawable(spec)
        pictures = []
        with progress.bar(f"Drawing {spec.name}", self._config.per_class) as bar:
            for number in range(self._config.per_class):
                path = self._folder_of(spec) / f"{number:04d}.png"
                if not path.exists():
                    rng = generator(self._seed, "render", shape, number)
                    drawn = single_object(rng, shape, self._config.size, TRAINING_LOOK)
                    with whole_file(path) as temporary:
                        Image.fromarray(drawn.image).save(temporary, format="PNG")
                provenance = {"shape": shape, "seed": self._seed, "number": number}
                pictures.append(picture_of(path, spec, self.name, provenance))
                bar.advance()
        return Collected(pictures)

    def forget(self, spec: ClassSpec) -> None:
        """Delete the class's drawings."""
        shutil.rmtree(self._folder_of(spec), ignore_errors=True)

    def _folder_of(self, spec: ClassSpec) -> Path:
        settings = f"{self._config.size}-{self._seed}-{RENDER_REVISION}"
        return self._folder / f"{class_folder(spec.name)}-{settings}"


def _drawable(spec: ClassSpec) -> str:
    for word in (spec.name, *spec.synonyms):
        if word in SHAPES:
            return word
    raise InputError(
        f"classes: {spec.name!r} cannot be drawn; training.source 'render' knows "
        f"{sorted(SHAPES)}. Use one of them, or training.source: folder"
    )


def choose_source(project: Project, folder: Path) -> PictureSource:
    """The project's source; `folder` is where it may keep what it makes.

    Raises:
        MissingExtraError: the source's packages are not installed.
    """
    training = project.config.training
    if training.source == "none":
        return NoSource()
    if training.source == "render":
        return RenderSource(folder / "pictures", training.render, project.config.seed)
    if training.source == "synthetic":
        need("synthetic", "training.source: synthetic")
        from usam_core.sources.synthetic import SyntheticSource

        pictures = folder / "pictures"
        return SyntheticSource(pictures, training.synthetic, project.config.seed, project.root)
    if training.source == "web":
        need("web", "training.source: web")
        from usam_core.sources.web.source import WebSource

        if training.web is None:
            raise ConfigError(f"{project.file}: training.web is missing")
        return WebSource(folder / "web", training.web, project.root)
    if project.training_path is None:
        raise ConfigError(f"{project.file}: training.path is missing")
    return FolderSource(project.training_path, project.config.images, folder / "listings")
