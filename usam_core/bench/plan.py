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
_OURS = (
    ("name",),
    ("classes",),
    ("level",),
    ("seed",),
    ("evaluation",),
    ("images", "path"),
    ("images", "files"),
    ("outputs", "path"),
    ("outputs", "store"),
    ("inference", "head"),
)
"""Keys that the benchmark decides; a settings file may not hold them."""
_PATHS = (("training", "path"), ("training", "web", "urls"), ("sam", "checkpoint"))
"""Keys of a settings file that are paths."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the user asked for.

    Attributes:
        benchmark: one of `BENCHMARKS`.
        data: the data set's folder.
        out: where everything goes.
        limit: how many images at most; None takes the whole split.
        sam: which SAM; None leaves it to the settings, and there `vit_h` is the default.
        training: `synthetic`, `web` or a folder of class folders; None leaves it to the settings,
            and there `synthetic` is the default.
        contact: for the web, who is asking.
        seeds: a run for each.
        names: spelling of the class names, `cleaned` or `raw`.
        papers: the papers' mode.
        heads: which heads label; a row for each.
        store: folder of embeddings; None keeps them in `out`.
        settings: a YAML file with further settings, as in `project.yaml`.
    """

    benchmark: str
    data: Path
    out: Path
    limit: int | None = None
    sam: str | None = None
    training: str | None = None
    contact: str | None = None
    seeds: tuple[int, ...] = (0,)
    names: str = "cleaned"
    papers: bool = False
    heads: tuple[str, ...] = HEADS[:1]
    store: Path | None = None
    settings: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """One head with one seed.

    Attributes:
        head: which head labels.
        seed: the project's seed.
        file: its project file.
    """

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
        """Return where training pictures come from, one word."""
        return self.settings["training"]["source"]

    @property
    def collects(self) -> bool:
        """Return whether the first run gets pictures that the others must not get anew."""
        return self.training not in ("folder", "none")


def make_plan(choices: Choices) -> Plan:
    """Look at the data set and the settings, and write nothing.

    Raises:
        ConfigError: the settings file cannot be read, or decides what the benchmark decides.
        InputError: the data set is not laid out officially, or a choice cannot be meant.
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
    """Check the settings as a run will, before anything is written.

    Raises:
        ConfigError: all mistakes, one a line.
    """
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
    ours = {
        "name": f"bench {plan.benchmark.name}",
        "classes": {"preset": plan.benchmark.preset, "names": choices.names},
        "images": {"path": str(plan.split.images), "files": str(out / IMAGE_LIST)},
        "outputs": {"path": "out", "store": str(store)},
        "evaluation": plan.split.evaluation,
        "inference": {"head": run.head},
        "seed": run.seed,
    }
    if run != plan.runs[0] and plan.collects:
        # A crawl does not come out the same twice, and drawing takes hours: the runs differ by
        # the head's seed, not by the pictures. These have passed the filters already.
        filters = dict.fromkeys(FilterConfig.model_fields)
        training = {"source": "folder", "path": str(out / PICTURES), "filters": filters}
        ours["training"] = {**_least(plan), **training}
        settings = {key: part for key, part in plan.settings.items() if key != "training"}
    else:
        settings = plan.settings
    return merged(settings, ours)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both mappings as one; where both say something, `above` holds.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        inner = isinstance(old, dict) and isinstance(value, dict)
        both[key] = merged(both[key], value) if inner else value
    return both


def _settings(choices: Choices) -> dict[str, Any]:
    """Return the settings of all runs: defaults, then the file's, then the command line's."""
    settings = {
        "sam": {"model": "vit_h"},
        "training": {"source": "synthetic"},
        "outputs": {"overlays": 12},
    }
    settings = merged(settings, _read(choices.settings) if choices.settings else {})
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
    settings = merged(settings, asked)
    return {**settings, "recipe": "papers"} if choices.papers else settings


def _read(file: Path) -> dict[str, Any]:
    settings = read_yaml(file).values or {}
    if not isinstance(settings, dict):
        raise ConfigError(f"{file}: got {settings!r}; expected sections as in project.yaml")
    for keys in _OURS:
        part: Any = settings
        for key in keys:
            part = part.get(key) if isinstance(part, dict) else None
        if part is not None:
            raise ConfigError(
                f"{file}: {'.'.join(keys)}: the benchmark decides this; take it out of the file "
                "(--names, --seeds, --head and --store choose what can be chosen)"
            )
    _make_absolute(settings, file.absolute().parent)
    return settings


def _make_absolute(settings: dict[str, Any], folder: Path) -> None:
    """Let the paths of a settings file count from that file, not from the projects made of it."""
    for *sections, key in _PATHS:
        part: Any = settings
        for section in sections:
            part = part.get(section) if isinstance(part, dict) else None
        if isinstance(part, dict) and part.get(key):
            part[key] = str(folder / part[key])
    features = settings.get("features")
    for block in features.values() if isinstance(features, dict) else ():
        # Else it is a model of the hub.
        if isinstance(block, dict) and (folder / str(block.get("model"))).is_dir():
            block["model"] = str(folder / block["model"])


def _least(plan: Plan) -> dict[str, Any]:
    least = plan.settings["training"].get("min_per_class")
    return {} if least is None else {"min_per_class": least}


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run gave.

    Attributes:
        run: which one.
        project: the project that it ran.
        metrics: the content of its `metrics.json`.
        classes: its per-class table.
        steps: the result of each step, by name.
        seconds: wall-clock time of this call, without what was reused.
    """

    run: Run
    project: Project
    metrics: dict[str, Any]
    classes: pd.DataFrame
    steps: dict[str, StepResult]
    seconds: float


def run_plan(
    plan: Plan,
    progress: Progress = SILENT,
    done: Callable[[Run, StepResult], None] = lambda run, result: None,
) -> list[Measured]:
    """Run all steps of all runs; what an earlier call finished is reused.

    Args:
        plan: what to do.
        progress: told how the work goes on.
        done: told of each finished step.

    Raises:
        UserError: a step cannot run; the message says why.
    """
    for run in plan.runs:
        write_project(plan, run)
    measured: list[Measured] = []
    for run in plan.runs:
        began = time.monotonic()
        if run != plan.runs[0] and plan.collects:
            _write_pictures(plan, measured[0].project)
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


def _write_pictures(plan: Plan, first: Project) -> None:
    """Write the pictures that the first run kept, as the later runs' source."""
    write_csv(plan.choices.out.absolute() / PICTURES, read_manifest(first)[["class", "path"]])
