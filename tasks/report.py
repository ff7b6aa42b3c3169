"""What a person finds on the run page: progress, a table a step, pictures, lineage, the gate."""

import base64
import io
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from PIL import Image
from prefect import task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.events import emit_event

from tasks.log import log
from usam_core.cli.watch import WATCH
from usam_core.config.project import Project, load_project
from usam_core.errors import GateError, MissingStepError
from usam_core.files.spreadsheet import read_csv
from usam_core.files.text import markdown
from usam_core.lineage.chain import read_chain
from usam_core.lineage.show import markdown as lineage_markdown
from usam_core.progress import Bar, Lines, Pace
from usam_core.steps import STEPS, StepResult, step_folder
from usam_core.steps.record import read_record

GATE_EVENT = "usam.quality-gate.failed"
"""What an automation waits for (deployments/notify.py)."""
MAX_OVERLAYS = 4
_MAX_SHEETS = 4
_MAX_WIDTH = 900
_JPEG_QUALITY = 70
_SECONDS_BETWEEN = 5.0


class _RunBar:
    def __init__(self, inner: Bar, what: str, total: int) -> None:
        self._inner = inner
        self._what = what
        self._pace = Pace(total)
        course = WATCH.course
        self._lines = Lines(what, self._pace, log, course.outlook if course else None)
        self._artifact = None
        self._written = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._inner.advance(count)
        self._pace.advance(count)
        self._lines.look()
        now = time.monotonic()
        # Each update is a request to the server: a quick bar makes none at all.
        if now - self._written > _SECONDS_BETWEEN:
            self._written = now
            self._write()

    def _write(self) -> None:
        text = markdown(f"{self._what}: {self._pace}")
        if self._artifact is None:
            self._artifact = create_progress_artifact(self._pace.percent, description=text)
        else:
            update_progress_artifact(self._artifact, self._pace.percent, text)

    def close(self) -> None:
        if self._artifact is not None:
            self._write()


_whole: ContextVar[tuple[str, Bar] | None] = ContextVar("whole", default=None)


@contextmanager
def whole_bar(what: str, total: int) -> Iterator[None]:
    """Show one bar for work that several task runs share; their own bars of that name add to it."""
    with RunProgress().bar(what, total) as bar:
        token = _whole.set((what, bar))
        try:
            yield
        finally:
            _whole.reset(token)


_project: ContextVar[str] = ContextVar("project", default="")


class RunProgress:
    """What the tasks hand to the core."""

    @contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        """Show a bar on the terminal, and an artifact when the work takes more than seconds."""
        whole = _whole.get()
        if whole is not None and whole[0] == what:
            yield whole[1]
            return
        with WATCH.on.bar(what, total) as inner:
            if total is None or not (TaskRunContext.get() or FlowRunContext.get()):
                yield inner
                return
            bar = _RunBar(inner, what, total)
            try:
                yield bar
            finally:
                bar.close()


def last_results(project: Project) -> list[StepResult]:
    """Return what the steps recorded when they last ran, whether or not it still holds.

    Raises a `MissingStepError` if no step has run yet.
    """
    records = [read_record(step_folder(project, step)) for step in STEPS]
    results = [result for result in records if result is not None]
    if not results:
        raise MissingStepError(
            f"{project.file}: no results in {project.out} yet; run `usam run {project.file}`, or "
            "the deployment annotate-dataset, first"
        )
    return results


def show(result: StepResult, project: Project, pictures: int = MAX_OVERLAYS) -> None:
    """Show on the run page what of a step's result wants to be seen, and some labelled images."""
    with _of(project):
        _show_result(result, pictures)


@contextmanager
def _of(project: Project) -> Iterator[None]:
    """Name the project on what is shown within the block: a page lists artifacts of all of them."""
    token = _project.set(project.config.name)
    try:
        yield
    finally:
        _project.reset(token)


def _show_result(result: StepResult, pictures: int) -> None:
    name = STEPS[result.step].table
    if name and (file := Path(result.path).with_name(name)).exists():
        table = read_csv(file)
        create_table_artifact(
            table.round(4).astype(object).where(table.notna(), None).to_dict("records"),
            key=f"metrics-{Path(name).stem.replace('_', '-')}",
            description=_told(result),
        )
    if result.step in _SHOW:
        _SHOW[result.step](result)
    if result.step == "annotate" and (overlays := _overlays(result)[:pictures]):
        lines = [f"{markdown(f.stem)}\n\n{_picture(f.stem, f)}" for f in overlays]
        _show(result, "overlays", ["\n\n".join(lines)])


def _show_page(result: StepResult) -> None:
    """Say what to do next, and where the report is: no browser follows a link to a file."""
    lines = ["# What to do next", ""]
    lines += [f"1. {markdown(why)} {_code(do)}" for why, do in result.summary["next"]]
    lines += [
        "",
        "# The report",
        "",
        f"On {markdown(platform.node())}, to be opened in a browser; it can be copied and sent, "
        "and needs no other file:",
        "",
        _code(result.path),
    ]
    _show(result, "report", lines)


def _show_collected(result: StepResult) -> None:
    """Show what was kept and dropped of every class, what sources had to say, and sheets."""
    folder = Path(result.path).parent
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    rows = []
    for name, entry in report.items():
        dropped = ", ".join(f"{count} {code}" for code, count in entry["rejected"].items())
        rows.append((name, entry["kept"], dropped))
    lines = _table(("class", "kept", "dropped"), rows)
    notes = [note for entry in report.values() for note in entry["notes"]]
    lines += ["", *(f"* {markdown(note)}" for note in notes)]
    for sheet in sorted((folder / "sheets").glob("*.jpg"))[:_MAX_SHEETS]:
        lines += ["", _picture(sheet.stem, sheet)]
    _show(result, "training-pictures", lines)


def _show_calibration(result: StepResult) -> None:
    """Show how far stated probabilities are to be believed, and each class's threshold."""
    picture = Path(result.path).parent / "reliability.png"
    if result.summary["masks"] and picture.is_file():
        limits = [(name, f"{limit:.2f}") for name, limit in result.summary["thresholds"].items()]
        lines = [
            _picture("reliability diagram", picture),
            "",
            *_table(("class", "threshold"), limits),
        ]
        _show(result, "calibration", lines)


def _show_student(result: StepResult) -> None:
    """Show the small model's labels beside those that it learned from."""
    if not result.summary["splits"]:
        return
    _show(
        result,
        "student",
        [
            _picture(
                "image, labels, and the small model's labels, of images that it has not seen",
                Path(result.path).with_name("contact_sheet.png"),
            )
        ],
    )


def _show_export(result: StepResult) -> None:
    """Show which formats were written, and how many files of each a person has changed."""
    if edited := result.summary["edited"]:
        lines = _table(("format", "files edited by hand, kept"), list(edited.items()))
        lines += ["", *(f"* {markdown(note)}" for note in result.summary["notes"])]
        _show(result, "export", lines)


def _show_bad(key: str, bad: list[dict[str, str]]) -> None:
    if bad:
        said = f"{markdown(_project.get())}: {len(bad)} images left out"
        create_table_artifact(bad, key=key, description=said)


_SHOW: dict[str, Callable[[StepResult], None]] = {
    "collect": _show_collected,
    "embed": lambda result: _show_bad("quarantine", result.summary["quarantined"]),
    "describe": lambda result: _show_bad("left-out", result.summary["left_out"]),
    "calibrate": _show_calibration,
    "distill": _show_student,
    "export": _show_export,
    "report": _show_page,
}
"""What there is to see of a step beside its sentence."""


def report_run(name: str, results: list[StepResult]) -> None:
    """Show what every step did, and the contact sheet or an overlay."""
    by_step = {result.step: result for result in results}
    pictures = _overlays(by_step["annotate"]) if "annotate" in by_step else []
    if "evaluate" in by_step:
        pictures = [Path(by_step["evaluate"].path).with_name("contact_sheet.png")]
    lines = [f"# {markdown(name)}", "", "| step | outcome | key |", "| --- | --- | --- |"]
    lines += [f"| {r.step} | {_sentence(r)} | `{r.key[:12]}` |" for r in results]
    for picture in pictures[:1]:
        lines += ["", _picture("image, truth and labels of the first images", picture)]
    lines += ["", *(f"* {result.step}: {markdown(result.path)}" for result in results)]
    create_markdown_artifact("\n".join(lines), key="annotation-run", description=markdown(name))


def report_lineage(project: Project, results: list[StepResult]) -> None:
    """Show what the last step's outputs were made of: a diagram, and a table of the same."""
    if results:
        chain = read_chain(step_folder(project, results[-1].step))
        create_markdown_artifact(
            lineage_markdown(chain),
            key="lineage",
            description=f"{markdown(project.config.name)}: what the outputs were made of; "
            "`usam lineage FILE` checks it",
        )


@task(name="quality-gate", persist_result=False)
def pass_gate(project_file: str, changes: dict[str, str]) -> None:
    """Judge the run just finished; raise a `GateError` if it is not to be trusted."""
    from usam_core.steps.gate import check_gate  # torch and all: when it is needed

    project = load_project(project_file, **changes)
    verdict = check_gate(project)
    if not verdict.objections:
        return
    reasons = [f"{objection.check}: {objection.reason}" for objection in verdict.objections]
    lines = ["# This run did not pass the quality gate", "", *(f"* {markdown(r)}" for r in reasons)]
    if verdict.sheet is not None:
        lines += ["", _picture("images that show it", verdict.sheet)]
    said = "; ".join(reasons)
    create_markdown_artifact("\n".join(lines), key="quality-gate", description=markdown(said))
    name = project.config.name
    resource = {"prefect.resource.id": f"usam.project.{name}", "prefect.resource.name": name}
    emit_event(GATE_EVENT, resource=resource, payload={"reasons": reasons})
    raise GateError(
        f"the run did not pass the quality gate: {said}. Look at {verdict.sheet or project.out}; "
        "the labels are kept, and settings of `gate` say what passes"
    )


def _show(result: StepResult, key: str, lines: list[str]) -> None:
    """Show lines of Markdown under what their step did."""
    create_markdown_artifact("\n".join(lines), key=key, description=_told(result))


def _sentence(result: StepResult) -> str:
    return markdown(STEPS[result.step].sentence(result.summary, result.reused))


def _told(result: StepResult) -> str:
    """The sentence under an artifact: whose it is, and what the step did."""
    named = f"{markdown(_project.get())}, {result.step}: " if _project.get() else ""
    return named + _sentence(result)


def _overlays(annotated: StepResult) -> list[Path]:
    """The labelled images, if the project draws overlays."""
    return sorted((Path(annotated.path).parent / "overlays").rglob("*.jpg"))


def _code(text: str) -> str:
    """Return Markdown of text to be copied; what could end a span of code is escaped instead."""
    return f"`{text}`" if text.isprintable() and text and "`" not in text else markdown(text)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [columns, ["---"] * len(columns), *([markdown(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _picture(title: str, file: Path) -> str:
    """Return Markdown of a picture that holds it itself, small enough for the run page."""
    with Image.open(file) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_MAX_WIDTH, 4 * _MAX_WIDTH))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"![{markdown(title)}](data:image/jpeg;base64,{data})"
