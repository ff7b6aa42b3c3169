"""`usam review`: a page on which a person judges masks, and what that says of each class."""

import secrets
import webbrowser
from contextlib import suppress
from typing import Annotated, Any, Literal

import typer

from usam_core.cli import terminal
from usam_core.cli.options import Json, LabelsLevel, Only, ProjectFile, Verbose
from usam_core.cli.running import set_logging
from usam_core.extras import need

Order = Literal["mix", "entropy", "disagreement", "threshold", "random"]


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
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; 0 takes any free one.", min=0, max=65535)
    ] = 0,
    browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
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

    set_logging(verbose)
    loaded = open_project(project, level)
    if summary:
        _print_precision(loaded, summed_up(loaded), json)
        return
    need("review", "usam review")
    from usam_core.config.palette import class_colors
    from usam_core.review.server import HOST, listen, make_app, serve
    from usam_core.steps.review import only_review, picture

    with only_review(loaded):
        session = open_review(loaded, order, only or (), limit, terminal.progress_for_terminal())
        token = secrets.token_urlsafe(24)
        chosen = {spec.name: spec.color for spec in loaded.config.classes}
        app = make_app(
            session,
            token,
            loaded.config.name,
            class_colors(session.classes, chosen),
            lambda item: picture(loaded, item),
            learned_from_decisions(loaded),
        )
        listening = listen(port)
        address = f"http://{HOST}:{listening.getsockname()[1]}/{token}/"
        if json:
            terminal.print_json({"page": address, "masks": len(session.items)})
        else:
            terminal.screen.print(f"{len(session.items)} masks to look at; Ctrl-C ends this")
            # Not by Rich, which would break the address.
            typer.echo(address)
        if browser:
            webbrowser.open(address)
        with suppress(KeyboardInterrupt):
            serve(app, listening)
        found = summed_up(loaded)
    if not json:
        _print_precision(loaded, found, json)


def _print_precision(project: Any, found: list[Any], as_json: bool) -> None:
    from usam_core.steps.base import step_folder
    from usam_core.steps.review import PRECISION, learned_from_decisions

    if as_json:
        terminal.print_json([one.to_json() for one in found])
        return
    columns = ["class", "masks", "drawn", "right", "passed over", "precision", "low", "high"]
    rows = [
        [p.name, p.masks, p.sample, p.right, p.skipped, p.precision, p.low, p.high] for p in found
    ]
    terminal.print_table("precision, of masks drawn by chance; 95 % interval", columns, rows)
    if learned_from_decisions(project):
        terminal.screen.print("the head has learned from decisions: these numbers flatter it")
    file = step_folder(project, "review") / PRECISION
    terminal.screen.print(f"  {file}", soft_wrap=True, highlight=False)
