"""Step 1, collect: single-object pictures of each class, and a manifest of where they came from."""

from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.atomic import whole_file
from usam_core.errors import InputError, MissingStepError
from usam_core.progress import Progress
from usam_core.project import Project
from usam_core.sources.base import manifest_path, to_frame
from usam_core.sources.choose import choose_source
from usam_core.stages.folders import step_folder
from usam_core.stages.record import StepResult, digests, read_record

REVISION = 1


def inputs(project: Project) -> dict[str, Any]:
    """Return what the manifest depends on: the source and what it would give for each class."""
    source = choose_source(project, step_folder(project, "collect"))
    return {
        "source": source.name,
        "min_per_class": project.config.training.min_per_class,
        "classes": {spec.name: source.inputs(spec) for spec in project.config.classes},
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Collect the pictures of every class and write the manifest.

    Raises:
        InputError: some classes have fewer pictures than `training.min_per_class`.
    """
    folder = step_folder(project, "collect")
    source = choose_source(project, folder)
    pictures = [
        picture for spec in project.config.classes for picture in source.collect(spec, progress)
    ]
    table = to_frame(pictures)
    # Pictures below the project's folder move with it.
    table["path"] = [_relative(Path(path), project.root) for path in table["path"]]
    counts = {
        spec.name: int((table["class"] == spec.name).sum()) for spec in project.config.classes
    }
    _check_counts(project, counts)
    with whole_file(manifest_path(folder)) as temporary:
        table.to_parquet(temporary, index=False)
    return StepResult(
        step="collect",
        key=key,
        reused=False,
        path=str(manifest_path(folder)),
        summary={"pictures": len(table), "per_class": counts, "source": source.name},
        outputs=digests(folder, [manifest_path(folder)]),
    )


def read_manifest(project: Project) -> pd.DataFrame:
    """Return the training pictures that `collect` found, their paths absolute.

    Raises:
        MissingStepError: `collect` has not run.
    """
    folder = step_folder(project, "collect")
    if read_record(folder) is None:
        raise MissingStepError(
            f"{folder}: no training pictures yet; run `usam collect {project.file}` first"
        )
    table = pd.read_parquet(manifest_path(folder))
    table["path"] = [str(project.root / path) for path in table["path"]]
    return table


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _check_counts(project: Project, counts: dict[str, int]) -> None:
    least = project.config.training.min_per_class
    short = {name: count for name, count in counts.items() if count < least}
    if short:
        listed = ", ".join(f"{name} ({count})" for name, count in short.items())
        raise InputError(
            f"too few training pictures for {listed}; expected at least {least} each. Add "
            "pictures or synonyms, or lower training.min_per_class"
        )
