"""What each flow takes: one model a flow, which the Prefect UI shows as a form.

Choices are `Literal` and numbers have bounds, because those are in the JSON schema: the server
refuses a wrong value before there is a run. What only the machine that runs the flow can know (is
there such a file?) is checked when the run starts, before any work. A model's docstring is the
heading of its form.
"""

import platform
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from usam_core.config.checks import check_extras
from usam_core.config.project import Project, load_project
from usam_core.errors import ConfigError, InputError

Step = Literal[
    "collect",
    "embed",
    "compose",
    "describe",
    "fit",
    "calibrate",
    "annotate",
    "evaluate",
    "export",
    "report",
]


class ProjectSettings(BaseModel):
    """Which project."""

    model_config = ConfigDict(extra="forbid")

    project_file: str = Field(
        title="Project file",
        description="Path of project.yaml, as the machine that runs the flow sees it.",
        min_length=1,
        examples=["/data/plates/project.yaml"],
    )

    @property
    def project_name(self) -> str:
        """Return the name of the project's folder, which names the run."""
        return Path(self.project_file).absolute().parent.name

    def load(self) -> Project:
        """Read the project, with these settings in place of the file's."""
        return load_project(self.project_file)

    @model_validator(mode="after")
    def _project_can_be_read(self) -> "ProjectSettings":
        if not Path(self.project_file).is_file():
            raise InputError(
                f"{self.project_file}: no such file on {platform.node()}, the machine that runs "
                f"the flow (in {Path.cwd()}); expected the path of a project.yaml, as `usam init` "
                "writes it, best an absolute one"
            )
        self.load()
        return self


class LevelSettings(ProjectSettings):
    """Which project, and at which level."""

    level: str = Field(
        "file",
        title="Level",
        description="Label with the classes, with their parents, or as project.yaml says (file). "
        "Or name one parent: its classes become one, the others stay.",
        examples=["file", "classes", "parents", "animals"],
        min_length=1,
    )

    @property
    def other_level(self) -> str | None:
        """Return the level that replaces the file's, or None."""
        return None if self.level == "file" else self.level

    def load(self) -> Project:
        """Read the project, at the chosen level."""
        return load_project(
            self.project_file, **({"level": self.level} if self.level != "file" else {})
        )


class StepSettings(LevelSettings):
    """Which project, at which level, and whether to do the step again."""

    refresh: bool = Field(
        False, title="Refresh", description="Do it again even if nothing has changed."
    )


class OneStepSettings(StepSettings):
    """Which project, at which level, and what the step shall be built on."""

    manifest: str = Field(
        "",
        title="Manifest",
        description="The lineage.json that a step before wrote: its path, or the first digits of "
        "its SHA-256, as run pages show them. The run ends at once if the project has another by "
        "now. Empty: whatever is there.",
        examples=["out/collect/lineage.json", "3f0c9a51b2de"],
    )


class AnnotateDatasetSettings(StepSettings):
    """Which project, at which level, and where to start."""

    start: Step = Field(
        "collect",
        title="First step",
        description="Steps before this one are left untouched.",
    )
    refresh: bool = Field(
        False,
        title="Refresh",
        description="Do the first step and all after it again, although nothing has changed: "
        "from collect on, pictures that were made or fetched are dropped and got anew; from embed "
        "on, all images of the project are embedded again.",
    )

    @model_validator(mode="after")
    def _extras_are_installed(self) -> "AnnotateDatasetSettings":
        if self.start == "collect":  # a later start needs less; its steps say what they lack
            check_extras(self.load())
        return self


class CollectSettings(ProjectSettings):
    """Which project, and what to get again."""

    refresh: bool = Field(
        False,
        title="Refresh",
        description="Drop the pictures that were made or fetched, and begin anew.",
    )
    only: list[str] = Field(
        default_factory=list,
        title="Only these classes",
        description="With Refresh: drop the pictures of these classes alone. Empty: all classes.",
    )

    @model_validator(mode="after")
    def _classes_exist(self) -> "CollectSettings":
        names = [spec.name for spec in self.load().config.collected]
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise ConfigError(
                f"only: no class {', '.join(map(repr, unknown))} in {self.project_file}; "
                f"expected some of {', '.join(names)}"
            )
        return self


class EmbedSettings(ProjectSettings):
    """Which project; images that the store has are not embedded again."""

    refresh: bool = Field(
        False,
        title="Refresh",
        description="Remove what the store has of the project's images, and embed all again.",
    )


class ComposeSettings(ProjectSettings):
    """Which project, and whether to compose its scenes again."""

    refresh: bool = Field(
        False, title="Refresh", description="Do it again even if nothing has changed."
    )


class DescribeSettings(ProjectSettings):
    """Which project; images that have all features are not described again."""


class ReportSettings(ProjectSettings):
    """Which project, and how much of it to show."""

    pictures: int = Field(
        4,
        ge=0,
        le=12,
        title="Pictures",
        description="How many labelled images to show on the page.",
    )
