"""Where each step of a project keeps its outputs."""

from pathlib import Path

from usam_core.config.project import Project
from usam_core.config.schema import CLASSES, PARENTS

_SHARED_BY_LEVELS = ("collect", "embed", "compose", "describe")


def step_folder(project: Project, step: str) -> Path:
    """Return a step's folder below the project's outputs.

    Steps that depend on the class level lie apart for each, so that going from classes to
    parents and back repeats nothing.
    """
    level = project.config.level
    if step in _SHARED_BY_LEVELS or level == CLASSES:
        return project.out / step
    if level == PARENTS:
        return project.out / PARENTS / step
    return project.out / "levels" / level / step  # a parent may be called like a step
