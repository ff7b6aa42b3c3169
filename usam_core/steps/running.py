"""Running steps: under a lock, unless their outputs still hold; lineage and record come last."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from usam_core.config.project import Project
from usam_core.errors import UserError
from usam_core.files.atomic import disk_errors, only_one, sweep
from usam_core.files.digest import file_digest
from usam_core.files.paths import check_links
from usam_core.lineage.document import LINEAGE, checkout, portable, versions, write_document
from usam_core.progress import SILENT, Progress
from usam_core.steps.base import (
    Input,
    Inputs,
    Step,
    StepResult,
    find_step,
    listed_once,
    step_folder,
)
from usam_core.steps.record import intact_record, write_record


def step_key(step: str, project: Project) -> str:
    """Digest of everything a step depends on.

    Raises:
        MissingStepError: an earlier step has to run first.
    """
    known = _step(step)
    return known.key(known.code.inputs(project))


def code_revision(step: str) -> str:
    """Digest of the code that decides a step's results."""
    return _step(step).revision


def intact(step: str, project: Project, key: str | None = None) -> StepResult | None:
    """The step's recorded result if it still holds and its outputs are undamaged."""
    key = key or step_key(step, project)
    check = getattr(_step(step).code, "intact", None)
    return check(project, key) if check else intact_record(step_folder(project, step), key)


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
        refresh: run it even if nothing has changed: `embed` embeds all of the project's images
            again. Pictures that were made or fetched are kept (`collect_class` drops them).
        flow_run: what an orchestrator calls this run (`id`, `name`), for the lineage.

    Raises:
        UserError: the step cannot run; the message says why and what to do.
    """
    known, folder = _step(step), step_folder(project, step)
    if step == "embed":
        return _run_embed(known, project, refresh, progress, flow_run)
    with disk_errors(folder), only_one(folder / ".lock", str(folder)):
        _sweep(known, project)
        with listed_once():
            inputs = known.code.inputs(project)
            key = known.key(inputs)
            reused = None if refresh else intact(step, project, key)
        if reused is not None:
            return reused
        if refresh and hasattr(known.code, "forget"):
            known.code.forget(project)
        check_links(folder)
        made_of = _origins(known, project, inputs)
        result = known.code.run(project, key, progress)
        if result.reused:
            return result  # there is nothing that the step could be run on
        return _record(known, project, result, made_of, flow_run)


def _run_embed(
    step: Step,
    project: Project,
    refresh: bool,
    progress: Progress,
    flow_run: Mapping[str, str] | None,
) -> StepResult:
    # Not under one lock: several runs share the work, shard by shard.
    from usam_core.steps import embed

    _sweep(step, project)
    folder = step_folder(project, step.name)
    if refresh:
        embed.forget(project)
    with disk_errors(folder), listed_once():
        reused = intact(step.name, project)
        if reused is not None:
            return reused
        groups = embed.plan(project, progress)
    done = sum(sum(counts.values()) for counts in embed.embed_groups(project, groups, progress))
    with only_one(folder / ".lock", str(folder)):
        with listed_once():
            inputs = embed.inputs(project)
            made_of = _origins(step, project, inputs)
            result = embed.finish(project, step.key(inputs), done)
        return _record(step, project, result, made_of, flow_run)


def _sweep(step: Step, project: Project) -> None:
    from usam_core.store.layout import sweep_store

    sweep(step_folder(project, step.name))
    # Every step lists the images and reads stores, and leaves caches of both.
    sweep(step_folder(project, "embed"), deep=False)
    for store in project.store_root.glob("*/"):
        if step.stored and step.name != "embed":
            sweep_store(store)  # for `embed` the store does it
        else:
            sweep(store, deep=False)


def _origins(step: Step, project: Project, inputs: Inputs) -> dict[str, Any]:
    """What `lineage.json` says a step was made of: settings, inputs, weights and parents.

    Asked before the step runs: what changes meanwhile belongs to the next run. Long lists are not
    repeated: they are outputs of steps (manifest, parts), whose digests the document holds.
    """
    read = {name: value for name, value in inputs.items() if isinstance(value, Input)}
    facts = {name: fact for name, value in read.items() if (fact := value.lineage()) is not None}
    used = {value.step for value in read.values()}
    parents = []
    for parent in filter(used.__contains__, step.parents):
        file = step_folder(project, parent) / LINEAGE
        sha256 = file_digest(file) if file.exists() else None
        parents.append({"step": parent, "path": portable(file, project.root), "sha256": sha256})
    return {
        "config": project.config.model_dump(mode="json", include=set(step.settings)),
        "seed": project.config.seed,
        "inputs": {name: fact for name, fact in facts.items() if not read[name].weights},
        "weights": {name: fact for name, fact in facts.items() if read[name].weights},
        "parents": parents,
    }


def _record(
    step: Step,
    project: Project,
    result: StepResult,
    made_of: dict[str, Any],
    flow_run: Mapping[str, str] | None,
) -> StepResult:
    """Write `lineage.json` beside the outputs, and the record last of all."""
    folder, more = step_folder(project, step.name), getattr(step.code, "facts", None)
    document = {
        "step": step.name,
        "key": result.key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "project": project.config.name,
        "project_file": project.file.name,
        "code": {"sha256": step.revision, "checkout": checkout(), "versions": versions()},
        "flow_run": dict(flow_run) if flow_run else None,
        **made_of,
        "outputs": result.outputs,
        **(more(project, result) if more else {}),
    }
    sha256 = write_document(folder, document, project.root)
    result = replace(result, outputs={**result.outputs, LINEAGE: sha256})
    write_record(folder, result)
    return result


def _step(name: str) -> Step:
    step = find_step(name)
    if step is None:
        from usam_core.steps import STEPS

        raise UserError(f"{name!r} is no step; expected one of {list(STEPS)}")
    return step
