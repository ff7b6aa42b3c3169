"""The steps, and the one seam through which the command line and the tasks run them.

    collect -> embed -> compose -> describe -> fit -> calibrate -> annotate -> evaluate
            -> export -> report

Each step lives in a module of its own with `CALCULATIONS`, `inputs(project)` and `run(project,
key, progress)`, with `intact(project, key)` where more than the recorded files has to be looked at,
and with `forget(project)` where a refresh has to drop what a plain run would keep. A
step's key is the digest of its code and its inputs; a step whose record has the same key and whose
outputs are undamaged is not run again.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import UserError
from usam_core.files.atomic import disk_errors, sweep
from usam_core.files.code import code_digest
from usam_core.files.digest import value_digest
from usam_core.files.locks import only_one
from usam_core.files.paths import check_links
from usam_core.lineage.document import LINEAGE, write_document
from usam_core.parallel.workers import open_workers
from usam_core.progress import SILENT, Progress
from usam_core.steps import (
    annotate,
    calibrate,
    collect,
    compose,
    describe,
    embed,
    evaluate,
    export,
    fit,
    lineage,
    report,
)
from usam_core.steps.embed import EmbedPlan
from usam_core.steps.folders import step_folder
from usam_core.steps.images_to_label import listed_once
from usam_core.steps.record import StepResult, intact_record, write_record
from usam_core.store.commit import sweep_store

__all__ = [
    "STEPS",
    "EmbedPlan",
    "StepResult",
    "code_revision",
    "collect_class",
    "embed_group",
    "embed_groups",
    "embed_workers",
    "finish_embed",
    "forget_embeddings",
    "intact",
    "listed_once",
    "plan_embed",
    "run_step",
    "step_folder",
    "step_key",
    "tidy",
]

_MODULES: dict[str, Any] = {
    "collect": collect,
    "embed": embed,
    "compose": compose,
    "describe": describe,
    "fit": fit,
    "calibrate": calibrate,
    "annotate": annotate,
    "evaluate": evaluate,
    "export": export,
    "report": report,
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
    step: str,
    project: Project,
    *,
    refresh: bool = False,
    progress: Progress = SILENT,
    flow_run: Mapping[str, str] | None = None,
) -> StepResult:
    """Run one step unless its outputs still hold.

    Args:
        step: one of `STEPS`.
        project: the project.
        refresh: run it even if nothing has changed: `embed` embeds all of the project's images
            again. Pictures that were made or fetched are kept (`collect_class` drops them).
        progress: told how the work goes on.
        flow_run: what an orchestrator calls this run (`id`, `name`), for the lineage.

    Raises:
        UserError: the step cannot run; the message says why and what to do.
    """
    if step == "embed":
        return _run_embed(project, refresh, progress, flow_run)
    folder = step_folder(project, step)
    with disk_errors(folder), only_one(folder / ".lock", str(folder)):
        _sweep(step, project)
        with listed_once():
            key = step_key(step, project)
            found = None if refresh else intact(step, project, key)
        if found is not None:
            return found
        if refresh and hasattr(_module(step), "forget"):
            _module(step).forget(project)
        check_links(folder)
        made_of = lineage.origins(step, project)
        result = _module(step).run(project, key, progress)
        if result.reused:
            return result  # there is nothing that the step could be run on
        return _record(project, result, made_of, flow_run)


def _sweep(step: str, project: Project) -> None:
    sweep(step_folder(project, step))
    # Every step lists the images and reads stores, and remembers both.
    sweep(step_folder(project, "embed"), deep=False)
    for store in project.store_root.glob("*/"):
        if step in ("compose", "describe"):
            sweep_store(store)  # they write shards, or into them; for `embed` the store does it
        else:
            sweep(store, deep=False)


def collect_class(
    project: Project, name: str, *, refresh: bool = False, progress: Progress = SILENT
) -> dict[str, int]:
    """Get the pictures of one class; `refresh` drops those it has. Counts by name."""
    check_links(step_folder(project, "collect"))
    return collect.collect_class(project, name, refresh=refresh, progress=progress)


def _run_embed(
    project: Project, refresh: bool, progress: Progress, flow_run: Mapping[str, str] | None
) -> StepResult:
    # Not under one lock: several runs share the work, shard by shard.
    _sweep("embed", project)
    if refresh:
        forget_embeddings(project)
    with disk_errors(step_folder(project, "embed")), listed_once():
        found = intact("embed", project)
        if found is not None:
            return found
        groups = plan_embed(project, progress).groups
    done = embed_groups(project, groups, progress)
    return finish_embed(project, sum(sum(counts.values()) for counts in done), flow_run)


def forget_embeddings(project: Project) -> int:
    """Remove the stored shards that hold images of the project; how many there were."""
    return embed.forget(project)


def plan_embed(project: Project, progress: Progress = SILENT) -> EmbedPlan:
    """Say which images still need embedding, in groups that become one shard each."""
    return embed.plan(project, progress)


def embed_group(
    project: Project, group: dict[str, str], progress: Progress = SILENT
) -> dict[str, int]:
    """Embed one group of `plan_embed` and commit it; counts by `embedded`, `quarantined`."""
    return embed.embed_group(project, group, progress)


def embed_groups(
    project: Project, groups: list[dict[str, str]], progress: Progress = SILENT
) -> list[dict[str, int]]:
    """Embed groups of `plan_embed` where the project's `compute` says; counts for each."""
    return embed.embed_groups(project, groups, progress)


@contextmanager
def embed_workers(project: Project, groups: int) -> Iterator[int]:
    """Keep one set of workers for several calls of `embed_groups`; yield how many there are."""
    config = project.config
    with open_workers(config.compute, config.sam.device, groups) as workers:
        yield workers.count


def finish_embed(
    project: Project, embedded: int = 0, flow_run: Mapping[str, str] | None = None
) -> StepResult:
    """Check that all groups are done and write the step's lineage and record."""
    folder = step_folder(project, "embed")
    with only_one(folder / ".lock", str(folder)):
        made_of = lineage.origins("embed", project)
        with listed_once():
            result = embed.finish(project, step_key("embed", project), embedded)
        return _record(project, result, made_of, flow_run)


def _record(
    project: Project,
    result: StepResult,
    made_of: dict[str, Any],
    flow_run: Mapping[str, str] | None,
) -> StepResult:
    """Write the lineage beside the outputs, and the record last of all."""
    folder = step_folder(project, result.step)
    text = lineage.document(project, result, code_revision(result.step), made_of, flow_run)
    sha256 = write_document(folder, text, project.root)
    result = replace(result, outputs={**result.outputs, LINEAGE: sha256})
    write_record(folder, result)
    return result


def _module(step: str) -> Any:
    if step not in _MODULES:
        raise UserError(f"{step!r} is no step; expected one of {list(STEPS)}")
    return _MODULES[step]
