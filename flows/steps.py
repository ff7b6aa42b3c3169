"""Each step alone as a flow, to be deployed and rerun by itself; none touches an earlier step."""

from typing import Any

from prefect import flow

from flows.parameters import (
    CollectSettings,
    ComposeSettings,
    DescribeSettings,
    EmbedSettings,
    OneStepSettings,
    ReportSettings,
)
from tasks.collect import collect_all
from tasks.lineage import report_lineage
from tasks.report import (
    has_labels,
    last_results,
    report_calibration,
    report_collected,
    report_export,
    report_left_out,
    report_metrics,
    report_overlays,
    report_page,
    report_quarantine,
    report_run,
)
from tasks.steps import cached_step, embed_all
from usam_core.steps import StepResult
from usam_core.steps.check_parents import check_manifest


@flow(name="collect", flow_run_name="collect {settings.project_name}", persist_result=False)
def collect(settings: CollectSettings) -> dict[str, Any]:
    """Get the training pictures of every class, and filter them."""
    result = collect_all(settings.project_file, None, settings.refresh, settings.only)
    report_collected(result)
    report_lineage(settings.load(), [result])
    return result.to_json()


@flow(name="embed", flow_run_name="embed {settings.project_name}", persist_result=False)
def embed(settings: EmbedSettings) -> dict[str, Any]:
    """Run SAM over the images that the store does not have yet."""
    result = embed_all(settings.project_file, None, settings.refresh)
    report_quarantine(result)
    report_lineage(settings.load(), [result])
    return result.to_json()


@flow(name="compose", flow_run_name="compose {settings.project_name}", persist_result=False)
def compose(settings: ComposeSettings) -> dict[str, Any]:
    """Put cut-out objects together to scenes with known truth, and embed them."""
    result = cached_step("compose", settings.project_file, None, settings.refresh)
    report_lineage(settings.load(), [result])
    return result.to_json()


@flow(name="describe", flow_run_name="describe {settings.project_name}", persist_result=False)
def describe(settings: DescribeSettings) -> dict[str, Any]:
    """Make the features that embedded images lack; SAM is not run."""
    result = cached_step("describe", settings.project_file, None)
    report_left_out(result)
    report_lineage(settings.load(), [result])
    return result.to_json()


@flow(name="fit", flow_run_name="fit {settings.project_name}", persist_result=False)
def fit(settings: OneStepSettings) -> dict[str, Any]:
    """Learn the head from the training pictures' embeddings."""
    return _step("fit", settings).to_json()


@flow(name="calibrate", flow_run_name="calibrate {settings.project_name}", persist_result=False)
def calibrate(settings: OneStepSettings) -> dict[str, Any]:
    """Fit probabilities, thresholds and presence to held-out composed scenes."""
    result = _step("calibrate", settings)
    report_calibration(result)
    return result.to_json()


@flow(name="annotate", flow_run_name="annotate {settings.project_name}", persist_result=False)
def annotate(settings: OneStepSettings) -> dict[str, Any]:
    """Label every embedded image with the head, and show some."""
    result = _step("annotate", settings)
    report_overlays(result)
    return result.to_json()


@flow(name="evaluate", flow_run_name="evaluate {settings.project_name}", persist_result=False)
def evaluate(settings: OneStepSettings) -> dict[str, Any]:
    """Measure the labels against truth."""
    result = _step("evaluate", settings)
    report_metrics(result)
    return result.to_json()


@flow(name="export", flow_run_name="export {settings.project_name}", persist_result=False)
def export(settings: OneStepSettings) -> dict[str, Any]:
    """Write the labels in the formats of `outputs.formats`; files changed by hand are kept."""
    result = _step("export", settings)
    report_export(result)
    return result.to_json()


@flow(name="report", flow_run_name="report {settings.project_name}", persist_result=False)
def report(settings: ReportSettings) -> list[dict[str, Any]]:
    """Write the report of the last labels, and show the last results again; do nothing else."""
    project = settings.load()
    if has_labels(project):
        cached_step("report", settings.project_file, None)
    results = last_results(project)
    for result in results:
        if result.step == "collect":
            report_collected(result)
        elif result.step == "embed":
            report_quarantine(result)
        elif result.step == "describe":
            report_left_out(result)
        elif result.step == "annotate" and settings.pictures:
            report_overlays(result, settings.pictures)
        elif result.step == "calibrate":
            report_calibration(result)
        elif result.step == "evaluate":
            report_metrics(result)
        elif result.step == "export":
            report_export(result)
        elif result.step == "report":
            report_page(result)
    report_run(project.config.name, results)
    report_lineage(project, results)
    return [result.to_json() for result in results]


def _step(step: str, settings: OneStepSettings) -> StepResult:
    project = settings.load()
    check_manifest(step, project, settings.manifest)
    result = cached_step(step, settings.project_file, settings.other_level, settings.refresh)
    report_lineage(project, [result])
    return result
