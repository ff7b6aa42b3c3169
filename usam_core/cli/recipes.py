"""Which recipe fits this machine, and what each would download, take and store."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from usam_core.config.recipes import RECIPES, Part, Recipe
from usam_core.errors import lacking
from usam_core.files.hub import hub_answers, is_cached

AUTO = "auto"
_IMAGES = 1000
"""For how many images the disk should have room."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is: GPU memory in GB (0: no GPU), free disk in bytes, and whether the hub answers.

    `here` says whether a model's files lie in the hub's cache on this disk.
    """

    gpu_gb: float
    disk: int
    hub: bool
    here: Callable[[Part], bool]
    can_load: bool = True

    @classmethod
    def look(cls, folder: Path) -> "Machine":
        """Look at this one; the disk is that of a folder, there or not."""
        import torch

        gpu = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
        existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        disk = shutil.disk_usage(existing).free
        can_load = not lacking("features")
        return cls(
            gpu / 1e9,
            disk,
            can_load and hub_answers(),
            lambda part: can_load and is_cached(hub_id(part)),
            can_load,
        )


def hub_id(part: Part) -> str:
    """The repository of a part on the hub."""
    from usam_core.sam.hub_models import HUB_SAMS

    known = HUB_SAMS.get(part.model)
    return known.hub_id if known else part.model


def missing(recipe: Recipe, machine: Machine) -> list[Part]:
    """The parts that would be downloaded."""
    return [part for part in recipe.parts if part.megabytes and not machine.here(part)]


def fault(recipe: Recipe, machine: Machine) -> str:
    """Why a recipe would not run well on a machine; "" if it would."""
    wanted = missing(recipe, machine)
    if not machine.can_load:
        return "the extra is not installed: pip install 'usam[features]'"
    if wanted and not machine.hub:
        return f"the hub does not answer, and {len(wanted)} of its models are not here"
    if gated := [hub_id(part) for part in wanted if part.gated]:
        return f"needs an agreement on the hub first: {', '.join(gated)}"
    if recipe.gpu_gb > machine.gpu_gb:
        return f"wants a GPU of {recipe.gpu_gb} GB"
    need = sum(part.megabytes for part in wanted) * 10**6 + _IMAGES * recipe.store_bytes
    if need > machine.disk:
        return f"wants {need / 1e9:.0f} GB of disk for it and {_IMAGES} images"
    return ""


def choose(machine: Machine) -> tuple[str | None, list[str]]:
    """The largest recipe that runs well here, or None, and a sentence for each larger one."""
    why: list[str] = []
    for name, recipe in reversed(RECIPES.items()):
        if not (found := fault(recipe, machine)):
            return name, why
        why.append(f"not {name}: {found}")
    return None, why


def describe(name: str, machine: Machine) -> str:
    """What a recipe is and costs here, in one line."""
    recipe, wanted = RECIPES[name], missing(RECIPES[name], machine)
    size = sum(part.megabytes for part in wanted)
    names = ", ".join(hub_id(part) for part in wanted)
    gated = f"; agreement needed: {', '.join(recipe.gated)}" if recipe.gated else ""
    return (
        f"{recipe.summary}. Download: {f'about {size} MB ({names})' if wanted else 'nothing'}; "
        f"licences: {', '.join(recipe.licences)}{gated}; {recipe.core_seconds:.0f} s an image on "
        f"one CPU core (a GPU was not measured); at most {recipe.store_bytes / 1e6:.1f} MB of "
        "store an image before compression"
    )


def tell_choice(word: str, folder: Path) -> tuple[str | None, list[str]]:
    """The recipe that `--recipe` means for a project's folder, and what to say of it."""
    if word not in (AUTO, *RECIPES):
        return word, []  # the papers' costs what its SAM does
    machine = Machine.look(folder)
    if word != AUTO:
        found = fault(RECIPES[word], machine)
        told = [f"recipe {word}: {describe(word, machine)}"]
        return word, [*told, *([f"here, recipe {word}: {found}"] if found else [])]
    name, why = choose(machine)
    if name is None:
        chosen = (
            "recipe auto: none; the bundled SAM and its own encoder are for a first look, and "
            "install, download or copy what is missing for more (docs/recipes.md)"
        )
        return None, [*why, chosen]
    return name, [*why, f"recipe auto: {name}. {describe(name, machine)}"]


def rows(machine: Machine) -> Iterator[tuple[str, str, str]]:
    """Each recipe's name, what it costs here, and why it would not run well, if so."""
    for name in RECIPES:
        yield name, describe(name, machine), fault(RECIPES[name], machine)


COLUMNS = [
    "recipe",
    "models",
    "licence",
    "download",
    "s an image, a core",
    "store an image",
    "here",
]


def table(machine: Machine) -> Iterator[list[str]]:
    """The same for a terminal, by `COLUMNS`; models one a line."""
    for name, recipe in RECIPES.items():
        lines = [
            (part.model, part.licence + (", agreement first" if part.gated else ""))
            for part in recipe.parts
        ]
        size = sum(part.megabytes for part in missing(recipe, machine))
        yield [
            name,
            "\n".join(model for model, _ in lines),
            "\n".join(licence for _, licence in lines),
            f"{size} MB" if size else "nothing",
            f"{recipe.core_seconds:.0f}",
            f"{recipe.store_bytes / 1e6:.1f} MB",
            fault(recipe, machine) or "runs",
        ]
