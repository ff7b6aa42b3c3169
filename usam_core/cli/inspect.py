"""The commands that look: `check`, `lineage`, `diff` and `doctor`."""

import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from usam_core.cli import terminal
from usam_core.cli.terminal import Json, MaybeProject, ProjectFile, Verbose, print_line
from usam_core.cli.watch import WATCH
from usam_core.errors import EXTRAS, complaint, install, lacking

if TYPE_CHECKING:
    from usam_core.cli.recipes import Machine
    from usam_core.config.project import Project
    from usam_core.steps.check_folder import Check as ProjectCheck

_TITLES = {
    "run": "the next `usam run` makes anew by itself",
    "repair": "made anew after a repair",
    "no": "cannot be made again",
}
_MAX_PAGE_BYTES = 8_000_000


def check(
    project: ProjectFile,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Drop what is damaged and can be made again; the next run makes it."
        ),
    ] = False,
    json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Read again everything that the results stand on; say what is damaged, and what mends it."""
    from usam_core.config.project import load_project
    from usam_core.steps.check import check_project

    result = check_project(load_project(project), repair=repair, progress=WATCH.on)
    if json:
        terminal.print_json(result.to_json())
    else:
        _print_check(result, project)
    if not result.sound:
        raise typer.Exit(1)


def _print_check(result: "ProjectCheck", project: Path) -> None:
    for remade, title in _TITLES.items():
        damages = [damage for damage in result.damages if damage.remade == remade]
        if damages:
            print_line(f"{title}{' (dropped)' if result.repair and remade != 'no' else ''}:")
        for damage in damages:
            made_by = f" [{damage.step}]" if damage.step else ""
            advice = f"; {damage.advice}" if damage.advice else ""
            print_line(f"* {damage.path}: {damage.what}{made_by}{advice}")
    for path in result.edits:
        print_line(f"changed by a person, and kept: {path}")
    megabytes = result.bytes / 1e6
    print_line(
        f"{result.files:,} files, {megabytes:,.1f} MB read in {result.seconds:.1f} s, "
        f"{megabytes / max(result.seconds, 1e-3):,.0f} MB/s"
    )
    count = Counter(damage.remade for damage in result.damages)
    named = shlex.quote(str(project))
    damaged = f"{len(result.damages)} damaged; next: usam"
    if not result.damages:
        print_line("all is whole")
    elif result.repair and not count["no"]:
        print_line(f"repaired; next: usam run {named}")
    elif count["repair"] and not result.repair:
        print_line(f"{damaged} check {named} --repair")
    else:
        print_line(f"{damaged} run {named}")


def lineage(
    file: Annotated[Path, typer.Argument(help="An output of a project, or a step's folder.")],
    json: Json = False,
) -> None:
    """Say what an output was made of, back to pictures and checkpoint, and check every link."""
    from usam_core.lineage.chain import read_chain
    from usam_core.lineage.show import broken_links, to_json, tree
    from usam_core.steps.lineage_checks import check_chain

    chain = read_chain(file)
    findings = check_chain(chain, WATCH.on)
    if json:
        terminal.print_json(to_json(chain, findings))
    else:
        for line in tree(chain, findings):
            print_line(line)
    if broken_links(findings):
        raise typer.Exit(1)


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
    from usam_core.files.atomic import whole_file
    from usam_core.report.difference import changes_part, compare_runs
    from usam_core.report.page import Album, percent, render
    from usam_core.report.runs import open_run

    before, after = open_run(run_a), open_run(run_b)
    result = compare_runs(before, after)
    if html is not None:
        page = render(
            "diff.html.j2",
            title=f"{after.about['name']}: what changed",
            paths=(str(run_a), str(run_b)),
            parts=[("changes", "What changed")],
            difference=changes_part(result, before, after, Album(_MAX_PAGE_BYTES), most),
        )
        with whole_file(html) as temporary:
            temporary.write_text(page, encoding="utf-8")
    if json:
        terminal.print_json(result.to_json())
        return
    print_line(
        f"{len(result.images)} images have other labels, {result.same} the same; "
        f"{len(result.added)} added, {len(result.removed)} removed, {len(result.replaced)} "
        f"replaced; {percent(result.before['coverage'])} of the pixels were labelled, now "
        f"{percent(result.after['coverage'])}"
    )
    for key, old, new in result.settings:
        print_line(f"  {key}: {old!r} -> {new!r}")
    shares = ["share_before", "share_after"]
    counts = ["instances_before", "instances_after", "gained", "lost"]
    rows = [
        [row["class"], *(percent(row[key], 2) for key in shares), *(row[key] for key in counts)]
        for row in result.classes.head(most).to_dict("records")
    ]
    columns = ["class", "pixels before", "after", "instances before", "after", "gained", "lost"]
    terminal.print_table("classes", columns, rows)
    if len(result.images):
        rows = [
            [row.file_name, percent(row.changed), row.measured, row.gained, row.lost]
            for row in result.images.head(most).itertuples()
        ]
        columns = ["image", "pixels changed", "counted on", "gained", "lost"]
        terminal.print_table("images that changed most", columns, rows)
    if html is not None:
        print_line(f"wrote {html}")


def doctor(
    project: MaybeProject = None,
    json: Json = False,
) -> None:
    """Say what this machine has, and what would be downloaded."""
    from usam_core.cli.recipes import COLUMNS, Machine, table
    from usam_core.config.project import load_project

    loaded = load_project(project) if project else None
    machine = Machine.look(loaded.out if loaded else Path.cwd())
    checks = list(examine(loaded, machine))
    if json:
        terminal.print_json([asdict(check) for check in checks])
    else:
        rows = [
            (check.name, check.value, check.verdict, check.advice)
            for check in checks
            if not check.name.startswith(_RECIPE)
        ]
        terminal.print_table("usam doctor", ["what", "found", "verdict", "advice"], rows)
        terminal.print_table("recipes (docs/recipes.md)", COLUMNS, [*table(machine)])
    if any(check.verdict == "bad" for check in checks):
        raise typer.Exit(1)


_RECIPE = "recipe "


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that `doctor` looked at: its name and what there is; `good`, `note`, or `bad` when
    a run would fail; what to do, or nothing.
    """

    name: str
    value: str
    verdict: str = "good"
    advice: str = ""


def examine(project: "Project | None", machine: "Machine") -> Iterator[Check]:
    """Look at the machine, and at what a project needs if one is given."""
    from usam_core.config.project import needed_extras
    from usam_core.lineage.document import versions

    yield from _machine(project.out if project else Path.cwd())
    yield from _models(project)
    yield from _recipes(project, machine)
    optional = {module for modules in EXTRAS.values() for module in modules}
    for name, version in versions().items():
        if version != "not installed":
            yield Check(name, version)
        elif name not in optional:
            yield Check(name, version, "bad", "pip install it")
    needed = dict(needed_extras(project)) if project else {}
    for extra in EXTRAS:
        if not lacking(extra):
            yield Check(f"extra {extra}", "installed")
        elif extra in needed:
            missing = complaint(extra, needed[extra])
            yield Check(f"extra {extra}", "not installed", "bad", missing)
        else:
            advice = f"not needed; if chosen: {install(extra)}"
            yield Check(f"extra {extra}", "not installed", "note", advice)


def _machine(folder: Path) -> Iterator[Check]:
    import psutil
    import torch

    if torch.cuda.is_available():
        yield Check("device", f"cuda: {torch.cuda.get_device_name()}")
    elif torch.backends.mps.is_available():
        yield Check("device", "mps: Apple GPU")
    else:
        advice = "the nano SAM is made for this; ViT-B takes tens of seconds an image"
        yield Check("device", "cpu, no GPU", "note", advice)
    yield Check("cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}")
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    memory, disk = psutil.virtual_memory().available, shutil.disk_usage(existing).free
    yield _enough("memory", memory, 3, "close other programs")
    yield _enough(f"disk of {existing}", disk, 5, "free some, or set outputs.store")


def _enough(name: str, free: int, min_gib: int, advice: str) -> Check:
    lacking = ("bad", f"expected {min_gib} GiB; {advice}") if free < min_gib << 30 else ()
    return Check(name, f"{free / (1 << 30):.1f} GiB free", *lacking)


def _recipes(project: "Project | None", machine: "Machine") -> Iterator[Check]:
    from usam_core.cli.recipes import rows
    from usam_core.config.recipes import poor_features

    for name, cost, fault in rows(machine):
        yield Check(f"{_RECIPE}{name}", cost, "note" if fault else "good", fault)
    if project:
        config = project.config
        found = poor_features(
            config.sam.model, config.head.features, config.head.text, config.recipe
        )
        if found:
            yield Check("head.features", ", ".join(config.head.features), "note", found)


def _models(project: "Project | None") -> Iterator[Check]:
    from usam_core.sam import NANO_WEIGHTS
    from usam_core.sam.hub_models import HUB_SAMS
    from usam_core.sam.load import OFFICIAL, cache_folder
    from usam_core.sources.diffusion import KNOWN_GB, local_folder

    if NANO_WEIGHTS.exists():
        yield Check("SAM nano", f"bundled, {NANO_WEIGHTS.stat().st_size / 1e6:.1f} MB")
    else:
        yield Check("SAM nano", f"missing: {NANO_WEIGHTS}", "bad", "reinstall usam")
    wanted = project.config.sam.model if project and not project.checkpoint else None
    for model, checkpoint in OFFICIAL.items():
        file = cache_folder() / checkpoint.file_name
        if file.exists():
            yield Check(f"SAM {model}", str(file))
            continue
        start = "will be downloaded: " if model == wanted else "not needed; if chosen: "
        advice = f"{start}{checkpoint.bytes / 1e6:.0f} MB from {checkpoint.url}"
        yield Check(f"SAM {model}", "not here", "note", advice)
    known = HUB_SAMS.get(wanted or "")
    if known:
        gate = ", its owner asks for an agreement first" if known.gated else ""
        text = f"{known.megabytes} MB from {known.hub_id} unless cached, {known.licence}{gate}"
        yield Check(f"SAM {wanted}", "of the hub", "note", f"will be downloaded: {text}")
    if project and project.config.training.source == "synthetic":
        config = project.config.training.synthetic
        size = f"{KNOWN_GB[config.model]} GB" if config.model in KNOWN_GB else "some GB"
        download = ("note", f"downloaded from the hub when it is not cached: {size}")
        wanted_by = () if local_folder(config, project.root) is not None else download
        yield Check("text-to-image model", config.model, *wanted_by)
    if project and project.checkpoint:
        yield Check("sam.checkpoint", str(project.checkpoint))
