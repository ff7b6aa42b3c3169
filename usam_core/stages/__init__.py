"""The five steps, and the one seam through which the command line and the tasks run them.

    collect  ->  embed  ->  fit  ->  annotate  ->  evaluate

Each step lives in a module of its own with `CALCULATIONS`, `inputs(project)` and `run(project,
key, progress)`, and with `intact(project, key)` where more than the recorded files has to be looked
at. A step's key is the digest of its code and its inputs; a step whose record has the same key
and whose outputs are undamaged is not run again.
"""

from typing import Any

from usam_core.code import code_digest
from usam_core.digest import value_digest
from usam_core.errors import UserError
from usam_core.locks import only_one
from usam_core.progress import SILENT, Progress
from usam_core.project import Project
from usam_core.stages import annotate, collect, embed, evaluate, fit
from usam_core.stages.embed import EmbedPlan
from usam_core.stages.folders import step_folder
from usam_core.stages.record import StepResult, intact_record, write_record

__all__ = [
    "STEPS",
    "EmbedPlan",
    "StepResult",
    "code_revision",
    "collect_class",
    "embed_group",
    "finish_embed",
    "intact",
    "plan_embed",
    "run_step",
    "step_folder",
    "step_key",
]

_MODULES: dict[str, Any] = {
    "collect": collect,
    "embed": embed,
    "fit": fit,
    "annotate": annotate,
    "evaluate": evaluate,
}

STEPS = tuple(_MODULES)
"""Names of the steps in their order."""


def step_key(step: str, project: Project) -> str:
    """Return the digest of everything a step depends on.

    Raises:
        MissingStepError: an earlier step has to run first.
    """
    inputs = _module(step).inputs(project)
    return value_digest({"step": step, "code": code_revision(step), "inputs": inputs})


def code_revision(step: str) -> str:
    """Return the digest of the code that decides a step's results."""
    module = _module(step)
    return code_digest(module.__name__, module.CALCULATIONS)


def intact(step: str, project: Project, key: str | None = None) -> StepResult | None:
    """Return the step's recorded result if it still holds and its outputs are undamaged."""
    key = key or step_key(step, project)
    check = getattr(_module(step), "intact", None)
    if check is not None:
        return check(project, key)
    return intact_record(step_folder(project, step), key)


def run_step(
    step: str, project: Project, *, refresh: bool = False, progress: Progress = SILENT
) -> StepResult:
    """Run one step unless its outputs still hold.

    Args:
        step: one of `STEPS`.
        project: the project.
        refresh: run it even if nothing has changed. Pictures that were made or fetched are kept
            (`collect_class` drops them), and embedding is never repeated for images that the
            store has: to do so, delete the store.
        progress: told how the work goes on.

    Raises:
        UserError: the step cannot run; the message says why and what to do.
    """
    if step == "embed":
        return _run_embed(project, refresh, progress)
    folder = step_folder(project, step)
    with only_one(folder / ".lock", str(folder)):
        key = step_key(step, project)
        found = None if refresh else intact(step, project, key)
        if found is not None:
            return found
        result = _module(step).run(project, key, progress)
        write_record(folder, result)
    return result


def collect_class(
    project: Project, name: str, *, refresh: bool = False, progress: Progress = SILENT
) -> dict[str, int]:
    """Get the pictures of one class; `refresh` drops those it has. Counts by name."""
    return collect.collect_class(project, name, refresh=refresh, progress=progress)


def _run_embed(project: Project, refresh: bool, progress: Progress) -> StepResult:
    # Not under one lock: several runs share the work, shard by shard.
    found = None if refresh else intact("embed", project)
    if found is not None:
        return found
    groups = plan_embed(project, progress).groups
    done = [embed_group(project, group, progress) for group in groups]
    return finish_embed(project, sum(sum(counts.values()) for counts in done))


def plan_embed(project: Project, progress: Progress = SILENT) -> EmbedPlan:
    """Say which images still need embedding, in groups that become one shard each."""
    return embed.plan(project, progress)


def embed_group(
    project: Project, group: dict[str, str], progress: Progress = SILENT
) -> dict[str, int]:
    """Embed one group of `plan_embed` and commit it; counts by `embedded`, `quarantined`."""
    return embed.embed_group(project, group, progress)


def finish_embed(project: Project, embedded: int = 0) -> StepResult:
    """Check that all groups are done and write the step's record."""
    return embed.finish(project, step_key("embed", project), embedded)


def _module(step: str) -> Any:
    if step not in _MODULES:
        raise UserError(f"{step!r} is no step; expected one of {list(STEPS)}")
    return _MODULES[step]
