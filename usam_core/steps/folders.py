"""Where each step of a project keeps its outputs."""

from pathlib import Path
from typing import TYPE_CHECKING

from usam_core.steps.base import Step, find_step

if TYPE_CHECKING:
    from usam_core.config.project import Project


def step_folder(project: "Project", step: str) -> Path:
    """Folder of a step, or of `gate` or `review`, below the project's outputs."""
    found = find_step(step) or Step(step, "", settings=("level",))
    return found.folder(project.out, project.config.level)
