"""What each flow takes: one model a flow, which the Prefect UI shows as a form.

The models of the steps' flows are made from `STEPS`.

Choices are `Literal` and numbers have bounds, because those are in the JSON schema: the server
refuses a wrong value before there is a run. What only the machine that runs the flow can know (is
there such a file?) is checked when the run starts, before any work. A model's docstring is the
heading of its form.
"""

import platform
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from usam_core.config.project import Project, check_extras, load_project
from usam_core.errors import ConfigError, InputError
from usam_core.steps import STEPS, Step


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

    @property
    def changes(self) -> dict[str, str]:
        """Return the settings that replace the file's."""
        return {}

    def load(self) -> Project:
        """Read the project, with these settings in place of the file's."""
        return load_project(self.project_file, **self.changes)

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
    def changes(self) -> dict[str, str]:
        """Return the level, if it is another than the file's."""
        return {"level": self.level} if self.level != "file" else {}


class AnnotateDatasetSettings(LevelSettings):
    """Which project, at which level, and where to start."""

    start: Literal[tuple(STEPS)] = Field(
        next(iter(STEPS)),
        title="First step",
        description="Steps before this one are left untouched.",
    )
    recipe: Literal["file", "papers"] = Field(
        "file",
        title="Recipe",
        description="As project.yaml says (file), or the papers' method and nothing of ours.",
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

    @property
    def changes(self) -> dict[str, str]:
        """Return level and recipe, where they are others than the file's."""
        return super().changes | ({"recipe": self.recipe} if self.recipe != "file" else {})


class _CollectSettings(ProjectSettings):
    only: list[str] = Field(
        default_factory=list,
        title="Only these classes",
        description="With Refresh: drop the pictures of these classes alone. Empty: all classes.",
    )

    @model_validator(mode="after")
    def _classes_exist(self) -> "_CollectSettings":
        names = [spec.name for spec in self.load().config.collected]
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise ConfigError(
                f"only: no class {', '.join(map(repr, unknown))} in {self.project_file}; "
                f"expected some of {', '.join(names)}"
            )
        return self


class _ReportSettings(LevelSettings):
    pictures: int = Field(
        4,
        ge=0,
        le=12,
        title="Pictures",
        description="How many labelled images to show on the page.",
    )


_WITH_MORE: dict[str, type[ProjectSettings]] = {
    "collect": _CollectSettings,
    "report": _ReportSettings,
}
"""Of steps that take more than all of them do."""


def _settings(step: Step) -> type[ProjectSettings]:
    """What the flow of a step takes: the project, its level if it has one, and what to do again."""
    fields: dict[str, Any] = {
        "refresh": (bool, Field(False, title="Refresh", description=step.refresh))
    }
    if step.parents:
        described = (
            "The lineage.json that a step before wrote: its path, or the first digits of its "
            "SHA-256, as run pages show them. The run ends at once if the project has another by "
            "now. Empty: whatever is there."
        )
        examples = ["out/collect/lineage.json", "3f0c9a51b2de"]
        manifest = Field("", title="Manifest", description=described, examples=examples)
        fields["manifest"] = (str, manifest)
    base = _WITH_MORE.get(step.name, LevelSettings if step.has_levels else ProjectSettings)
    name = f"{step.name.capitalize()}Settings"
    return create_model(name, __base__=base, __doc__=step.title, __module__=__name__, **fields)


SETTINGS = {step.name: _settings(step) for step in STEPS.values()}
"""The model of each step's flow, by the step's name."""
