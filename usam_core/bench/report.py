"""What a benchmark leaves behind: two tables, a figure, the protocol, and a page with all of it."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from usam_core.bench.figure import save_figure
from usam_core.bench.plan import Plan
from usam_core.bench.run import Measured
from usam_core.bench.tables import class_table, result_table
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.spreadsheet import write_csv
from usam_core.lineage.environment import checkout, versions
from usam_core.steps import STEPS, code_revision, embed

PROTOCOL = "protocol.json"


def write_report(plan: Plan, measured: Sequence[Measured]) -> dict[str, Any]:
    """Write all files of the report into the benchmark's folder.

    Returns:
        A JSON-like mapping with the rows, the protocol and the files' paths.
    """
    out = plan.choices.out
    results, classes = result_table(plan, measured), class_table(plan, measured)
    told = protocol(plan, measured)
    _write_csv(out / "results.csv", results)
    _write_csv(out / "classes.csv", classes)
    used, total = len(plan.split.names), plan.split.total
    title = plan.benchmark.title + (f" ({used} of {total} images)" if used < total else "")
    save_figure(out / "figure.png", results, plan.benchmark.measure, title)
    write_json(out / PROTOCOL, told)
    with whole_file(out / "report.md") as temporary:
        temporary.write_text(_markdown(plan, results, classes, told), encoding="utf-8")
    names = ("report.md", "results.csv", "classes.csv", "figure.png", PROTOCOL)
    return {
        "rows": results.astype(object).where(results.notna(), None).to_dict("records"),
        "protocol": told,
        "files": [str(out / name) for name in names],
    }


def protocol(plan: Plan, measured: Sequence[Measured]) -> dict[str, Any]:
    """Return all that somebody needs to do the same again, as a JSON-like mapping."""
    choices, benchmark, split = plan.choices, plan.benchmark, plan.split
    first = measured[0]
    config = first.project.config
    return {
        "benchmark": benchmark.name,
        "title": benchmark.title,
        "split": {
            "file": split.source.name,
            "sha256": file_digest(split.source),
            "images": len(split.names),
            "of": split.total,
            "choice": "all" if len(split.names) == split.total else "evenly spread by name",
            "scored": first.steps["evaluate"].summary["images"],
            "quarantined": len(first.steps["embed"].summary["quarantined"]),
            "names_digest": value_digest(split.names),
        },
        "classes": {
            "names": choices.names,
            "used": [spec.model_dump(mode="json") for spec in config.classes],
            "background": "pixels that get no class; counted as a class of the mean",
        },
        "truth": {
            "void": benchmark.void,
            "flattening": benchmark.flattening,
            "notes": [*split.notes, *first.steps["evaluate"].summary["truth_notes"]],
        },
        "sizes": "labels and truth at the images' own size; no resizing, no crops, no flips",
        "measures": {
            "miou": "mean IoU over background and all classes, from one confusion matrix over all "
            "images; classes in neither truth nor labels are left out",
            "map50": "COCO average precision at mask IoU 0.5, by pycocotools, 101 recalls, at "
            "most 100 masks an image; mean over classes that the truth holds",
            "false_positive_rate": "share of (image, absent class) pairs where it was painted",
            "deviation": "of a sample (n - 1), over the seeds",
        },
        "training": {
            "source": plan.training,
            "pictures": first.steps["collect"].summary["per_class"],
            "rejected": first.steps["collect"].summary["rejected"],
            "seeds": "each seed trains its own head; pictures are those of the first run",
        },
        "seeds": list(choices.seeds),
        "heads": list(choices.heads),
        "papers_mode": choices.papers,
        "encoder": embed.spec(first.project),
        "head": config.head.model_dump(mode="json"),
        "inference": config.inference.model_dump(mode="json"),
        "seconds": {one.run.file.parent.name: round(one.seconds, 1) for one in measured},
        "code": {step: code_revision(step) for step in STEPS},
        "checkout": checkout(),
        "versions": versions(),
        "machine": {
            "system": platform.platform(terse=True),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "gpu": _gpu(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_csv(path, table.round(2))


def _markdown(
    plan: Plan, results: pd.DataFrame, classes: pd.DataFrame, told: dict[str, Any]
) -> str:
    split, truth = told["split"], told["truth"]
    lines = [
        f"# {plan.benchmark.title}",
        "",
        f"{split['images']} of {split['of']} images ({split['choice']}), {plan.choices.names} "
        f"names, seeds {told['seeds']}, {told['date']}. Percent.",
        "",
        *_table(results.drop(columns=["group"])),
        "",
        "![chart](figure.png)",
        "",
        "## Per class",
        "",
        *_table(classes),
        "",
        "## Protocol",
        "",
        f"- Split: `{split['file']}`, SHA-256 {split['sha256']}.",
        f"- Void: {truth['void']}.",
        f"- Flattening: {truth['flattening']}.",
        f"- Background: {told['classes']['background']}.",
        f"- Sizes: {told['sizes']}.",
        *(f"- {name}: {text}." for name, text in told["measures"].items()),
        *(f"- Note: {note}." for note in truth["notes"]),
        f"- Training pictures: {told['training']['source']}, {told['training']['seeds']}.",
        f"- Encoder: {told['encoder']}.",
        f"- Machine: {told['machine']}.",
        "",
        f"Everything else: `{PROTOCOL}`.",
    ]
    return "\n".join(lines) + "\n"


def _table(table: pd.DataFrame) -> list[str]:
    shown = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return [
        f"| {' | '.join(column.replace('_', ' ') for column in table.columns)} |",
        f"|{'---|' * len(table.columns)}",
        *(f"| {' | '.join(row)} |" for row in shown),
    ]


def _cell(value: Any) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
