"""Each step alone as a flow, to be deployed and rerun by itself; none touches an earlier step."""

from typing import Any

from prefect import Flow, flow

from flows.parameters import SETTINGS, ProjectSettings
from tasks.log import tell
from tasks.report import last_results, report_lineage, report_run, show
from tasks.steps import do_step
from usam_core.cli.watch import WATCH
from usam_core.steps import STEPS, Step, step_folder
from usam_core.steps.record import check_manifest, read_record


def _run(step: Step, settings: Any) -> list[dict[str, Any]] | dict[str, Any]:
    """Run a step; `report` shows the last results of all steps again, and works without labels."""
    project = settings.load()
    parents = {parent: step_folder(project, parent) for parent in step.parents}
    check_manifest(step.name, parents, getattr(settings, "manifest", ""))
    is_report = step.name == "report"
    results = []
    if not is_report or read_record(parents["annotate"]) is not None:
        more = {"only": settings.only} if step.name == "collect" else {}
        file, changes = settings.project_file, settings.changes
        with WATCH.run(project, [step.name]):
            results = [do_step(step.name, file, changes, settings.refresh, **more)]
            tell(results[0])
    if is_report:
        results = last_results(project)
    for result in results:
        show(result, project, *([settings.pictures] if is_report else []))
    if is_report:
        report_run(project.config.name, results)
    report_lineage(project, results)
    documents = [result.to_json() for result in results]
    return documents if is_report else documents[0]


def _flow(step: Step) -> Flow[..., Any]:
    def run(settings: ProjectSettings) -> Any:
        return _run(step, settings)

    # What Prefect names the flow, describes it and makes the form by.
    run.__name__ = run.__qualname__ = step.name
    run.__doc__ = step.title
    run.__annotations__["settings"] = SETTINGS[step.name]
    named = f"{step.name} {{settings.project_name}}"
    return flow(name=step.name, flow_run_name=named, persist_result=False)(run)


FLOWS = {step.name: _flow(step) for step in STEPS.values()}
"""The flow of each step. Each is an attribute of this module too: an entrypoint of deployments."""

globals().update(FLOWS)
