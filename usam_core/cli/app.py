"""The `usam` command's steps that need no Prefect; `flows.cli` adds `run` and `demo`."""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from usam_core.cli import bench, review, terminal
from usam_core.cli.export import export
from usam_core.cli.summary import sentence
from usam_core.presets import preset_names

app = typer.Typer(
    name="usam",
    help="Masks from class names: SAM's automatic mode, a small learned head, Prefect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

ProjectFile = Annotated[Path, typer.Argument(help="The project file, project.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, for machines.")]
Refresh = Annotated[bool, typer.Option("--refresh", help="Do it again even if nothing changed.")]
Level = Annotated[
    str | None,
    typer.Option(
        help="Label with `classes`, with their `parents`, or name one parent: its classes become "
        "one, the others stay."
    ),
]
Names = Annotated[
    Literal["cleaned", "raw"],
    typer.Option(help="Of a preset: words that people use, or the data set's own."),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show the log.")]


@app.command(
    epilog="Examples: `usam init plates --classes nucleus,debris --images plates --training mine`, "
    "`usam init pets --classes dog,cat --images photos --source synthetic`, "
    "`usam init pets --classes dog,cat --images photos --source web --contact me@lab.example`, "
    "`usam init voc --preset voc-20 --images photos --training mine`"
)
def init(
    folder: Annotated[Path, typer.Argument(help="Folder of the new project.")],
    images: Annotated[
        str,
        typer.Option(
            help="The images to be labelled: a folder, a URL such as s3://lab/plates, or a file "
            "that names them (.csv, .parquet, .txt, COCO .json)."
        ),
    ],
    classes: Annotated[
        str | None, typer.Option(help="Class names, with commas between them.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help=f"In their place a list: {', '.join(preset_names())}.")
    ] = None,
    names: Names = "cleaned",
    training: Annotated[
        Path | None, typer.Option(help="Folder with one folder of pictures per class.")
    ] = None,
    source: Annotated[
        Literal["folder", "synthetic", "web"],
        typer.Option(help="Where training pictures come from."),
    ] = "folder",
    contact: Annotated[
        str | None, typer.Option(help="For the web: your e-mail address or page.")
    ] = None,
    sam: Annotated[
        Literal["nano", "vit_b", "vit_l", "vit_h"], typer.Option(help="Which SAM.")
    ] = "nano",
    force: Annotated[bool, typer.Option("--force", help="Overwrite project.yaml.")] = False,
    json: Json = False,
) -> None:
    """Write a commented project.yaml, and the JSON schema that editors check it with."""
    from usam_core.project_template import write_template

    written = write_template(
        folder,
        [name.strip() for name in (classes or "").split(",") if name.strip()],
        images,
        training=training,
        source=source,
        contact=contact,
        sam=sam,
        preset={"preset": preset, "names": names} if preset else None,
        force=force,
    )
    if json:
        terminal.print_json({"project": str(written)})
    else:
        terminal.screen.print(f"wrote {written}; next: usam run {written}", soft_wrap=True)


@app.command(
    epilog="Examples: `usam collect project.yaml`, "
    "`usam collect project.yaml --class dog --refresh`"
)
def collect(
    project: ProjectFile,
    only: Annotated[
        list[str] | None,
        typer.Option("--class", help="Get this class alone; may be given several times."),
    ] = None,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Drop the pictures made or fetched, and begin anew.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Get single-object pictures of every class, filter them, and list where they came from."""
    from usam_core.cli.collect import collect_classes

    set_logging(verbose)
    if not collect_classes(project, only, refresh, json):
        return
    _step("collect", project, None, bool(only) or refresh, json, verbose)


@app.command(epilog="Example: `usam embed project.yaml`")
def embed(
    project: ProjectFile, refresh: Refresh = False, json: Json = False, verbose: Verbose = False
) -> None:
    """Run SAM once over every image that the store does not have yet."""
    _step("embed", project, None, refresh, json, verbose)


@app.command(epilog="Example: `usam compose project.yaml`")
def compose(
    project: ProjectFile, refresh: Refresh = False, json: Json = False, verbose: Verbose = False
) -> None:
    """Put cut-out objects together to scenes with known truth, and embed them."""
    _step("compose", project, None, refresh, json, verbose)


@app.command(epilog="Example: `usam describe project.yaml`")
def describe(
    project: ProjectFile, refresh: Refresh = False, json: Json = False, verbose: Verbose = False
) -> None:
    """Make the blocks of `features:` for every embedded image that lacks them; SAM is not run."""
    _step("describe", project, None, refresh, json, verbose)


@app.command(
    epilog="Examples: `usam fit project.yaml --level parents`, "
    "`usam fit project.yaml --level animals`"
)
def fit(
    project: ProjectFile,
    level: Level = None,
    refresh: Refresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Learn the head from the training pictures' embeddings; embeds nothing."""
    _step("fit", project, level, refresh, json, verbose)


@app.command(epilog="Example: `usam calibrate project.yaml`")
def calibrate(
    project: ProjectFile,
    level: Level = None,
    refresh: Refresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Fit probabilities, thresholds and presence to held-out composed scenes; no labels needed."""
    _step("calibrate", project, level, refresh, json, verbose)


@app.command(epilog="Example: `usam annotate project.yaml`")
def annotate(
    project: ProjectFile,
    level: Level = None,
    refresh: Refresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Label every image: COCO JSON, palette PNGs, overlays, lineage.json."""
    _step("annotate", project, level, refresh, json, verbose)


@app.command(epilog="Example: `usam evaluate project.yaml --json`")
def evaluate(
    project: ProjectFile,
    level: Level = None,
    refresh: Refresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure the labels against truth: mIoU, mAP50, false positives, a contact sheet."""
    result = _step("evaluate", project, level, refresh, json, verbose)
    if not json:
        print_classes(result)


app.command(
    epilog="Examples: `usam export project.yaml --format yolo --format coco`, "
    "`usam export project.yaml --show-edits`"
)(export)


@app.command(epilog="Example: `usam report project.yaml`")
def report(
    project: ProjectFile,
    level: Level = None,
    refresh: Refresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write one HTML file that shows a run: what was done, what came out, what changed."""
    _step("report", project, level, refresh, json, verbose)


@app.command(
    epilog="Examples: `usam diff out/report/runs/0f3c9a51b2de7788 out/annotate`, "
    "`usam diff a/out/annotate b/out/annotate --html diff.html`"
)
def diff(
    run_a: Annotated[
        Path, typer.Argument(help="Folder of labels, out/annotate, or one in out/report/runs.")
    ],
    run_b: Annotated[Path, typer.Argument(help="The labels to compare them with.")],
    html: Annotated[
        Path | None, typer.Option(help="Write a page too, images side by side.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="Rows of a table, images of the page.")] = 20,
    json: Json = False,
) -> None:
    """Say which images and classes changed most from one run to another."""
    from usam_core.cli.diff import print_difference

    print_difference(run_a, run_b, html, most, json)


@app.command(
    epilog="Examples: `usam lineage out/annotate/masks/s0.png`, "
    "`usam lineage out/evaluate/metrics.json --json`"
)
def lineage(
    file: Annotated[Path, typer.Argument(help="An output of a project, or a step's folder.")],
    json: Json = False,
) -> None:
    """Say what an output was made of, back to pictures and checkpoint, and check every link."""
    from usam_core.cli.lineage import print_lineage

    if not print_lineage(file, json):
        raise typer.Exit(1)


@app.command(epilog="Example: `usam doctor project.yaml --json`")
def doctor(
    project: Annotated[Path | None, typer.Argument(help="A project file to look at too.")] = None,
    json: Json = False,
) -> None:
    """Say what this machine has, and what would be downloaded."""
    from usam_core.doctor import examine
    from usam_core.project import load_project

    checks = examine(load_project(project) if project else None)
    if json:
        terminal.print_json([check.to_json() for check in checks])
    else:
        rows = [[check.name, check.value, check.verdict, check.advice] for check in checks]
        terminal.print_table("usam doctor", ["what", "found", "verdict", "advice"], rows)
    if any(check.verdict == "bad" for check in checks):
        raise typer.Exit(1)


app.command(
    epilog="Examples: `usam review project.yaml --open`, "
    "`usam review project.yaml --class dog --order threshold --limit 100`, "
    "`usam review project.yaml --summary`"
)(review.review)
app.command(epilog="Examples: `usam presets`, `usam presets voc-20`")(bench.presets)
app.command(
    epilog="Examples: `usam bench voc21 --data VOCdevkit/VOC2012 --seeds 0,1,2`, "
    "`usam bench voc21 --data VOCdevkit/VOC2012 --papers --head both --training web "
    "--contact me@lab.example`, `usam bench coco-object --data coco --limit 100 --dry-run`"
)(bench.bench)


def print_classes(result: Any) -> None:
    """Print the per-class table of an evaluate result."""
    import pandas as pd

    table = pd.read_csv(Path(result.path).with_name("per_class.csv"))
    shown = table.astype(object).where(table.notna(), None)
    terminal.print_table("per class", list(table.columns), shown.values.tolist())


def set_logging(verbose: bool) -> None:
    """Show our own warnings, or everything of ours; what libraries log stays with them."""
    ours = logging.getLogger("usam_core")
    ours.setLevel(logging.INFO if verbose else logging.WARNING)
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        ours.addHandler(handler)


def _step(
    step: str, file: Path, level: str | None, refresh: bool, as_json: bool, verbose: bool
) -> Any:
    set_logging(verbose)
    from usam_core.project import load_project

    return run_one(
        step, load_project(file, **({"level": level} if level else {})), refresh, as_json
    )


def run_one(step: str, project: Any, refresh: bool, as_json: bool) -> Any:
    """Run one step of a project and print what it did."""
    from usam_core.stages import run_step

    progress = terminal.progress_for_terminal()
    result = run_step(step, project, refresh=refresh, progress=progress)
    if as_json:
        terminal.print_json(result.to_json())
    else:
        line = f"{step}: {sentence(step, result.summary, result.reused)}"
        terminal.screen.print(line, soft_wrap=True, highlight=False)
        terminal.screen.print(f"  {result.path}", soft_wrap=True, highlight=False)
        for note in result.summary.get("notes", []):
            terminal.screen.print(f"  {note}", soft_wrap=True, highlight=False)
    return result
