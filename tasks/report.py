"""What a person finds on the run page: a table a step, and a summary with pictures."""

import base64
import io
import json
import platform
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from usam_core.config.project import Project
from usam_core.errors import MissingStepError
from usam_core.files.spreadsheet import read_csv
from usam_core.files.text import markdown
from usam_core.steps import STEPS, StepResult, step_folder
from usam_core.steps.record import read_record

_WIDEST = 900
_JPEG_QUALITY = 70
_MAX_SHEETS = 4
MAX_OVERLAYS = 4


def last_results(project: Project) -> list[StepResult]:
    """Return what the steps recorded when they last ran, whether or not it still holds.

    Raises:
        MissingStepError: no step has run yet.
    """
    found = [read_record(step_folder(project, step)) for step in STEPS]
    results = [result for result in found if result is not None]
    if not results:
        raise MissingStepError(
            f"{project.file}: no results in {project.out} yet; run `usam run {project.file}`, or "
            "the deployment annotate-dataset, first"
        )
    return results


def show(result: StepResult, pictures: int = MAX_OVERLAYS) -> None:
    """Show on the run page what of a step's result wants to be seen.

    Args:
        result: the result.
        pictures: how many labelled images.
    """
    if STEPS[result.step].table:
        _show_table(result, STEPS[result.step].table)
    if result.step in _SHOW:
        _SHOW[result.step](result)
    if result.step == "annotate" and pictures:
        _show_overlays(result, pictures)


def _show_page(result: StepResult) -> None:
    """Link to the report; browsers open it where its file is, not through a server."""
    page = Path(result.path)
    said = _sentence(result)
    create_link_artifact(
        page.as_uri(),
        link_text=markdown(page),
        key="report",
        description=f"{markdown(said)}. On {markdown(platform.node())}: open {markdown(page)} in a "
        "browser; the file can be copied and sent, it needs no other",
    )


def _show_table(result: StepResult, name: str) -> None:
    """Show a CSV file beside a step's main output."""
    table = read_csv(Path(result.path).with_name(name))
    create_table_artifact(
        table.round(4).astype(object).where(table.notna(), None).to_dict("records"),
        key=f"metrics-{Path(name).stem.replace('_', '-')}",
        description=markdown(_sentence(result)),
    )


def _show_collected(result: StepResult) -> None:
    """Show what was kept and dropped of every class, what sources had to say, and sheets."""
    folder = Path(result.path).parent
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    lines = ["| class | kept | dropped |", "| --- | --- | --- |"]
    notes: list[str] = []
    for name, entry in report.items():
        dropped = ", ".join(f"{count} {code}" for code, count in entry["rejected"].items())
        lines.append(f"| {markdown(name)} | {entry['kept']} | {markdown(dropped)} |")
        notes += entry["notes"]
    lines += ["", *(f"* {markdown(note)}" for note in notes)]
    for sheet in sorted((folder / "sheets").glob("*.jpg"))[:_MAX_SHEETS]:
        lines += ["", f"![{markdown(sheet.stem)}]({data_uri(sheet)})"]
    _show(result, "training-pictures", lines)


def _show_calibration(result: StepResult) -> None:
    """Show how far stated probabilities are to be believed, and each class's threshold."""
    picture = Path(result.path).parent / "reliability.png"
    if not result.summary["masks"] or not picture.is_file():
        return
    lines = [f"![reliability diagram]({data_uri(picture)})", "", "| class | threshold |"]
    lines += ["| --- | --- |"]
    limits = result.summary["thresholds"]
    lines += [f"| {markdown(name)} | {least:.2f} |" for name, least in limits.items()]
    _show(result, "calibration", lines)


def _show_export(result: StepResult) -> None:
    """Show which formats were written, and how many files of each a person has changed."""
    edited = result.summary["edited"]
    if not edited:
        return
    lines = ["| format | files edited by hand, kept |", "| --- | --- |"]
    lines += [f"| {name} | {count} |" for name, count in edited.items()]
    lines += ["", *(f"* {markdown(note)}" for note in result.summary["notes"])]
    _show(result, "export", lines)


def _show_overlays(result: StepResult, most: int) -> None:
    """Show the first labelled images, if the project draws overlays."""
    overlays = _overlays(Path(result.path).parent)[:most]
    if overlays:
        names = [markdown(file.stem) for file in overlays]
        shown = [f"{n}\n\n![{n}]({data_uri(f)})" for n, f in zip(names, overlays, strict=True)]
        _show(result, "overlays", ["\n\n".join(shown)])


def report_run(name: str, results: list[StepResult]) -> None:
    """Show what every step did, and the contact sheet or an overlay."""
    lines = [f"# {markdown(name)}", "", "| step | outcome | key |", "| --- | --- | --- |"]
    lines += [f"| {r.step} | {markdown(_sentence(r))} | `{r.key[:12]}` |" for r in results]
    picture = _picture(results)
    if picture is not None:
        lines += ["", f"![image, truth and labels of the first images]({data_uri(picture)})"]
    lines += ["", *(f"* {result.step}: {markdown(result.path)}" for result in results)]
    create_markdown_artifact("\n".join(lines), key="annotation-run", description=markdown(name))


def _show(result: StepResult, key: str, lines: list[str]) -> None:
    """Show lines of Markdown under what their step did."""
    said = markdown(_sentence(result))
    create_markdown_artifact("\n".join(lines), key=key, description=said)


def _show_bad(key: str, bad: list[dict[str, str]]) -> None:
    if bad:
        create_table_artifact(bad, key=key, description=f"{len(bad)} images left out")


_SHOW: dict[str, Callable[[StepResult], None]] = {
    "collect": _show_collected,
    "embed": lambda result: _show_bad("quarantine", result.summary["quarantined"]),
    "describe": lambda result: _show_bad("left-out", result.summary["left_out"]),
    "calibrate": _show_calibration,
    "export": _show_export,
    "report": _show_page,
}
"""What there is to see of a step beside its sentence."""


def _sentence(result: StepResult) -> str:
    return STEPS[result.step].sentence(result.summary, result.reused)


def _picture(results: list[StepResult]) -> Path | None:
    by_step = {result.step: Path(result.path).parent for result in results}
    if "evaluate" in by_step:
        return by_step["evaluate"] / "contact_sheet.png"
    if "annotate" not in by_step:
        return None
    return next(iter(_overlays(by_step["annotate"])), None)


def _overlays(folder: Path) -> list[Path]:
    return sorted((folder / "overlays").rglob("*.jpg"))


def data_uri(path: Path) -> str:
    """Return a picture as a data URI, small enough for the run page."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_WIDEST, 4 * _WIDEST))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
