"""The `usam` command's steps that need no Prefect; `flows.cli` adds `run` and `demo`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from usam_core.cli import bench, review, terminal
from usam_core.cli.check import check
from usam_core.cli.export import export
from usam_core.cli.options import (
    Contact,
    Json,
    Level,
    Names,
    Only,
    ProjectFile,
    Refresh,
    SamName,
    Verbose,
)
from usam_core.cli.running import print_classes, run_file, set_logging
from usam_core.config.presets import preset_names

app = typer.Typer(
    name="usam",
    help="Masks from class names: SAM's automatic mode, a small learned head, Prefect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


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
    contact: Contact = None,
    sam: Annotated[SamName, typer.Option(help="Which SAM.")] = "nano",
    papers: Annotated[
        bool, typer.Option("--papers", help="The papers' mode: recipe: papers, nothing of ours.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite project.yaml.")] = False,
    json: Json = False,
) -> None:
    """Write a commented project.yaml, and the JSON schema that editors check it with."""
    from usam_core.config.template import write_template

    written = write_template(
        folder,
        [name.strip() for name in (classes or "").split(",") if name.strip()],
        images,
        training=training,
        source=source,
        contact=contact,
        sam=sam,
        preset={"preset": preset, "names": names} if preset else None,
        papers=papers,
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
    only: Only = None,
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
    run_file("collect", project, None, bool(only) or refresh, json, verbose)


def _step(step: str) -> Callable[..., None]:
    """Return the command of a step that is the same at every level."""

    def command(
        project: ProjectFile, refresh: Refresh = False, json: Json = False, verbose: Verbose = False
    ) -> None:
        run_file(step, project, None, refresh, json, verbose)

    return command


def _step_of_level(step: str, show: Callable[[Any], None] | None = None) -> Callable[..., None]:
    """Return the command of a step that each level has a result of.

    Args:
        step: its name.
        show: prints more of the result, for people.
    """

    def command(
        project: ProjectFile,
        level: Level = None,
        refresh: Refresh = False,
        json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        result = run_file(step, project, level, refresh, json, verbose)
        if show is not None and not json:
            show(result)

    return command


app.command(
    "embed",
    help="Run SAM once over every image that the store does not have yet.",
    epilog="Example: `usam embed project.yaml`",
)(_step("embed"))
app.command(
    "compose",
    help="Put cut-out objects together to scenes with known truth, and embed them.",
    epilog="Example: `usam compose project.yaml`",
)(_step("compose"))
app.command(
    "describe",
    help="Make the blocks of `features:` for every embedded image that lacks them; SAM is not run.",
    epilog="Example: `usam describe project.yaml`",
)(_step("describe"))
app.command(
    "fit",
    help="Learn the head from the training pictures' embeddings; embeds nothing.",
    epilog="Examples: `usam fit project.yaml --level parents`, "
    "`usam fit project.yaml --level animals`",
)(_step_of_level("fit"))
app.command(
    "calibrate",
    help="Fit probabilities, thresholds and presence to held-out composed scenes; no labels "
    "needed.",
    epilog="Example: `usam calibrate project.yaml`",
)(_step_of_level("calibrate"))
app.command(
    "annotate",
    help="Label every image: COCO JSON, palette PNGs, overlays, lineage.json.",
    epilog="Example: `usam annotate project.yaml`",
)(_step_of_level("annotate"))
app.command(
    "evaluate",
    help="Measure the labels against truth: mIoU, mAP50, false positives, a contact sheet.",
    epilog="Example: `usam evaluate project.yaml --json`",
)(_step_of_level("evaluate", show=print_classes))
app.command(
    epilog="Examples: `usam export project.yaml --format yolo --format coco`, "
    "`usam export project.yaml --show-edits`"
)(export)
app.command(
    "report",
    help="Write one HTML file that shows a run: what was done, what came out, what changed.",
    epilog="Example: `usam report project.yaml`",
)(_step_of_level("report"))


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


app.command(
    epilog="Examples: `usam check project.yaml`, `usam check project.yaml --repair`, "
    "`usam check project.yaml --json`"
)(check)


@app.command(epilog="Example: `usam doctor project.yaml --json`")
def doctor(
    project: Annotated[Path | None, typer.Argument(help="A project file to look at too.")] = None,
    json: Json = False,
) -> None:
    """Say what this machine has, and what would be downloaded."""
    from usam_core.cli.doctor import examine
    from usam_core.config.project import load_project

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
