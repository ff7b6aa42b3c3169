"""Running steps: under a lock, unless their outputs still hold; lineage and record come last."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import UserError
from usam_core.files.atomic import disk_errors, sweep
from usam_core.files.locks import only_one
from usam_core.files.paths import check_links
from usam_core.lineage.document import LINEAGE, write_document
from usam_core.progress import SILENT, Progress
from usam_core.steps import lineage
from usam_core.steps.base import Inputs, Step, StepResult, find_step
from usam_core.steps.folders import step_folder
from usam_core.steps.record import intact_record, write_record

# Modules of steps take seconds to import: each function imports what it calls.


def step_key(step: str, project: Project) -> str:
    """Digest of everything a step depends on.

    Raises:
        MissingStepError: an earlier step has to run first.
    """
    found = _step(step)
    return found.key(found.code.inputs(project))


def code_revision(step: str) -> str:
    """Digest of the code that decides a step's results."""
    return _step(step).revision


def intact(step: str, project: Project, key: str | None = None) -> StepResult | None:
    """The step's recorded result if it still holds and its outputs are undamaged."""
    key = key or step_key(step, project)
    check = getattr(_step(step).code, "intact", None)
    return check(project, key) if check else intact_record(step_folder(project, step), key)


@contextmanager
def listed_once() -> Iterator[None]:
    """See `usam_core.steps.images_to_label.listed_once`."""
    from usam_core.steps import images_to_label

    with images_to_label.listed_once():
        yield


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
    found = _step(step)
    if step == "embed":
        return _run_embed(found, project, refresh, progress, flow_run)
    folder = step_folder(project, step)
    with disk_errors(folder), only_one(folder / ".lock", str(folder)):
        _sweep(found, project)
        with listed_once():
            inputs = found.code.inputs(project)
            key = found.key(inputs)
            reused = None if refresh else intact(step, project, key)
        if reused is not None:
            return reused
        if refresh and hasattr(found.code, "forget"):
            found.code.forget(project)
        check_links(folder)
        made_of = lineage.origins(found, project, inputs)
        result = found.code.run(project, key, progress)
        if result.reused:
            return result  # there is nothing that the step could be run on
        return _record(found, project, result, made_of, flow_run)


def collect_class(
    project: Project, name: str, *, refresh: bool = False, progress: Progress = SILENT
) -> dict[str, int]:
    """Get the pictures of one class; `refresh` drops those it has. Counts by name."""
    from usam_core.steps import collect

    check_links(step_folder(project, "collect"))
    return collect.collect_class(project, name, refresh=refresh, progress=progress)


def forget_embeddings(project: Project) -> int:
    """Remove the stored shards that hold images of the project; how many there were."""
    from usam_core.steps import embed

    return embed.forget(project)


def plan_embed(project: Project, progress: Progress = SILENT) -> list[dict[str, str]]:
    """Say which images still need embedding, in groups that become one shard each."""
    from usam_core.steps import embed

    return embed.plan(project, progress)


def embed_groups(
    project: Project, groups: list[dict[str, str]], progress: Progress = SILENT
) -> list[dict[str, int]]:
    """Embed groups of `plan_embed` where the project's `compute` says; counts for each."""
    from usam_core.steps import embed

    return embed.embed_groups(project, groups, progress)


@contextmanager
def embed_workers(project: Project, groups: int) -> Iterator[int]:
    """Keep one set of workers for several calls of `embed_groups`; yield how many there are."""
    from usam_core.parallel.workers import open_workers

    config = project.config
    with open_workers(config.compute, config.sam.device, groups) as workers:
        yield workers.count


def finish_embed(
    project: Project, embedded: int = 0, flow_run: Mapping[str, str] | None = None
) -> StepResult:
    """Check that all groups are done and write the step's lineage and record."""
    from usam_core.steps import embed

    step, folder = _step("embed"), step_folder(project, "embed")
    with only_one(folder / ".lock", str(folder)):
        with listed_once():
            inputs: Inputs = embed.inputs(project)
            made_of = lineage.origins(step, project, inputs)
            result = embed.finish(project, step.key(inputs), embedded)
        return _record(step, project, result, made_of, flow_run)


def _run_embed(
    step: Step,
    project: Project,
    refresh: bool,
    progress: Progress,
    flow_run: Mapping[str, str] | None,
) -> StepResult:
    # Not under one lock: several runs share the work, shard by shard.
    _sweep(step, project)
    if refresh:
        forget_embeddings(project)
    with disk_errors(step_folder(project, "embed")), listed_once():
        reused = intact("embed", project)
        if reused is not None:
            return reused
        groups = plan_embed(project, progress)
    done = embed_groups(project, groups, progress)
    return finish_embed(project, sum(sum(counts.values()) for counts in done), flow_run)


def _sweep(step: Step, project: Project) -> None:
    from usam_core.store.commit import sweep_store

    sweep(step_folder(project, step.name))
    # Every step lists the images and reads stores, and remembers both.
    sweep(step_folder(project, "embed"), deep=False)
    for store in project.store_root.glob("*/"):
        if step.stored and step.name != "embed":
            sweep_store(store)  # for `embed` the store does it
        else:
            sweep(store, deep=False)


def _record(
    step: Step,
    project: Project,
    result: StepResult,
    made_of: dict[str, Any],
    flow_run: Mapping[str, str] | None,
) -> StepResult:
    """Write the lineage beside the outputs, and the record last of all."""
    folder = step_folder(project, step.name)
    text = lineage.document(step, project, result, made_of, flow_run)
    sha256 = write_document(folder, text, project.root)
    result = replace(result, outputs={**result.outputs, LINEAGE: sha256})
    write_record(folder, result)
    return result


def _step(name: str) -> Step:
    step = find_step(name)
    if step is None:
        from usam_core.steps import STEPS

        raise UserError(f"{name!r} is no step; expected one of {list(STEPS)}")
    return step
