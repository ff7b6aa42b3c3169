"""The `usam` command, as far as it needs no Prefect; `flows.cli` adds `run` and `demo`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer

from usam_core.cli import bench, inspect, steps, terminal
from usam_core.cli.terminal import Contact, Json, Names, Papers
from usam_core.config import SamName, preset_names
from usam_core.steps import STEPS

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
        terminal.print_line(f"wrote {written}; next: usam run {written}")


_WITH_MORE: dict[str, tuple[Callable[..., None], list[str]]] = {
    "collect": (steps.collect, ["", " --class dog --refresh"]),
    "export": (steps.export, [" --format yolo --format coco", " --show-edits"]),
}
"""Commands of steps that take more, with their examples."""

for _step in STEPS.values():
    _ways = ["", " --refresh", *([" --level parents"] if _step.has_levels else [])]
    _run, _ways = _WITH_MORE.get(_step.name) or (steps.command(_step), _ways)
    _epilog = "Examples: " + ", ".join(f"`usam {_step.name} project.yaml{way}`" for way in _ways)
    app.command(_step.name, help=_step.title, epilog=_epilog)(_run)

app.command(
    epilog="Examples: `usam diff out/report/runs/0f3c9a51b2de7788 out/annotate`, "
    "`usam diff a/out/annotate b/out/annotate --html diff.html`"
)(inspect.diff)
app.command(
    epilog="Examples: `usam lineage out/annotate/masks/s0.png`, "
    "`usam lineage out/evaluate/metrics.json --json`"
)(inspect.lineage)
app.command(
    epilog="Examples: `usam check project.yaml`, `usam check project.yaml --repair`, "
    "`usam check project.yaml --json`"
)(inspect.check)
app.command(epilog="Example: `usam doctor project.yaml --json`")(inspect.doctor)
app.command(
    epilog="Examples: `usam review project.yaml --open`, "
    "`usam review project.yaml --class dog --order threshold --limit 100`, "
    "`usam review project.yaml --summary`"
)(steps.review)
app.command(epilog="Example: `usam crop project.yaml --open`")(steps.crop)
app.command(epilog="Examples: `usam presets`, `usam presets voc-20`")(bench.presets)
app.command(
    epilog="Examples: `usam bench voc21 --data VOCdevkit/VOC2012 --seeds 0,1,2`, "
    "`usam bench voc21 --data VOCdevkit/VOC2012 --papers --head both --training web "
    "--contact me@lab.example`, `usam bench coco-object --data coco --limit 100 --dry-run`"
)(bench.bench)
