"""What this machine has, and what a project would need of it."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from usam_core.config.checks import needed_extras
from usam_core.config.project import Project
from usam_core.extras import EXTRAS, complaint, lacking
from usam_core.lineage.document import versions
from usam_core.sam.load import NANO_WEIGHTS, OFFICIAL, cache_folder

_GIB = 1 << 30
_MIN_MEMORY = 3 * _GIB
_MIN_DISK = 5 * _GIB


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        value: what was found.
        verdict: `good`, `note`, or `bad` when a run would fail.
        advice: what to do, or nothing.
    """

    name: str
    value: str
    verdict: str = "good"
    advice: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-like mapping."""
        return asdict(self)


def examine(project: Project | None = None) -> list[Check]:
    """Look at the machine, and at what a project needs if one is given."""
    checks = [*_machine(project.out if project else Path.cwd()), *_checkpoints(project)]
    optional = {module for modules in EXTRAS.values() for module in modules}
    for name, found in versions().items():
        if found != "not installed":
            checks.append(Check(name, found))
        elif name not in optional:
            checks.append(Check(name, found, "bad", "pip install it"))
    return [*checks, *_extras(project)]


def _machine(folder: Path) -> list[Check]:
    memory = psutil.virtual_memory().available
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    disk = shutil.disk_usage(existing).free
    if torch.cuda.is_available():
        device = Check("device", f"cuda: {torch.cuda.get_device_name()}")
    elif torch.backends.mps.is_available():
        device = Check("device", "mps: Apple GPU")
    else:
        advice = "the nano SAM is made for this; ViT-B takes tens of seconds an image"
        device = Check("device", "cpu, no GPU", "note", advice)
    return [
        device,
        Check("cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()}"),
        _enough("memory", memory, _MIN_MEMORY, "close other programs"),
        _enough(f"disk of {existing}", disk, _MIN_DISK, "free some, or set outputs.store"),
    ]


def _enough(name: str, free: int, least: int, advice: str) -> Check:
    value = f"{free / _GIB:.1f} GiB free"
    if free >= least:
        return Check(name, value)
    return Check(name, value, "bad", f"expected {least / _GIB:.0f} GiB; {advice}")


def _checkpoints(project: Project | None) -> list[Check]:
    size = NANO_WEIGHTS.stat().st_size / 1e6 if NANO_WEIGHTS.exists() else 0
    checks = [
        Check("SAM nano", f"bundled, {size:.1f} MB")
        if size
        else Check("SAM nano", f"missing: {NANO_WEIGHTS}", "bad", "reinstall usam")
    ]
    wanted = project.config.sam.model if project and not project.checkpoint else None
    for model, checkpoint in OFFICIAL.items():
        file = cache_folder() / checkpoint.file_name
        if file.exists():
            checks.append(Check(f"SAM {model}", str(file)))
            continue
        advice = f"{checkpoint.bytes / 1e6:.0f} MB from {checkpoint.url}"
        start = "will be downloaded: " if model == wanted else "not needed; if chosen: "
        checks.append(Check(f"SAM {model}", "not here", "note", start + advice))
    if project and project.config.training.source == "synthetic":
        checks.append(_diffusion_model(project))
    if project and project.checkpoint:
        checks.append(Check("sam.checkpoint", str(project.checkpoint)))
    return checks


def _diffusion_model(project: Project) -> Check:
    # It brings torch, for which other commands do not wait.
    from usam_core.sources.diffusion import KNOWN_GB, local_folder

    config = project.config.training.synthetic
    if local_folder(config, project.root) is not None:
        return Check("text-to-image model", config.model)
    size = KNOWN_GB.get(config.model)
    return Check(
        "text-to-image model",
        config.model,
        "note",
        f"downloaded from the hub when it is not cached: {f'{size} GB' if size else 'some GB'}",
    )


def _extras(project: Project | None) -> list[Check]:
    needed = dict(needed_extras(project)) if project else {}
    checks = []
    for extra in EXTRAS:
        if not lacking(extra):
            checks.append(Check(f"extra {extra}", "installed"))
        elif extra in needed:
            checks.append(
                Check(f"extra {extra}", "not installed", "bad", complaint(extra, needed[extra]))
            )
        else:
            advice = f"not needed; if chosen: pip install 'usam[{extra}]'"
            checks.append(Check(f"extra {extra}", "not installed", "note", advice))
    return checks
