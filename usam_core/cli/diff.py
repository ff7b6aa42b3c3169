"""What `usam diff` prints and writes."""

from pathlib import Path
from typing import Any

from usam_core.cli import terminal
from usam_core.files.atomic import whole_file
from usam_core.report.difference import Difference, changes_part, compare_runs
from usam_core.report.page import Album, percent, render
from usam_core.report.runs import open_run

_MAX_BYTES = 8_000_000


def print_difference(
    first: Path, second: Path, html: Path | None, most: int, as_json: bool
) -> None:
    """Compare two runs; print what changed most, and write a page if one is wanted.

    Args:
        first: the run before; see `usam_core.report.runs.open_run`.
        second: the run after.
        html: the page to write.
        most: rows of each table, and images side by side.
        as_json: print all of it as one JSON document instead of tables.
    """
    before, after = open_run(first), open_run(second)
    found = compare_runs(before, after)
    if html is not None:
        page = render(
            "diff.html.j2",
            title=f"{after.about['name']}: what changed",
            paths=(str(first), str(second)),
            parts=[("changes", "What changed")],
            difference=changes_part(found, before, after, Album(_MAX_BYTES), most),
        )
        with whole_file(html) as temporary:
            temporary.write_text(page, encoding="utf-8")
    if as_json:
        terminal.print_json(found.to_json())
        return
    _print_tables(found, most)
    if html is not None:
        terminal.screen.print(f"wrote {html}", soft_wrap=True, highlight=False)


def _print_tables(found: Difference, most: int) -> None:
    terminal.screen.print(
        f"{len(found.images)} images have other labels, {found.same} the same; "
        f"{len(found.added)} added, {len(found.removed)} removed, {len(found.replaced)} replaced; "
        f"{percent(found.before['coverage'])} of the pixels were labelled, now "
        f"{percent(found.after['coverage'])}",
        soft_wrap=True,
        highlight=False,
    )
    for key, old, new in found.settings:
        terminal.screen.print(
            f"  {key}: {old!r} -> {new!r}", soft_wrap=True, highlight=False, markup=False
        )
    classes = found.classes.head(most)
    rows: list[list[Any]] = [
        [
            row["class"],
            percent(row["share_before"], 2),
            percent(row["share_after"], 2),
            row["instances_before"],
            row["instances_after"],
            row["gained"],
            row["lost"],
        ]
        for row in classes.to_dict("records")
    ]
    head = ["class", "pixels before", "after", "instances before", "after", "gained", "lost"]
    terminal.print_table("classes", head, rows)
    if len(found.images):
        rows = [
            [row.file_name, percent(row.changed), row.measured, row.gained, row.lost]
            for row in found.images.head(most).itertuples()
        ]
        head = ["image", "pixels changed", "counted on", "gained", "lost"]
        terminal.print_table("images that changed most", head, rows)
