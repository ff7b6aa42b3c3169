"""What a benchmark leaves behind: two tables, a figure, the protocol, and a page with all of it."""

import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image, ImageDraw, ImageFont

from usam_core.bench.datasets import papers_classwise, published_rows
from usam_core.bench.plan import Measured, Plan
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest, value_digest
from usam_core.files.spreadsheet import write_csv
from usam_core.lineage.document import checkout, versions
from usam_core.steps import STEPS, code_revision, embed

OURS = "ours"
NOT_RUN = "published, not run by us"
_COLUMNS = [
    *("method", "training", "group", "names", "runs", "miou", "miou_deviation", "map50"),
    *("map50_deviation", "false_positive_rate", "source", "note"),
]
_CLASS_NUMBERS = ("iou", "ap50", "false_positive_rate", "false_positive_area")


def result_table(plan: Plan, measured: Sequence[Measured]) -> pd.DataFrame:
    """Return one row a method: ours first, then the papers', then the best published; percent.

    Columns: method, training, group, names, runs, miou, miou_deviation, map50, map50_deviation,
    false_positive_rate, source, note. Deviations are those of a sample (n - 1), over the seeds.
    """
    rows = [_our_row(plan, head, measured) for head in plan.choices.heads]
    others = published_rows(plan.benchmark.name)
    rows += [row | {"source": f"{NOT_RUN}: {row['source']}"} for row in others]
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"runs": "Int64"})


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


_COLORS = {OURS: "#c0392b", "papers": "#2c6fa6", "best": "#9aa5ad"}
_LEGEND = {
    OURS: "this run",
    "papers": f"the papers' tables ({NOT_RUN})",
    "best": f"best published, names only ({NOT_RUN})",
}
_WIDTH, _LEFT, _RIGHT = 1000, 330, 120
_ROW, _TOP, _BOTTOM = 26, 64, 84


def save_figure(path: Path, table: pd.DataFrame, measure: str, title: str) -> None:
    """Write a chart of `miou` or `map50`, percent, as PNG, the largest bar on top.

    Rows of the result table without the measure are left out.
    """
    rows = table[table[measure].notna()].sort_values(measure, ascending=False, kind="stable")
    picture = Image.new("RGB", (_WIDTH, _TOP + _ROW * len(rows) + _BOTTOM), "white")
    pen = ImageDraw.Draw(picture)
    font, bold = ImageFont.load_default(14), ImageFont.load_default(18)
    name = {"miou": "mIoU", "map50": "mAP50 of masks"}[measure]
    pen.text((16, 14), f"{title}: {name}, %", fill="black", font=bold)
    scale = (_WIDTH - _LEFT - _RIGHT) / 100
    bottom = _TOP + _ROW * len(rows)
    for tick in range(0, 101, 20):
        x = _LEFT + tick * scale
        pen.line([(x, _TOP - 8), (x, bottom)], fill="#dddddd")
        pen.text((x, _TOP - 10), str(tick), fill="#666666", font=font, anchor="mb")
    for number, row in enumerate(rows.to_dict("records")):
        middle = _TOP + _ROW * number + _ROW // 2
        value, deviation = row[measure], row[f"{measure}_deviation"]
        label = f"{row['method']} ({row['training']})"
        pen.text((_LEFT - 8, middle), label, fill="black", font=font, anchor="rm")
        end = _LEFT + value * scale
        box = [(_LEFT, middle - 8), (max(end, _LEFT + 1), middle + 8)]
        pen.rectangle(box, fill=_COLORS[row["group"]])
        text = f"{value:.1f}"
        if pd.notna(deviation):
            text = f"{text} ± {deviation:.1f}"
            reach = deviation * scale
            pen.line([(end - reach, middle), (end + reach, middle)], fill="black", width=2)
            end += reach
        pen.text((end + 8, middle), text, fill="black", font=font, anchor="lm")
    for number, (group, words) in enumerate(_LEGEND.items()):
        y = bottom + 14 + 20 * number
        pen.rectangle([(16, y), (28, y + 12)], fill=_COLORS[group])
        pen.text((36, y + 6), words, fill="black", font=font, anchor="lm")
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")


PROTOCOL = "protocol.json"


def write_report(plan: Plan, measured: Sequence[Measured]) -> dict[str, Any]:
    """Write all files of the report; return the rows, the protocol and the files' paths."""
    out = plan.choices.out
    results, classes = result_table(plan, measured), class_table(plan, measured)
    document = protocol(plan, measured)
    write_csv(out / "results.csv", results.round(2))
    write_csv(out / "classes.csv", classes.round(2))
    used, total = len(plan.split.names), plan.split.total
    title = plan.benchmark.title + (f" ({used} of {total} images)" if used < total else "")
    save_figure(out / "figure.png", results, plan.benchmark.measure, title)
    write_json(out / PROTOCOL, document)
    with whole_file(out / "report.md") as temporary:
        temporary.write_text(_markdown(plan, results, classes, document), encoding="utf-8")
    names = ("report.md", "results.csv", "classes.csv", "figure.png", PROTOCOL)
    return {
        "rows": results.astype(object).where(results.notna(), None).to_dict("records"),
        "protocol": document,
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
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _markdown(
    plan: Plan, results: pd.DataFrame, classes: pd.DataFrame, document: dict[str, Any]
) -> str:
    split, truth = document["split"], document["truth"]
    lines = [
        f"# {plan.benchmark.title}",
        "",
        f"{split['images']} of {split['of']} images ({split['choice']}), {plan.choices.names} "
        f"names, seeds {document['seeds']}, {document['date']}. Percent.",
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
        f"- Background: {document['classes']['background']}.",
        f"- Sizes: {document['sizes']}.",
        *(f"- {name}: {text}." for name, text in document["measures"].items()),
        *(f"- Note: {note}." for note in truth["notes"]),
        f"- Training pictures: {document['training']['source']}, {document['training']['seeds']}.",
        f"- Encoder: {document['encoder']}.",
        f"- Machine: {document['machine']}.",
        "",
        f"Everything else: `{PROTOCOL}`.",
    ]
    return "\n".join(lines) + "\n"


def _table(table: pd.DataFrame) -> list[str]:
    def cell(value: Any) -> str:
        if pd.isna(value):
            return "-"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    rows = [[column.replace("_", " ") for column in table.columns]]
    rows += [[cell(value) for value in row] for row in table.itertuples(index=False)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * len(table.columns)}", *lines[1:]]
