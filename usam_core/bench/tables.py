"""The numbers of a benchmark as tables: our rows beside published ones, and one row a class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from usam_core.bench.plan import Plan
from usam_core.bench.published import papers_classwise, published_rows
from usam_core.bench.run import Measured

OURS = "ours"
NOT_RUN = "published, not run by us"
_CLASS_NUMBERS = ("iou", "ap50", "false_positive_rate", "false_positive_area")


def result_table(plan: Plan, measured: Sequence[Measured]) -> pd.DataFrame:
    """Return one row a method: ours first, then the papers', then the best published; percent.

    Columns: method, training, group, names, runs, miou, miou_deviation, map50, map50_deviation,
    false_positive_rate, source, note. Deviations are those of a sample (n - 1), over the seeds.
    """
    rows = [_our_row(plan, head, measured) for head in plan.choices.heads]
    rows += [
        {
            "method": row.method,
            "training": row.training,
            "group": row.group,
            "miou": row.miou,
            "map50": row.map50,
            "source": f"{NOT_RUN}: {row.source}",
            "note": row.note,
        }
        for row in published_rows(plan.benchmark.name)
    ]
    columns = [
        "method",
        "training",
        "group",
        "names",
        "runs",
        "miou",
        "miou_deviation",
        "map50",
        "map50_deviation",
        "false_positive_rate",
        "source",
        "note",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"runs": "Int64"})


def class_table(plan: Plan, measured: Sequence[Measured]) -> pd.DataFrame:
    """Return one row a head and class, percent, means over the seeds; the papers' IoU beside.

    `false_positive_rate` is the share of the images without the class in which it was painted,
    `false_positive_area` the mean share of such an image's pixels that it took.
    """
    papers = papers_classwise(plan.benchmark.name)
    tables = []
    for head in plan.choices.heads:
        runs = [one.classes for one in measured if one.run.head == head]
        table = runs[0][["class", "images"]].copy()
        table.insert(0, "head", head)
        for number in _CLASS_NUMBERS:
            values = pd.concat([run[number] for run in runs], axis=1).astype(float) * 100
            table[number] = values.mean(axis=1)
            if number == "iou":
                table["iou_deviation"] = values.std(axis=1, ddof=1)
        for training, values in papers.items():
            table[f"papers_iou_{training}"] = values
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _our_row(plan: Plan, head: str, measured: Sequence[Measured]) -> dict[str, Any]:
    runs = [one for one in measured if one.run.head == head]
    miou = [one.metrics["semantic"]["miou"] for one in runs]
    instance = [one.metrics["instance"] for one in runs]
    map50 = [scores["map50"] for scores in instance if scores and scores["map50"] is not None]
    absent = [one.metrics["absent_classes"]["rate"] for one in runs]
    used, total = len(plan.split.names), plan.split.total
    mode = ", papers' mode" if plan.choices.papers else ""
    names_alone = plan.settings.get("head", {}).get("text") == "alone"
    return {
        "method": "usam, names alone (text)" if names_alone else f"usam {head}{mode}",
        "training": plan.training,
        "group": OURS,
        "names": plan.choices.names,
        "runs": len(runs),
        "miou": _percent(miou),
        "miou_deviation": _deviation(miou),
        "map50": _percent(map50),
        "map50_deviation": _deviation(map50),
        "false_positive_rate": _percent(absent),
        "source": "this run",
        "note": f"{used} of {total} images: not comparable" if used < total else "",
    }


def _percent(values: Sequence[float]) -> float | None:
    return float(np.mean(values) * 100) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1) * 100) if len(values) > 1 else None
