"""The whole job as a Prefect flow: names in, masks out."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Cancelled

from flows.parameters import AnnotateDatasetSettings
from tasks.log import numbered, tell
from tasks.report import pass_gate, report_lineage, report_run, show
from tasks.steps import do_step
from usam_core.cli.watch import WATCH
from usam_core.steps import STEPS, StepResult, listed_once


@flow(
    name="annotate-dataset",
    flow_run_name="annotate-dataset {settings.project_name}",
    persist_result=False,
)
def annotate_dataset(settings: AnnotateDatasetSettings) -> list[dict[str, Any]] | State[Any]:
    """Do everything that is not up to date, from class names to masks.

    Describe runs where there are `features`, evaluate where there is truth, export where there are
    `outputs.formats`, report unless `report.enabled` is off.

    Args:
        settings: the project, and where to start.

    Returns:
        The steps' results, as `StepResult.to_json` gives them; the state Cancelled, with what is
        kept, after Ctrl-C.
    """
    file, changes = settings.project_file, settings.changes
    project = settings.load()
    results: list[StepResult] = []
    names = list(STEPS)
    names = names[names.index(settings.start) :]
    names = [n for n in names if n == settings.start or STEPS[n].wanted(project.config)]
    try:
        with listed_once(), numbered(project, names):
            for name in names:
                results.append(do_step(name, file, changes, settings.refresh))
                tell(results[-1])
                show(results[-1], project, pictures=0)  # the summary has one
            report_run(project.config.name, results)
            report_lineage(project, results)
            pass_gate(file, changes)
    except KeyboardInterrupt:
        return Cancelled(message=WATCH.stopped())
    return [result.to_json() for result in results]
