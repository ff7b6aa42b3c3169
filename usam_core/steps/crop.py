"""What `usam crop` opens: a project's images, and the folder of its training pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fastapi import FastAPI

from usam_core.config.project import Project, load_project
from usam_core.config.training import class_colors
from usam_core.errors import InputError
from usam_core.progress import SILENT, Progress
from usam_core.review.crop_server import make_app
from usam_core.review.crops import Crops
from usam_core.sources.base import class_folder
from usam_core.steps.images_to_label import labelled_images
from usam_core.steps.pictures import ProjectImages, open_prompter
from usam_core.steps.read_settings import settle_windows

MAX_IMAGES = 1000
"""Images that are offered: a person looks at a few."""


def load_for_crops(file: Path) -> Project:
    """Read a project whose training pictures are still to be made; their folder is made here.

    Raises:
        ConfigError: all mistakes of the file, one a line.
        InputError: the project takes its pictures from elsewhere.
    """
    try:
        training: Any = (yaml.safe_load(file.read_text(encoding="utf-8")) or {}).get("training")
        path = training.get("path") if training.get("source", "folder") == "folder" else None
        if isinstance(path, str) and path and not path.lower().endswith(".csv"):
            (file.absolute().parent / path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        pass  # the next line says what is wrong
    project = load_project(file)
    source = project.config.training.source
    if source != "folder" or project.training_path is None or project.training_path.is_file():
        got = source if source != "folder" else str(project.config.training.path)
        raise InputError(
            f"{file}: training: got {got}; `usam crop` cuts pictures into a folder that the "
            "project uses: expected `source: folder` and `path:` naming a folder, such as "
            "`training`"
        )
    return project


def open_crops(project: Project, progress: Progress = SILENT) -> tuple[Crops, dict[str, str], int]:
    """What cuts pictures; names of the images that are offered, by digest; how many are not.

    Raises:
        InputError: there is no image that can be used.
    """
    listing = labelled_images(project, progress)
    listing = listing[listing["status"] == "ok"].drop_duplicates("sha256")
    if listing.empty:
        raise InputError(f"{project.images.root}: no image that can be used; look at `usam embed`")
    few = listing.head(MAX_IMAGES)
    names = dict(zip(few["sha256"].tolist(), few["path"].tolist(), strict=True))
    training = project.config.training
    assert project.training_path is not None
    there = {one.name.lower(): one.name for one in project.training_path.iterdir() if one.is_dir()}
    folders = {}
    for spec in project.config.collected:
        words = [class_folder(word) for word in (spec.name, *spec.synonyms)]
        found = [there[word.lower()] for word in words if word.lower() in there]
        folders[spec.name] = found[0] if found else words[0]
    crops = Crops(
        project.training_path,
        folders,
        names,
        training.filters.min_side or 0,
        training.filters.min_contrast or 0.0,
    )
    return crops, names, len(listing) - len(few)


def crop_app(project: Project, token: str, progress: Progress = SILENT) -> tuple[FastAPI, int]:
    """The application of `usam crop`, and how many images it offers."""
    settle_windows(project)
    crops, names, more = open_crops(project, progress)
    images = ProjectImages(project, names)
    chosen = {spec.name: spec.color for spec in project.config.classes}
    colors: np.ndarray = class_colors(crops.classes, chosen)
    app = make_app(
        crops,
        token,
        project.config.name,
        colors,
        names,
        images,
        open_prompter(project),
        f"usam run {project.file}",
        project.config.training.min_per_class,
        more,
    )
    return app, len(names)
