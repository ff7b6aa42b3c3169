"""From the command line's choices to projects, one for each head and seed, and running them."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from usam_core.bench.datasets import BENCHMARKS, Benchmark, Split, open_split
from usam_core.config.project import Project, check_extras, check_values, load_project
from usam_core.config.schema import fill_in
from usam_core.config.training import FilterConfig
from usam_core.config.yaml_source import read_yaml
from usam_core.errors import ConfigError, InputError
from usam_core.files.atomic import whole_file
from usam_core.files.spreadsheet import read_csv, write_csv
from usam_core.progress import SILENT, Progress
from usam_core.steps import STEPS, StepResult, run_step
from usam_core.steps.collect import read_manifest

HEADS = ("student", "teacher")
IMAGE_LIST = "images.txt"
PICTURES = "pictures.csv"
"""Training pictures of the first run, as later runs read them."""
_OURS: tuple[tuple[str, ...], ...] = (
    *(("name",), ("classes",), ("level",), ("seed",), ("evaluation",), ("inference", "head")),
    *(("images", "path"), ("images", "files"), ("outputs", "path"), ("outputs", "store")),
)
"""Keys that the benchmark decides; a settings file may not hold them."""
_PATHS: tuple[tuple[str, ...], ...] = (
    ("training", "path"),
    ("training", "web", "urls"),
    ("sam", "checkpoint"),
)
"""Keys of a settings file that are paths."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user asked for."""

    benchmark: str  # one of `BENCHMARKS`
    data: Path  # the data set's folder
    out: Path  # where everything goes
    limit: int | None = None  # how many images at most; None takes the whole split
    sam: str | None = None
    """Which SAM; None leaves it to the settings, and there `vit_h` is the default."""
    training: str | None = None
    """`synthetic`, `web` or a folder of class folders; None leaves it to the settings, and there
    `synthetic` is the default."""
    contact: str | None = None  # for the web, who is asking
    seeds: tuple[int, ...] = (0,)  # a run for each
    names: str = "cleaned"  # spelling of the class names, `cleaned` or `raw`
    papers: bool = False  # the papers' mode
    heads: tuple[str, ...] = HEADS[:1]  # which heads label; a row for each
    store: Path | None = None  # folder of embeddings; None keeps them in `out`
    settings: Path | None = None  # a YAML file with further settings, as in `project.yaml`


@dataclass(frozen=True, slots=True)
class Run:
    """One head with one seed, and its project file."""

    head: str
    seed: int
    file: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done.

    Attributes:
        choices: what was asked for.
        benchmark: what is measured.
        split: images and truth.
        settings: of all runs alike, as `project.yaml` would say them.
        runs: in their order; the first one collects the pictures for all.
    """

    choices: Choices
    benchmark: Benchmark
    split: Split
    settings: dict[str, Any]
    runs: list[Run] = field(default_factory=list)

    @property
    def training(self) -> str:
        """Where training pictures come from, one word."""
        return self.settings["training"]["source"]

    @property
    def collects(self) -> bool:
        """Whether the first run gets pictures that the others must not get anew."""
        return self.training not in ("folder", "none")


def make_plan(choices: Choices) -> Plan:
    """Look at the data set and the settings, and write nothing.

    Raises a `ConfigError` for what the settings file may not say, an `InputError` for other
    choices.
    """
    benchmark = BENCHMARKS[choices.benchmark]
    if not choices.seeds or len(set(choices.seeds)) < len(choices.seeds):
        raise InputError(f"--seeds: got {list(choices.seeds)}; expected numbers, each once")
    split = open_split(benchmark, choices.data.absolute(), choices.limit)
    settings = _settings(choices)
    runs = [
        Run(head, seed, choices.out.absolute() / f"{head}-seed{seed}" / "project.yaml")
        for head in choices.heads
        for seed in choices.seeds
    ]
    return Plan(choices, benchmark, split, settings, runs)


def check_plan(plan: Plan) -> None:
    """Raise a `ConfigError` with all mistakes of the settings, before anything is written."""
    first = plan.runs[0]
    values = _values(plan, first)
    del values["images"]["files"]  # is written with the project
    check_values(values, first.file, plan.choices.settings)


def write_project(plan: Plan, run: Run) -> None:
    """Write a run's project file, and the list of the images beside all runs."""
    with whole_file(plan.choices.out.absolute() / IMAGE_LIST) as temporary:
        temporary.write_text("\n".join(plan.split.names) + "\n", encoding="utf-8")
    text = yaml.safe_dump(_values(plan, run), sort_keys=False, allow_unicode=True)
    with whole_file(run.file) as temporary:
        temporary.write_text(f"# Written by `usam bench`.\n{text}", encoding="utf-8")


def _values(plan: Plan, run: Run) -> dict[str, Any]:
    """Return what a run's project file says."""
    choices = plan.choices
    out = choices.out.absolute()
    store = (choices.store or choices.out / "store").absolute()
    ours: dict[str, Any] = {
        "name": f"bench {plan.benchmark.name}",
        "classes": {"preset": plan.benchmark.preset, "names": choices.names},
        "images": {"path": str(plan.split.images), "files": str(out / IMAGE_LIST)},
        "outputs": {"path": "out", "store": str(store)},
        "evaluation": plan.split.evaluation,
        "inference": {"head": run.head},
        "seed": run.seed,
    }
    settings = dict(plan.settings)
    if run != plan.runs[0] and plan.collects:
        # A crawl does not come out the same twice, and drawing takes hours: the runs differ by
        # the head's seed, not by the pictures. These have passed the filters already.
        filters = dict.fromkeys(FilterConfig.model_fields)
        ours["training"] = {"source": "folder", "path": str(out / PICTURES), "filters": filters}
        if kept := settings.pop("training").get("min_per_class"):
            ours["training"]["min_per_class"] = kept
    return fill_in(ours, settings)


def _settings(choices: Choices) -> dict[str, Any]:
    """Return the settings of all runs: defaults, then the file's, then the command line's."""
    asked: dict[str, Any] = {"sam": {"model": choices.sam}} if choices.sam else {}
    if choices.training in ("synthetic", "web"):
        asked["training"] = {"source": choices.training}
    elif choices.training is not None:
        path = Path(choices.training).absolute()
        if not path.exists():
            raise InputError(
                f"--training: got {choices.training!r}; expected synthetic, web, or a folder with "
                "one folder of pictures per class"
            )
        asked["training"] = {"source": "folder", "path": str(path)}
    if choices.contact:
        asked.setdefault("training", {})["web"] = {"contact": choices.contact}
    if choices.papers:
        asked["recipe"] = "papers"
    settings = fill_in(asked, _read(choices.settings) if choices.settings else {})
    defaults = {
        "sam": {"model": "vit_h"},
        "training": {"source": "synthetic"},
        "outputs": {"overlays": 12},
    }
    return fill_in(settings, defaults)


def _read(file: Path) -> dict[str, Any]:
    settings = read_yaml(file)[0] or {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: got {settings!r}; expected sections as in project.yaml")
    for keys in _OURS:
        if _part(settings, keys) is not None:
            raise ConfigError(
                f"{file}: {'.'.join(keys)}: the benchmark decides this; take it out of the file "
                "(--names, --seeds, --head and --store choose what can be chosen)"
            )
    # Paths count from the settings file, not from the projects made of it.
    folder = file.absolute().parent
    for keys in _PATHS:
        if path := _part(settings, keys):
            _part(settings, keys[:-1])[keys[-1]] = str(folder / path)
    features = settings.get("features")
    for block in features.values() if isinstance(features, dict) else ():
        # Else it is a model of the hub.
        if isinstance(block, dict) and (folder / str(block.get("model"))).is_dir():
            block["model"] = str(folder / block["model"])
    return settings


def _part(settings: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run gave."""

    run: Run
    project: Project
    metrics: dict[str, Any]  # content of its `metrics.json`
    classes: pd.DataFrame  # its per-class table
    steps: dict[str, StepResult]  # result of each step, by name
    seconds: float  # wall-clock time of this call, without what was reused


def run_plan(
    plan: Plan,
    progress: Progress = SILENT,
    done: Callable[[Run, StepResult], None] = lambda run, result: None,
) -> list[Measured]:
    """Run all steps of all runs; what an earlier call finished is reused.

    `done` is told of each finished step. Raises a `UserError` if a step cannot run.
    """
    for run in plan.runs:
        write_project(plan, run)
    measured: list[Measured] = []
    for run in plan.runs:
        began = time.monotonic()
        if run != plan.runs[0] and plan.collects:
            # The pictures that the first run kept are the later runs' source.
            kept = read_manifest(measured[0].project)[["class", "path"]]
            write_csv(plan.choices.out.absolute() / PICTURES, kept)
        project = load_project(run.file)
        check_extras(project)
        steps = {}
        for step in STEPS:
            steps[step] = run_step(step, project, progress=progress)
            done(run, steps[step])
        metrics = Path(steps["evaluate"].path)
        measured.append(
            Measured(
                run=run,
                project=project,
                metrics=json.loads(metrics.read_text(encoding="utf-8")),
                classes=read_csv(metrics.with_name("per_class.csv")),
                steps=steps,
                seconds=time.monotonic() - began,
            )
        )
    return measured
