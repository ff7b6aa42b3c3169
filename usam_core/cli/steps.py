"""The commands of the steps, and `review`, which asks a person about what they made."""

import dataclasses
import secrets
import shlex
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from usam_core.cli import terminal
from usam_core.cli.terminal import Json, LabelsLevel, Level, Only, ProjectFile, Verbose, print_line
from usam_core.cli.watch import WATCH
from usam_core.config import Format
from usam_core.errors import InputError, need
from usam_core.review import Order
from usam_core.steps import STEPS, Step, step_folder

if TYPE_CHECKING:
    from usam_core.config.project import Project


PlainRefresh = Annotated[bool, typer.Option("--refresh", help=STEPS["export"].refresh)]
Port = Annotated[
    int, typer.Option(help="Port on 127.0.0.1; 0 takes any free one.", min=0, max=65535)
]
Browser = Annotated[bool, typer.Option("--open", help="Open the page in a browser.")]


def run_one(step: str, project: "Project", refresh: bool, as_json: bool) -> None:
    """Run one step of a project and print what it did."""
    from usam_core.files.spreadsheet import read_csv
    from usam_core.steps import run_step

    with WATCH.run(project, [step]):
        result = run_step(step, project, refresh=refresh, progress=WATCH.on)
    if as_json:
        terminal.print_json(result.to_json())
        return
    print_line(f"{step}: {STEPS[step].sentence(result.summary, result.reused)}")
    for line in (result.path, *result.summary.get("notes", [])):
        print_line(f"  {line}")
    if name := STEPS[step].table:
        table = read_csv(Path(result.path).with_name(name))
        rows = table.astype(object).where(table.notna(), None).values.tolist()
        terminal.print_table(Path(name).stem.replace("_", " "), list(table.columns), rows)


def command(step: Step) -> Callable[..., None]:
    """Return the command of a step that takes what all of them do."""
    Refresh = Annotated[bool, typer.Option("--refresh", help=step.refresh)]

    def of_level(
        project: ProjectFile,
        level: Level = None,
        refresh: Refresh = False,
        json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        from usam_core.config.project import open_project

        run_one(step.name, open_project(project, level), refresh, json)

    def of_all(
        project: ProjectFile,
        refresh: Refresh = False,
        json: Json = False,
        verbose: Verbose = False,
    ) -> None:
        of_level(project, None, refresh, json, verbose)

    return of_level if step.has_levels else of_all


def collect(
    project: ProjectFile,
    only: Only = None,
    refresh: Annotated[bool, typer.Option("--refresh", help=STEPS["collect"].refresh)] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Get pictures; the step makes the manifest, not before every class has been asked for."""
    from usam_core.config.project import load_project
    from usam_core.steps.collect import collect_class
    from usam_core.steps.record import read_record

    loaded = load_project(project)
    names = only or ([spec.name for spec in loaded.config.collected] if refresh else [])
    counts = {}
    for name in names:
        counts[name] = collect_class(loaded, name, refresh=refresh, progress=WATCH.on)
        line = f"{counts[name]['pictures']} pictures, {counts[name]['rejected']} rejected"
        print_line(f"{name}: {line}", terminal.errors)
    if not only or read_record(step_folder(loaded, "collect")) is not None:
        run_one("collect", loaded, bool(only) or refresh, json)
        return
    if json:
        terminal.print_json(counts)
    todo = f"`usam collect {project}` gets the other classes and writes it"
    print_line(f"no manifest yet: {todo}", terminal.errors)


def export(
    project: ProjectFile,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help=f"In place of outputs.formats: {', '.join(get_args(Format))}."
        ),
    ] = None,
    level: LabelsLevel = None,
    show_edits: Annotated[
        bool, typer.Option("--show-edits", help="Say what was changed by hand, and write nothing.")
    ] = False,
    overwrite_edited: Annotated[
        bool, typer.Option("--overwrite-edited", help="Write files changed by hand anew.")
    ] = False,
    refresh: PlainRefresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the labels for other programs; files that a person has changed are kept."""
    from usam_core.config.project import open_project
    from usam_core.steps import export as step

    opened = open_project(project, level)
    known = ", ".join(get_args(Format))
    if formats:
        unknown = [name for name in formats if name not in get_args(Format)]
        if unknown:
            raise InputError(f"--format: got {unknown[0]!r}; expected one of {known}")
        outputs = opened.config.outputs.model_copy(update={"formats": formats})
        config = opened.config.model_copy(update={"outputs": outputs})
        opened = dataclasses.replace(opened, config=config)
    if show_edits:
        edits = list(step.show_edits(opened))
        if json:
            terminal.print_json([edit.to_json() for edit in edits])
        else:
            rows = [(edit.format, edit.image, edit.sentence()) for edit in edits]
            terminal.print_table("changed by hand", ["format", "image", "difference"], rows)
        return
    if not opened.config.outputs.formats:
        raise InputError(
            f"{project}: no formats; expected --format or outputs.formats, some of {known}"
        )
    if overwrite_edited:
        step.drop_edits(opened)
    run_one("export", opened, refresh, json)


def distill(
    project: ProjectFile,
    level: LabelsLevel = None,
    refresh: PlainRefresh = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Train a small, fast model on the labels; with or without a section `distill`."""
    from usam_core.config.project import open_project
    from usam_core.config.results import DistillConfig

    opened = open_project(project, level)
    config = opened.config.model_copy(update={"distill": opened.config.distill or DistillConfig()})
    run_one("distill", dataclasses.replace(opened, config=config), refresh, json)


def review(
    project: ProjectFile,
    order: Annotated[
        Order,
        typer.Option(
            help="What comes first: high entropy, teacher and student apart, a score near the "
            "threshold, or all of these in turn; `random` asks for no doubt."
        ),
    ] = "mix",
    only: Only = None,
    limit: Annotated[int, typer.Option(help="At most so many masks.", min=1, max=100_000)] = 500,
    level: LabelsLevel = None,
    port: Port = 0,
    browser: Browser = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Print each class's precision, and serve nothing.")
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Judge masks on a local page, most doubtful first; Ctrl-C ends it. Nothing decided is lost."""
    from usam_core.config.project import open_project
    from usam_core.steps.review import learned_from_decisions, open_review
    from usam_core.steps.review import summary as summed_up

    loaded = open_project(project, level)
    if summary:
        _print_precision(loaded, summed_up(loaded), json)
        return
    need("review", "usam review")
    run = f"usam run {shlex.quote(str(project))}"
    from usam_core.config.training import class_colors
    from usam_core.review.server import make_app
    from usam_core.steps.pictures import open_prompter
    from usam_core.steps.review import images_shown, only_review

    with only_review(loaded):
        session = open_review(loaded, order, only or (), limit, WATCH.on)
        token = secrets.token_urlsafe(24)
        chosen = {spec.name: spec.color for spec in loaded.config.classes}
        app = make_app(
            session,
            token,
            loaded.config.name,
            class_colors(session.classes, chosen),
            images_shown(loaded, session),
            learned_from_decisions(loaded),
            open_prompter(loaded),
            run,
        )
        masks = len(session.items)
        _serve_page(app, token, port, browser, json, "masks", masks, "usam review")
        precision = summed_up(loaded)
    if not json:
        _print_precision(loaded, precision, json)
        print_line(f"next: {run}")


def crop(
    project: ProjectFile,
    port: Port = 0,
    browser: Browser = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make training pictures: click objects in your own images on a local page, and name them."""
    need("review", "usam crop")
    from usam_core.steps.crop import crop_app, load_for_crops

    loaded = load_for_crops(project)
    token = secrets.token_urlsafe(24)
    app, count = crop_app(loaded, token, WATCH.on)
    _serve_page(app, token, port, browser, json, "images", count, "usam crop")
    if not json:
        print_line(f"next: usam run {shlex.quote(str(project))}")


def _serve_page(
    app: Any,
    token: str,
    port: int,
    browser: bool,
    as_json: bool,
    what: str,
    count: int,
    command: str,
) -> None:
    """Serve a page until Ctrl-C, and say where it is."""
    from usam_core.review.web import HOST, listen, serve

    listening = listen(port, command)
    address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
    with suppress(KeyboardInterrupt):
        if as_json:
            terminal.print_json({"page": address, what: count})
        else:
            print_line(f"{count} {what} to look at; Ctrl-C ends this")
            print_line(address)
        if browser:
            webbrowser.open(address)
        serve(app, listening)


def _print_precision(project: Any, precision: list[Any], as_json: bool) -> None:
    from usam_core.steps.review import PRECISION, learned_from_decisions

    if as_json:
        terminal.print_json([one.to_json() for one in precision])
        return
    columns = ["class", "masks", "drawn", "right", "passed over", "precision", "low", "high"]
    rows = [
        (p.name, p.masks, p.sample, p.right, p.skipped, p.precision, p.low, p.high)
        for p in precision
    ]
    terminal.print_table("precision, of masks drawn by chance; 95 % interval", columns, rows)
    if learned_from_decisions(project):
        print_line("the head has learned from decisions: these numbers flatter it")
    print_line(f"  {step_folder(project, 'review') / PRECISION}")
