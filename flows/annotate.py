"""The whole job as a Prefect flow: names in, masks out."""

from typing import Any

from prefect import flow

from flows.parameters import AnnotateDatasetSettings
from tasks.report import pass_gate, report_lineage, report_run, show
from tasks.steps import do_step
from usam_core.steps import STEPS, StepResult, listed_once


@flow(
    name="annotate-dataset",
    flow_run_name="annotate-dataset {settings.project_name}",
    persist_result=False,
)
def annotate_dataset(settings: AnnotateDatasetSettings) -> list[dict[str, Any]]:
    """Do everything that is not up to date, from class names to masks.

    Describe runs where there are `features`, evaluate where there is truth, export where there are
    `outputs.formats`, report unless `report.enabled` is off.

    Args:
        settings: the project, and where to start.

    Returns:
        The steps' results, as `StepResult.to_json` gives them.
    """
    file, changes = settings.project_file, settings.changes
    project = settings.load()
    results: list[StepResult] = []
    names = list(STEPS)
    with listed_once():
        for name in names[names.index(settings.start) :]:
            if name == settings.start or STEPS[name].wanted(project.config):
                results.append(do_step(name, file, changes, settings.refresh))
                show(results[-1], project, pictures=0)  # the summary has one
        report_run(project.config.name, results)
        report_lineage(project, results)
        pass_gate(file, changes)
    return [result.to_json() for result in results]
