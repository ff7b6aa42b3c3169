"""The `usam` command, as far as it needs no Prefect; `flows.cli` adds `run` and `demo`."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from usam_core.cli import bench, inspect, start, steps
from usam_core.cli.terminal import print_line
from usam_core.steps import STEPS

_F = TypeVar("_F", bound=Callable[..., Any])


class _WithExamples(TyperCommand):
    """A command whose help ends with examples, one a line, as they are typed: to be copied."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        examples, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = examples
        print_line("Examples:")
        for line in (examples or "").splitlines():
            print_line(f"  {line}")
        print_line("")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print_line(f"usam {version('usam')}")
        raise typer.Exit


app = typer.Typer(
    name="usam",
    help="Masks from class names: SAM's automatic mode, a small learned head, Prefect.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback()
def usam(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Masks from class names: SAM's automatic mode, a small learned head, Prefect."""
    del version


def add(*examples: str, name: str | None = None, help: str | None = None) -> Callable[[_F], _F]:
    """Return what makes a function a command, its `--help` ending with these examples."""
    return app.command(name, help=help, cls=_WithExamples, epilog="\n".join(examples))


add(
    "usam init",
    "usam init plates --classes nucleus,debris --images plates --training mine",
    "usam init pets --classes dog,cat --images photos --source synthetic",
    "usam init pets --classes dog,cat --images photos --source web --contact me@lab.example",
    "usam init voc --preset voc-20 --images photos --training mine --recipe auto",
    "usam init plates --classes nucleus --images plates --full --force",
)(start.init)

_WITH_MORE: dict[str, tuple[Callable[..., None], list[str]]] = {
    "collect": (steps.collect, ["", " --class dog --refresh"]),
    "export": (steps.export, [" --format yolo --format coco", " --show-edits"]),
    "distill": (steps.distill, ["", " --refresh"]),
}
"""Commands of steps that take more, with their examples."""

for _step in STEPS.values():
    _ways = ["", " --refresh", *([" --level parents"] if _step.has_levels else [])]
    _run, _ways = _WITH_MORE.get(_step.name) or (steps.command(_step), _ways)
    _examples = [f"usam {_step.name} my-project{way}" for way in _ways]
    add(*_examples, name=_step.name, help=_step.title)(_run)

add(
    "usam diff out/report/runs/0f3c9a51b2de7788 out/annotate",
    "usam diff a/out/annotate b/out/annotate --html diff.html",
)(inspect.diff)
add("usam lineage out/annotate/masks/s0.png", "usam lineage out/evaluate/metrics.json --json")(
    inspect.lineage
)
add("usam check my-project", "usam check my-project --repair", "usam check my-project --json")(
    inspect.check
)
add("usam doctor", "usam doctor my-project --json")(inspect.doctor)
add(
    "usam review my-project --open",
    "usam review my-project --class dog --order threshold --limit 100",
    "usam review my-project --summary",
)(steps.review)
add("usam crop my-project --open")(steps.crop)
add("usam presets", "usam presets voc-20")(bench.presets)
add(
    "usam bench voc21 --data VOCdevkit/VOC2012 --seeds 0,1,2",
    "usam bench voc21 --data VOCdevkit/VOC2012 --papers --head both",
    "usam bench coco-object --data coco --limit 100 --dry-run",
)(bench.bench)
