"""`usam bench` and `usam presets`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from usam_core.cli import terminal
from usam_core.cli.terminal import Contact, Json, Names, Papers, Verbose, print_line
from usam_core.cli.watch import WATCH
from usam_core.config import NAMES, SamName, preset_classes, preset_names, preset_summary
from usam_core.errors import InputError
from usam_core.steps import STEPS


def bench(
    benchmark: Annotated[
        Literal["voc21", "voc-superclasses", "coco-object"], typer.Argument(help="What to measure.")
    ],
    data: Annotated[Path, typer.Option(help="The data set's folder, laid out officially.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the results; by default bench-BENCHMARK.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="At most so many images, evenly spread.", min=1)
    ] = None,
    sam: Annotated[
        SamName | None,
        typer.Option(help="Which SAM; vit_h if neither this nor --project says."),
    ] = None,
    training: Annotated[
        str | None,
        typer.Option(help="synthetic, web, or a folder of class folders; else synthetic."),
    ] = None,
    contact: Contact = None,
    seeds: Annotated[str, typer.Option(help="A run for each, with commas between them.")] = "0",
    names: Names = "cleaned",
    papers: Papers = False,
    head: Annotated[
        Literal["student", "teacher", "both"], typer.Option(help="Which head labels; a row each.")
    ] = "student",
    store: Annotated[
        Path | None, typer.Option(help="Folder of embeddings, to share with other benchmarks.")
    ] = None,
    project: Annotated[
        Path | None, typer.Option(help="YAML file with more settings, as in project.yaml.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, and write nothing.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure on a public data set, beside the papers' and the best published numbers.

    Killed and started again, it goes on where it was. docs/benchmark.md has one command for each
    row of the papers' tables.
    """
    from usam_core.bench.plan import HEADS, Choices, check_plan, make_plan, run_plan
    from usam_core.bench.report import NOT_RUN, OURS, write_report

    plan = make_plan(
        Choices(
            benchmark=benchmark,
            data=data,
            out=out or Path(f"bench-{benchmark}"),
            limit=limit,
            sam=sam,
            training=training,
            contact=contact,
            seeds=_numbers(seeds),
            names=names,
            papers=papers,
            heads=HEADS if head == "both" else (head,),
            store=store,
            settings=project,
        )
    )
    check_plan(plan)
    if dry_run:
        _print_plan(plan, json)
        return

    def done(run: Any, result: Any) -> None:
        line = STEPS[result.step].sentence(result.summary, result.reused)
        print_line(f"{run.head}, seed {run.seed}: {result.step}: {line}", terminal.errors)

    document = write_report(plan, run_plan(plan, WATCH.on, done))
    if json:
        terminal.print_json(document)
        return
    keys = ("method", "training", "miou", "map50", "false_positive_rate")
    rows = [
        [*(row[key] for key in keys), "this run" if row["group"] == OURS else "published"]
        for row in document["rows"]
    ]
    columns = ["method", "training", "mIoU", "mAP50", "false positives", "whose"]
    terminal.print_table(f"{plan.benchmark.title}, %", columns, rows)
    notes = dict.fromkeys(row["note"] for row in document["rows"] if row["group"] == OURS)
    caveat = f"{NOT_RUN}: sources and caveats are in results.csv"
    for line in (*filter(None, notes), caveat, *document["files"]):
        print_line(f"  {line}")


def presets(
    preset: Annotated[
        str | None, typer.Argument(help="Show the names of this one; else list all.")
    ] = None,
    json: Json = False,
) -> None:
    """List the class lists that ship with usam, or show one with its raw and cleaned names."""
    if preset is None:
        listed = {name: preset_summary(name) for name in preset_names()}
        if json:
            terminal.print_json(listed)
        else:
            terminal.print_table("presets", ["preset", "what"], [list(r) for r in listed.items()])
        return
    if preset not in preset_names():
        raise InputError(f"got {preset!r}; expected one of {', '.join(preset_names())}")
    lists = {names: preset_classes(preset, names) for names in NAMES}
    if json:
        terminal.print_json(lists)
        return
    rows = [
        [raw["name"], spec["name"], ", ".join(spec.get("synonyms", [])), spec.get("parent")]
        for raw, spec in zip(lists["raw"], lists["cleaned"], strict=True)
    ]
    terminal.print_table(preset, ["raw", "cleaned", "synonyms", "parent"], rows)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--seeds: got {text!r}; expected numbers such as 0,1,2") from None


def _print_plan(plan: Any, as_json: bool) -> None:
    files = [plan.split.images / name for name in plan.split.names]
    told = {
        "benchmark": plan.benchmark.title,
        "images": len(files),
        "of": plan.split.total,
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "split": str(plan.split.source),
        "truth": plan.split.evaluation["path"],
        "notes": plan.split.notes,
        "void": plan.benchmark.void,
        "flattening": plan.benchmark.flattening,
        "names": plan.choices.names,
        "classes": len(preset_classes(plan.benchmark.preset, plan.choices.names)),
        "settings": plan.settings,
        "runs": [dataclasses.asdict(run) | {"file": str(run.file)} for run in plan.runs],
    }
    if as_json:
        terminal.print_json(told)
        return
    runs = ", ".join(f"{run.head} seed {run.seed}" for run in plan.runs)
    rows = [[key, str(value)] for key, value in {**told, "runs": runs}.items()]
    terminal.print_table("would do", ["what", "value"], rows)
