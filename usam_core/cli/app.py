"""The `usam` command, as far as it needs no Prefect; `flows.cli` adds `run` and `demo`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from usam_core.cli import bench, review, terminal
from usam_core.cli.check import check
from usam_core.cli.collect import collect
from usam_core.cli.export import export
from usam_core.cli.options import (
    Contact,
    Json,
    Level,
    Names,
    Papers,
    ProjectFile,
    SamName,
    Verbose,
)
from usam_core.cli.running import run_file
from usam_core.config.presets import preset_names
from usam_core.steps import STEPS, Step

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
    papers: Papers = False,
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


def _command(step: Step) -> Callable[..., None]:
    """The command of a step that takes what all of them do."""
    Refresh = Annotated[bool, typer.Option("--refresh", help=step.refresh)]

    def of_level(
        project: ProjectFile,
        level: Level = None,
        refresh: Refresh = False,
        json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        run_file(step.name, project, level, refresh, json, verbose)

    def of_all(
        project: ProjectFile, refresh: Refresh = False, json: Json = False, verbose: Verbose = False
    ) -> None:
        run_file(step.name, project, None, refresh, json, verbose)

    return of_level if step.has_levels else of_all


def _examples(step: Step) -> str:
    ways = ["", " --refresh", *([" --level parents"] if step.has_levels else [])]
    return "Examples: " + ", ".join(f"`usam {step.name} project.yaml{way}`" for way in ways)


_WITH_MORE: dict[str, tuple[Callable[..., None], str]] = {
    "collect": (
        collect,
        "Examples: `usam collect project.yaml`, `usam collect project.yaml --class dog --refresh`",
    ),
    "export": (
        export,
        "Examples: `usam export project.yaml --format yolo --format coco`, "
        "`usam export project.yaml --show-edits`",
    ),
}
"""Commands of steps that take more, with their examples."""

for _step in STEPS.values():
    _run, _epilog = _WITH_MORE.get(_step.name) or (_command(_step), _examples(_step))
    app.command(_step.name, help=_step.title, epilog=_epilog)(_run)


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
