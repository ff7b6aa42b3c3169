"""The whole job as a Prefect flow: names in, masks out."""

from typing import Any

from prefect import flow

from flows.parameters import AnnotateDatasetSettings
from tasks.collect import collect_all
from tasks.gate import pass_gate
from tasks.lineage import report_lineage
from tasks.report import (
    report_calibration,
    report_collected,
    report_export,
    report_left_out,
    report_metrics,
    report_page,
    report_quarantine,
    report_run,
)
from tasks.steps import cached_step, embed_all
from usam_core.steps import STEPS, StepResult, listed_once


@flow(
    name="annotate-dataset",
    flow_run_name="annotate-dataset {settings.project_name}",
    persist_result=False,
)
def annotate_dataset(settings: AnnotateDatasetSettings) -> list[dict[str, Any]]:
    """Collect, embed, compose, describe, fit, calibrate, annotate, evaluate, export and report.

    Describe runs where there are `features`, evaluate where there is truth, export where there are
    `outputs.formats`, report unless `report.enabled` is off.

    Args:
        settings: the project, and where to start.

    Returns:
        The steps' results, as `StepResult.to_json` gives them.
    """
    with listed_once():
        return [result.to_json() for result in _run(settings)]


def _run(settings: AnnotateDatasetSettings) -> list[StepResult]:
    file, level, refresh = settings.project_file, settings.other_level, settings.refresh
    project = settings.load()
    wanted = STEPS[STEPS.index(settings.start) :]
    results: list[StepResult] = []
    if "collect" in wanted:
        results.append(collect_all(file, level, refresh))
        report_collected(results[-1])
    if "embed" in wanted:
        results.append(embed_all(file, level, refresh))
        report_quarantine(results[-1])
    if "compose" in wanted:
        results.append(cached_step("compose", file, level, refresh))
    if "describe" in wanted and project.config.features:
        results.append(cached_step("describe", file, level, refresh))
        report_left_out(results[-1])
    if "fit" in wanted:
        results.append(cached_step("fit", file, level, refresh))
    if "calibrate" in wanted:
        results.append(cached_step("calibrate", file, level, refresh))
        report_calibration(results[-1])
    if "annotate" in wanted:
        results.append(cached_step("annotate", file, level, refresh))
    scored = project.config.evaluation is not None and "evaluate" in wanted
    if scored or settings.start == "evaluate":
        results.append(cached_step("evaluate", file, level, refresh))
        report_metrics(results[-1])
    exported = bool(project.config.outputs.formats) and "export" in wanted
    if exported or settings.start == "export":
        results.append(cached_step("export", file, level, refresh))
        report_export(results[-1])
    if project.config.report.enabled or settings.start == "report":
        results.append(cached_step("report", file, level, refresh))
        report_page(results[-1])
    report_run(project.config.name, results)
    report_lineage(project, results)
    pass_gate(file, level)
    return results
