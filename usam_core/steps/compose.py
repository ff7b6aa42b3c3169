"""Compose: scenes of several objects with known truth, made of the training pictures.

Some pictures of each class are held out: they make scenes of their own, on which calibration is
honest, and the head sees neither them nor those scenes.
"""

import logging
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from usam_core.compose.scene import ComposedScene, Cutout, object_mask
from usam_core.compose.studio import Studio, held_out
from usam_core.config.project import Project
from usam_core.errors import MissingStepError, StoreError, UserError
from usam_core.files.atomic import whole_file
from usam_core.files.digest import file_digest
from usam_core.files.parquet import read_frame
from usam_core.files.paths import inside, remove
from usam_core.images.listing.content import mismatch
from usam_core.images.read import read_image
from usam_core.masks.label_png import save_label_png
from usam_core.progress import Progress
from usam_core.steps import embed
from usam_core.steps.base import Input, Inputs, StepResult, step_folder
from usam_core.steps.collect import pictures_digest, pictures_input, read_manifest
from usam_core.steps.read_settings import how_to_read
from usam_core.steps.record import finished, intact_record, read_record, whole_output
from usam_core.store.store import EmbeddingStore

CALCULATIONS = ("usam_core.compose.studio", "usam_core.images.read")
"""Modules that decide the step's results."""

SCENES = "scenes.parquet"
PICTURES = "pictures.parquet"
TRAIN, HELD_OUT = "train", "held_out"

_SCENES, _MANY = 60, 240
"""Scenes for calibration of projects with so many images and pictures; others get fewer."""
_MASKS = 72
"""So many masks the fewer scenes should show: calibration wants 60, and not every one is found."""

_COLUMNS = ["sha256", "path", "split", "labels", "truth", "truth_sha256", "sources", "background"]
_log = logging.getLogger(__name__)


def inputs(project: Project) -> Inputs:
    """What the scenes depend on: pictures, their masks, names, settings and seed."""
    return {
        "pictures": pictures_input(project, pictures_digest(read_manifest(project))),
        "classes": [spec.name for spec in project.config.classes],
        **embed.embedding_inputs(project),
        "compose": {
            **project.config.compose.model_dump(mode="json"),
            "held_out_scenes": wanted_scenes(project)[HELD_OUT],
        },
        "seed": project.config.seed,
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Compose the scenes, embed those that the store does not have, and list them."""
    folder = step_folder(project, "compose")
    store = embed.open_store(project)
    pictures = _pictures(project, store)
    rows: list[dict[str, Any]] = []
    wanted = wanted_scenes(project)
    with progress.bar("Composing", sum(wanted.values())) as bar:
        for split, count in wanted.items():
            studio = _studio(project, store, pictures, split)
            for number, names in enumerate(studio.hands(count) if count else []):
                scene = studio.make(number, names)
                if scene is not None:
                    rows.append(_save(project, folder, f"{split}-{number:05d}.png", split, *scene))
                bar.advance()
    scenes = pd.DataFrame(rows, columns=_COLUMNS).drop_duplicates("sha256", ignore_index=True)
    for name, table in ((SCENES, scenes), (PICTURES, pictures.drop(columns="path"))):
        with whole_file(folder / name) as temporary:
            table.to_parquet(temporary, index=False)
    kept = {*scenes["path"], *scenes["truth"]}
    for part in ("scenes", "truth"):
        for old in (folder / part).glob("*.png"):
            if f"{part}/{old.name}" not in kept:  # a scene of other settings
                remove(folder, old)
    groups = embed.group_files(project, store, _files(folder, scenes))
    done = embed.embed_groups(project, groups, progress)
    summary = {
        **{split: int((scenes["split"] == split).sum()) for split in wanted},
        "held_out_pictures": int((pictures["split"] == HELD_OUT).sum()),
        "objects": {str(k): v for k, v in Counter(scenes["labels"].explode()).items()},
        "embedded": sum(count["embedded"] for count in done),
        "reused": len(scenes) - sum(map(len, groups)),
        "notes": _notes(scenes, wanted, folder),
    }
    files = [folder / SCENES, folder / PICTURES]
    return finished("compose", key, folder / SCENES, summary, files)


def wanted_scenes(project: Project) -> dict[str, int]:
    """How many scenes of each split are asked for.

    Those for calibration cost SAM as much as so many images: where nobody has said how many, a
    small project gets no more than calibration needs. Two steps, not a share: a few images more do
    not make another calibration.
    """
    config = project.config.compose
    if project.config.training.source == "none":
        return {TRAIN: 0, HELD_OUT: 0}
    held_out_scenes = config.held_out_scenes
    if held_out_scenes is None:
        held_out_scenes = _SCENES
        if len(embed.wanted_files(project)) < _MANY:
            fewest, most = (min(n, len(project.config.classes)) for n in config.objects)
            held_out_scenes = min(_SCENES, math.ceil(2 * _MASKS / (fewest + most)))
    return {TRAIN: config.scenes, HELD_OUT: held_out_scenes}


def intact(project: Project, key: str) -> StepResult | None:
    """The record if its key holds, and every scene is there and in the store."""
    folder = step_folder(project, "compose")
    record = intact_record(folder, key)
    if record is None:
        return None
    try:
        scenes = read_frame(folder / SCENES)
        if any(mismatch(inside(folder, name), sha256) for name, sha256 in made(folder).items()):
            return None
        store = embed.open_store(project)
        store.index(refresh=True)
        if store.plan(scenes["sha256"]):
            return None
    except (OSError, ValueError, KeyError, UserError, StoreError):
        return None
    return replace(
        record, summary={**record.summary, "embedded": 0, "reused": len(scenes), "notes": []}
    )


def made(folder: Path) -> dict[str, str]:
    """Digests of all scenes and truths of a finished step, by name in its folder."""
    scenes = read_frame(folder / SCENES)
    named = dict(zip(scenes["path"], scenes["sha256"], strict=True))
    return {**named, **dict(zip(scenes["truth"], scenes["truth_sha256"], strict=True))}


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    s = summary
    if not s["train"] + s["held_out"]:
        return "nothing to do: no scenes"
    return (
        f"{s['train']} scenes to learn from and {s['held_out']} held out, of "
        f"{s['held_out_pictures']} pictures that the head does not see; {s['embedded']} embedded"
    )


def scenes_input(scenes: pd.DataFrame | None) -> Input:
    """Scenes of `read_scenes` as an input of a step; their lineage is that of the step compose."""
    if scenes is None:
        return Input(None, step="compose")
    names = map(sorted, scenes["labels"])
    rows = zip(scenes["sha256"], scenes["truth_sha256"], names, strict=True)
    return Input(sorted(map(list, rows)), step="compose")


def read_scenes(project: Project, split: str) -> pd.DataFrame:
    """The scenes of a split, `path` and `truth` absolute.

    Raises:
        MissingStepError: `compose` has not run.
    """
    folder = _finished(project)
    scenes = read_frame(whole_output(folder, SCENES))
    scenes = scenes[scenes["split"] == split].reset_index(drop=True)
    for name in ("path", "truth"):
        scenes[name] = [str(inside(folder, path, folder / SCENES)) for path in scenes[name]]
    return scenes


def scene_files(project: Project) -> dict[str, str]:
    """Map the digest of every scene of both splits to its path; empty while there are none."""
    folder = step_folder(project, "compose")
    if read_record(folder) is None:
        return {}
    return _files(folder, read_frame(whole_output(folder, SCENES)))


def held_out_pictures(project: Project) -> set[str]:
    """Digests of the training pictures that the head must not see.

    Raises:
        MissingStepError: `compose` has not run.
    """
    pictures = read_frame(whole_output(_finished(project), PICTURES))
    return set(pictures.loc[pictures["split"] == HELD_OUT, "sha256"])


def _finished(project: Project) -> Path:
    folder = step_folder(project, "compose")
    if read_record(folder) is None:
        raise MissingStepError(
            f"{folder}: no list of scenes yet; run `usam compose {project.file}` first (with "
            "`compose: {scenes: 0, held_out_scenes: 0}` it makes none, in no time)"
        )
    return folder


def _pictures(project: Project, store: EmbeddingStore) -> pd.DataFrame:
    """Class, sha256, path and split of every training picture that was embedded."""
    config = project.config
    index = store.index(refresh=True)
    usable = set(index.loc[index["status"] == "ok", "sha256"])
    manifest = read_manifest(project)
    table = manifest.loc[manifest["sha256"].isin(usable), ["class", "sha256", "path"]]
    out: set[str] = set()
    if config.compose.held_out_scenes != 0:
        by_class = {str(name): list(group["sha256"]) for name, group in table.groupby("class")}
        out = held_out(by_class, config.compose.held_out, config.seed)
    table = table.assign(split=np.where(table["sha256"].isin(out), HELD_OUT, TRAIN))
    return table.reset_index(drop=True)


def _studio(project: Project, store: EmbeddingStore, pictures: pd.DataFrame, split: str) -> Studio:
    config = project.config
    paths = dict(zip(pictures["sha256"], pictures["path"], strict=True))
    # A picture of two classes shows both: no cut-out of it is of one of them.
    single = pictures[~pictures["sha256"].duplicated(keep=False) & (pictures["split"] == split)]
    of_class = {
        spec.name: sorted(single.loc[single["class"] == spec.name, "sha256"])
        for spec in config.classes
    }
    others = sorted(set(single["sha256"]) - {sha256 for one in of_class.values() for sha256 in one})

    def look(sha256: str) -> np.ndarray:
        return _read(project, paths[sha256], sha256)

    def cut(name: str, sha256: str) -> Cutout | None:
        mask = object_mask(store.read(sha256), config.compose)
        if mask is None:
            return None
        rgb = look(sha256)
        grey = Image.fromarray(mask).resize(rgb.shape[1::-1], Image.Resampling.NEAREST)
        return Cutout(name, sha256, rgb, np.asarray(grey)) if grey.getbbox() else None

    return Studio(of_class, others, cut, look, config.compose, config.seed, split)


def _read(project: Project, path: str, sha256: str) -> np.ndarray:
    """A picture, at most as large as a scene: it is never shown larger."""
    longest = project.config.compose.size
    rgb = read_image(path, sha256=sha256, **how_to_read(project)).rgb
    small = Image.fromarray(rgb)
    small.thumbnail((longest, longest))
    return np.asarray(small)


def _save(
    project: Project, folder: Path, name: str, split: str, scene: ComposedScene, background: str
) -> dict[str, Any]:
    """Write a scene and its truth; return its row of the table."""
    image, truth = folder / "scenes" / name, folder / "truth" / name
    with whole_file(image) as temporary:
        Image.fromarray(scene.image).save(temporary, format="PNG")
    save_label_png(truth, scene.label_map([spec.name for spec in project.config.classes]))
    return {
        "sha256": file_digest(image),
        "path": f"scenes/{name}",
        "split": split,
        "labels": list(scene.names),
        "truth": f"truth/{name}",
        "truth_sha256": file_digest(truth),
        "sources": list(scene.sources),
        "background": background,
    }


def _files(folder: Path, scenes: pd.DataFrame) -> dict[str, str]:
    paths = (str(inside(folder, path, folder / SCENES)) for path in scenes["path"])
    return dict(zip(scenes["sha256"], paths, strict=True))


def _notes(scenes: pd.DataFrame, wanted: dict[str, int], folder: Path) -> list[str]:
    """Where fewer scenes than asked for could be made, and the likely reason."""
    notes = []
    for split, count in wanted.items():
        made = int((scenes["split"] == split).sum())
        if made < count:
            reason = (
                "too few pictures to hold some out, or no mask that could be cut out of them"
                if split == HELD_OUT
                else "no mask that could be cut out of the pictures, or no room for the objects"
            )
            notes.append(f"{made} of {count} {split} scenes could be made: {reason} ({folder})")
            _log.info(notes[-1])
    return notes
