"""The whole job as a Prefect flow: names in, masks out."""

from typing import Any, Literal

from prefect import flow

from tasks.collect import collect_all
from tasks.gate import pass_gate
from tasks.lineage import report_lineage
from tasks.report import report_collected, report_metrics, report_quarantine, report_run
from tasks.steps import cached_step, embed_all, open_project
from usam_core.stages import STEPS, StepResult

Step = Literal["collect", "embed", "fit", "annotate", "evaluate"]
Level = Literal["classes", "parents"]


@flow(name="annotate-dataset", flow_run_name="annotate {project_file}")
def annotate_dataset(
    project_file: str,
    level: Level | None = None,
    start: Step = "collect",
    refresh: bool = False,
) -> list[dict[str, Any]]:
    """Collect, embed, fit, annotate and, where there is truth, evaluate.

    Args:
        project_file: path of project.yaml, as the machine that runs the flow sees it.
        level: label with the classes or with their parents; empty takes the file's.
        start: first step to run; those before it are left untouched.
        refresh: run the steps even if nothing has changed. Stored embeddings are always kept,
            and so are training pictures: the flow `collect` drops them.

    Returns:
        The steps' results, as `StepResult.to_json` gives them.
    """
    project = open_project(project_file, level)
    wanted = STEPS[STEPS.index(start) :]
    results: list[StepResult] = []
    if "collect" in wanted:
        results.append(collect_all(project_file, level))
        report_collected(results[-1])
    if "embed" in wanted:
        results.append(embed_all(project_file, level))
        report_quarantine(results[-1])
    if "fit" in wanted:
        results.append(cached_step("fit", project_file, level, refresh))
    if "annotate" in wanted:
        results.append(cached_step("annotate", project_file, level, refresh))
    if project.config.evaluation is not None:
        results.append(cached_step("evaluate", project_file, level, refresh))
        report_metrics(results[-1])
    report_run(project.config.name, results)
    report_lineage(project, results)
    pass_gate(project_file, level)
    return [result.to_json() for result in results]
