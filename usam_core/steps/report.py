"""Report: one HTML file that shows what was run, what came out, and what changed."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from usam_core.config.project import Project
from usam_core.errors import StoreError
from usam_core.files.atomic import whole_file
from usam_core.files.digest import files_digest
from usam_core.files.parquet import read_frame
from usam_core.files.spreadsheet import read_csv
from usam_core.inference.scoring import thresholds
from usam_core.lineage.chain import read_chain
from usam_core.lineage.document import LINEAGE
from usam_core.lineage.picture import data_uri, in_words
from usam_core.progress import Progress
from usam_core.report.advice import Facts, next_steps
from usam_core.report.difference import changes_part, compare_runs
from usam_core.report.found import (
    SampleKeeper,
    class_rows,
    coverage,
    least_covered,
    overview,
    sample_rows,
    samples_a_kind,
)
from usam_core.report.page import TEMPLATES, Album, Picture, number, percent, render
from usam_core.report.runs import (
    COLUMNS,
    LabelledRun,
    describe_run,
    keep_run,
    open_run,
    previous_run,
    read_tables,
    remember_run,
    run_folder,
)
from usam_core.report.sections import (
    calibration_part,
    chain_steps,
    metrics_part,
    own_settings,
    quarantine_part,
    training_rows,
)
from usam_core.sources.base import manifest_path
from usam_core.steps import annotate, collect
from usam_core.steps.base import Inputs, StepResult, step_folder
from usam_core.steps.label_images import read_calibration
from usam_core.steps.record import (
    decided,
    finished,
    labels_record,
    made_digest,
    made_input,
    read_record,
    summary_of,
    whole_output,
)

CALCULATIONS = (
    "usam_core.report.advice",
    "usam_core.report.difference",
    "usam_core.report.found",
    "usam_core.report.page",
    "usam_core.report.runs",
    "usam_core.report.sections",
)
"""Modules that decide the step's results."""

REPORT = "report.html"

_MEGABYTE = 1_000_000
PICTURES_MB = {"samples": 3.5, "overview": 0.6, "covered": 0.6, "changes": 1.4, "training": 1.4}
"""What pictures of each kind may weigh: with the tables, a report stays below 10 MB."""

_PARTS = (
    ("next", "What to do next"),
    ("classes", "Classes"),
    ("coverage", "Coverage"),
    ("samples", "Samples"),
    ("probabilities", "Probabilities"),
    ("metrics", "Against truth"),
    ("difference", "Since the previous run"),
    ("training", "Training pictures"),
    ("quarantine", "Left out"),
    ("ran", "What was run"),
)


def inputs(project: Project) -> Inputs:
    """What the report speaks of: the steps' outputs, the run before, how it looks."""
    record = labels_record(project)
    labels = made_digest(record)
    scored = _evaluated(project, labels)
    before = previous_run(step_folder(project, "report"), labels)
    made = {step: read_record(step_folder(project, step)) for step in ("collect", "calibrate")}
    return {
        "labels": made_input(project, record),
        **({"metrics": made_input(project, scored)} if scored else {}),
        "truth_notes": scored.summary["truth_notes"] if scored else [],
        "made": {step: made_digest(record) for step, record in made.items() if record},
        "left_out": [_left_out(project), _notes(project)],
        "decisions": _decisions(project),
        "offered": [
            project.file.name,
            project.config.outputs.formats,
            bool(project.config.distill),
        ],
        "previous": before.name if before else None,
        "templates": files_digest(TEMPLATES),
        "settings": project.config.report.model_dump(mode="json"),
    }


def run(project: Project, key: str, progress: Progress) -> StepResult:
    """Write the report, and keep what later runs are compared with."""
    folder = step_folder(project, "report")
    labels = made_digest(labels_record(project))
    fitted = read_calibration(project)
    limits = thresholds(project.config.inference, project.config.label_names, fitted).tolist()
    now, keeper = _read(project, limits, progress)
    before = previous_run(folder, labels)
    earlier = None if before is None else open_run(before)
    albums = {name: Album(int(size * _MEGABYTE)) for name, size in PICTURES_MB.items()}
    changed = difference = None
    if earlier is not None:
        changed = compare_runs(earlier, now)
        difference = changes_part(changed, earlier, now, albums["changes"])
    scored = _evaluated(project, labels)
    covered, metrics = coverage(now), _metrics(scored)
    classes, samples = class_rows(now, limits), keeper.samples()
    training = _training(project, albums["training"])
    facts = Facts(
        file=project.file.name,
        images=len(now.tables.images),
        classes=classes,
        coverage=covered,
        kept={row["name"]: row["kept"] for row in training},
        metrics=metrics,
        left_out=len(_left_out(project)),
        rejected=[now.classes[one.class_index] for one in samples if one.kind == "rejected"],
        decisions=_decisions(project),
        formats=project.config.outputs.formats,
        distilled=project.config.distill is not None,
    )
    advice, chain = next_steps(facts), read_chain(step_folder(project, "annotate"))
    page = render(
        "report.html.j2",
        title=f"{now.about['name']}: labels",
        finished=now.about["finished"],
        advice=advice,
        images=len(now.tables.images),
        about=_about(now),
        settings=own_settings(now.about["config"]),
        chain=chain_steps(chain),
        lineage=Picture(*data_uri(chain), in_words(chain)),
        versions=now.about["versions"],
        tiles=_tiles(now, covered, metrics),
        parts=[part for part in _PARTS if part[0] != "metrics" or metrics],
        classes=classes,
        coverage=covered,
        overview=overview(now, albums["overview"]),
        least_covered=least_covered(now, albums["covered"]),
        samples=sample_rows(now, samples, albums["samples"]),
        calibration=_calibration(project, scored),
        metrics=metrics,
        difference=difference,
        training=training,
        quarantine=quarantine_part(_left_out(project)),
        notes=_notes(project),
        left_out=sum(album.left_out for album in albums.values()),
    )
    with whole_file(folder / REPORT) as temporary:
        temporary.write_text(page, encoding="utf-8")
    kept = keep_run(now, run_folder(folder, labels))
    remember_run(folder, labels, project.config.report.runs_kept)
    summary = {
        "images": len(now.tables.images),
        "instances": len(now.tables.instances),
        "coverage": covered["share"],
        "bytes": (folder / REPORT).stat().st_size,
        "next": advice,
        "changed": None if changed is None else len(changed.images),
    }
    return finished("report", key, folder / REPORT, summary, [folder / REPORT, *kept])


def _evaluated(project: Project, labels: str) -> StepResult | None:
    """The metrics' record, if there are any and they are of these labels."""
    folder = step_folder(project, "evaluate")
    record = read_record(folder)
    if record is None or project.config.evaluation is None:
        return None
    document = json.loads(whole_output(folder, LINEAGE).read_bytes())
    return record if document["inputs"]["labels"]["sha256"] == labels else None


def _decisions(project: Project) -> int:
    """How many decisions of a person stand."""
    return sum(map(len, decided(project.out).values()))


def _notes(project: Project) -> list[str]:
    """Notes of `embed` on the images: endings left out, channels not shown."""
    return summary_of(project, "embed").get("notes", [])


def _left_out(project: Project) -> list[dict[str, str]]:
    """Path, code and reason of every image that `embed` or `describe` could not use."""
    unusable: list[dict[str, str]] = []
    for step, key in (("embed", "quarantined"), ("describe", "left_out")):
        unusable += summary_of(project, step).get(key, [])
    names = ("path", "code", "reason")
    return [{name: project.as_listed(one[name]) for name in names} for one in unusable]


def _read(
    project: Project, limits: Sequence[float], progress: Progress
) -> tuple[LabelledRun, SampleKeeper]:
    """Go over the labels once, for tables and samples."""
    folder = step_folder(project, "annotate")
    try:
        about = describe_run(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{folder}: what ran is damaged ({error!r}); run `usam annotate` again"
        ) from error
    samples = samples_a_kind(len(limits), project.config.report.samples)
    times_iou = project.config.inference.score == "confidence_x_iou"
    keeper = SampleKeeper(limits, times_iou, samples)
    labels = annotate.labels(project)

    def watched() -> Iterator[pa.Table]:
        with progress.bar("Reading labels", labels_record(project).summary["images"]) as bar:
            for table in labels.tables(None if samples else COLUMNS):
                for image in labels.images_of(table) if samples else ():
                    keeper.add(image)
                bar.advance(len(table))
                yield table

    return LabelledRun(folder, about, read_tables(watched())), keeper


def _about(now: LabelledRun) -> list[tuple[str, str]]:
    config = now.about["config"]
    sam, head = config["sam"], config["head"]
    grid = sam["points_per_side"]
    return [
        ("classes", ", ".join(now.classes)),
        ("level", config["level"]),
        ("SAM", f"{sam['model']}, a grid of {grid} x {grid} points"),
        ("head", f"{config['inference']['head']}, from {' + '.join(head['features'])}"),
        ("training pictures", config["training"]["source"]),
        ("seed", str(config["seed"])),
        ("usam", now.about["versions"]["usam"]),
    ]


def _tiles(
    now: LabelledRun, covered: dict[str, Any], metrics: dict[str, Any] | None
) -> list[tuple[str, str]]:
    tiles = [
        ("images", number(len(now.tables.images))),
        ("instances", number(len(now.tables.instances))),
        ("classes", number(len(now.classes))),
        ("pixels labelled", percent(covered["share"])),
        ("images without a label", number(covered["empty_count"])),
    ]
    return [*tiles, ("mIoU", number(metrics["miou"]))] if metrics else tiles


def _calibration(project: Project, scored: StepResult | None) -> list[dict[str, Any]]:
    parts, name = [], "reliability.csv"
    fitted = read_record(step_folder(project, "calibrate"))
    for record, what in ((fitted, "masks of held-out scenes"), (scored, "listed masks with truth")):
        if record and name in record.outputs:
            table = pd.read_csv(whole_output(Path(record.path).parent, name))
            parts.append(calibration_part(table, what))
    return parts


def _metrics(scored: StepResult | None) -> dict[str, Any] | None:
    if scored is None:
        return None
    folder = Path(scored.path).parent
    metrics = json.loads(whole_output(folder, Path(scored.path).name).read_bytes())
    table = read_csv(whole_output(folder, "per_class.csv"))
    return metrics_part(metrics, table, scored.summary)


def _training(project: Project, album: Album) -> list[dict[str, Any]]:
    folder = step_folder(project, "collect")
    if project.config.training.source == "none" or not manifest_path(folder).exists():
        return []
    names = [spec.name for spec in project.config.collected]
    dropped = read_frame(whole_output(folder, "rejected.parquet"))
    return training_rows(names, collect.read_table(project), dropped, album)


def sentence(summary: dict[str, Any]) -> str:
    """Sum up a result."""
    text = f"{summary['images']} images in one file of {summary['bytes'] / 1e6:.1f} MB"
    if summary["changed"] is None:
        return f"{text}; no earlier run to compare with"
    return f"{text}; labels of {summary['changed']} images changed since the previous run"
