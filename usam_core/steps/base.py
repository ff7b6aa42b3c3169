"""What a step is: its name, settings and inputs are stated once, everything else follows.

A `Step` is an entry of `usam_core.steps.STEPS`. What it does lies in a module of its own, which is
imported when it is needed: the command line names all steps without waiting for torch.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from usam_core.files.code import code_digest
from usam_core.files.digest import value_digest
from usam_core.progress import Progress

if TYPE_CHECKING:  # pydantic and NumPy: `usam --help` does without
    from usam_core.config.project import Project
    from usam_core.config.schema import ProjectConfig

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StepResult:
    """The outcome of one step; small, JSON-like, and what the Prefect tasks return.

    Attributes:
        step: name of the step.
        key: digest of everything the step depended on.
        reused: an earlier run's outputs still held, nothing was done.
        path: the step's folder, or the main file in it.
        summary: numbers for people and for the next steps.
        outputs: files in the step's folder with their SHA-256.
    """

    step: str
    key: str
    reused: bool
    path: str
    summary: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-like mapping that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "StepResult":
        """The result that `to_json` wrote."""
        return cls(**value)


@dataclass(frozen=True, slots=True)
class Input:
    """Something that a step reads: it enters the step's key and its lineage.

    Attributes:
        identity: what of it decides the result; JSON-like.
        lineage: what the step's lineage says of it, digests and paths; None is not mentioned.
            Asked only of a step that runs.
        step: the step that made it; "" where it is the user's own.
        weights: it holds weights of a model.
    """

    identity: Any
    lineage: Callable[[], dict[str, Any] | None] = field(default=lambda: None, compare=False)
    step: str = ""
    weights: bool = False


Inputs = dict[str, Any]
"""What a step depends on, by name: an `Input`, or a plain JSON-like value."""


def identities(inputs: Inputs) -> dict[str, Any]:
    """JSON-like form of a step's inputs: what decides its result."""
    return {name: one.identity if isinstance(one, Input) else one for name, one in inputs.items()}


class StepModule(Protocol):
    """What the module of a step has.

    Optional: `intact(project, key)`, where more than the recorded files has to be checked;
    `forget(project)`, which drops what a refresh makes again although a plain run would keep it;
    `facts(project, result)`, more that its lineage says of the outputs.
    """

    __name__: str
    CALCULATIONS: tuple[str, ...]
    """Modules that decide the step's results."""

    def inputs(self, project: "Project") -> Inputs:
        """All that the results depend on."""
        ...

    def run(self, project: "Project", key: str, progress: Progress) -> StepResult:
        """Do the work."""
        ...

    def sentence(self, summary: dict[str, Any]) -> str:
        """Sum up a result in one line, for the terminal and for the run page."""
        ...


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: of its command, its flow, its folder and its module.
        title: one sentence, for `--help`, the pages of Prefect and the docs.
        parents: the steps whose outputs it reads.
        settings: sections of the project file that it reads.
        refresh: what doing it again means, for `--help` and the form.
        wanted: whether a whole run of a project does it.
        stored: it writes into the store.
        table: a CSV file beside its main output, which is shown with the result.
        kept: what of its work a later run finds again when this one is stopped.
        module: where it is implemented; by default `usam_core.steps.NAME`.
    """

    name: str
    title: str
    parents: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    refresh: str = "Do it again even if nothing has changed."
    wanted: "Callable[[ProjectConfig], bool]" = lambda _: True
    stored: bool = False
    table: str = ""
    kept: str = ""
    module: str = ""

    @property
    def code(self) -> StepModule:
        """The module that does the step."""
        module = importlib.import_module(self.module or f"usam_core.steps.{self.name}")
        return cast(StepModule, module)

    @property
    def revision(self) -> str:
        """Digest of the code that decides the step's results."""
        return code_digest(self.code.__name__, self.code.CALCULATIONS)

    @property
    def has_levels(self) -> bool:
        """Whether each class level has a result of its own."""
        above = (find_step(name) for name in self.parents)
        return "level" in self.settings or any(one.has_levels for one in above if one)

    def folder(self, out: Path, level: str) -> Path:
        """Where the step keeps its outputs.

        Results of class levels lie apart, so that going from classes to parents and back repeats
        nothing.
        """
        if level == "classes" or not self.has_levels:
            return out / self.name
        if level == "parents":
            return out / level / self.name
        return out / "levels" / level / self.name  # a parent may be called like a step

    def key(self, inputs: Inputs) -> str:
        """Digest of everything that the step depends on."""
        parts = {"step": self.name, "code": self.revision, "inputs": identities(inputs)}
        return value_digest(parts)

    def sentence(self, summary: Mapping[str, Any], reused: bool) -> str:
        """One line that says what the step did, or what it reused."""
        text = self.code.sentence(dict(summary))
        return f"unchanged: {text}" if reused else text


def find_step(name: str) -> Step | None:
    """The step of this name, if it is one."""
    from usam_core.steps import STEPS  # which imports this module first

    return STEPS.get(name)


def step_folder(project: "Project", step: str) -> Path:
    """Folder of a step, or of `gate` or `review`, below the project's outputs."""
    known = find_step(step) or Step(step, "", settings=("level",))
    return known.folder(project.out, project.config.level)


_memory: ContextVar[dict[tuple[str, str], Any] | None] = ContextVar("memory", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """Within the block, each folder is listed once, however often it is asked for.

    A whole run is such a block: images that arrive while it works belong to the next run, and none
    of its steps misses what an earlier one did not see. An inner block belongs to the outer one.
    """
    token = _memory.set({}) if _memory.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _memory.reset(token)


def once(what: str, of: str, make: Callable[[], _T]) -> _T:
    """`make()`, called once within `listed_once`; the result is shared and must not be changed."""
    memory = _memory.get()
    if memory is None:
        return make()
    if (what, of) not in memory:
        memory[what, of] = make()
    return cast(_T, memory[what, of])
