"""Run a benchmark: every step of every run, then the numbers of all."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from usam_core.bench.plan import PICTURES, Plan, Run, write_project
from usam_core.config.checks import check_extras
from usam_core.config.project import Project, load_project
from usam_core.files.spreadsheet import read_csv, write_csv
from usam_core.progress import SILENT, Progress
from usam_core.steps import STEPS, StepResult, run_step
from usam_core.steps.collect import read_manifest


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run gave.

    Attributes:
        run: which one.
        project: the project that it ran.
        metrics: the content of its `metrics.json`.
        classes: its per-class table.
        steps: the result of each step, by name.
        seconds: wall-clock time of this call, without what was reused.
    """

    run: Run
    project: Project
    metrics: dict[str, Any]
    classes: pd.DataFrame
    steps: dict[str, StepResult]
    seconds: float


def run_plan(
    plan: Plan,
    progress: Progress = SILENT,
    done: Callable[[Run, StepResult], None] = lambda run, result: None,
) -> list[Measured]:
    """Run all steps of all runs; what an earlier call finished is reused.

    Args:
        plan: what to do.
        progress: told how the work goes on.
        done: told of each finished step.

    Raises:
        UserError: a step cannot run; the message says why.
    """
    for run in plan.runs:
        write_project(plan, run)
    measured: list[Measured] = []
    for run in plan.runs:
        began = time.monotonic()
        if run != plan.runs[0] and plan.collects:
            _write_pictures(plan, measured[0].project)
        project = load_project(run.file)
        check_extras(project)
        steps = {}
        for step in STEPS:
            steps[step] = run_step(step, project, progress=progress)
            done(run, steps[step])
        metrics = Path(steps["evaluate"].path)
        measured.append(
            Measured(
                run=run,
                project=project,
                metrics=json.loads(metrics.read_text(encoding="utf-8")),
                classes=read_csv(metrics.with_name("per_class.csv")),
                steps=steps,
                seconds=time.monotonic() - began,
            )
        )
    return measured


def _write_pictures(plan: Plan, first: Project) -> None:
    """Write the pictures that the first run kept, as the later runs' source."""
    write_csv(plan.choices.out.absolute() / PICTURES, read_manifest(first)[["class", "path"]])
