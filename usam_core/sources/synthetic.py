"""Training pictures made from the names by a text-to-image model (docs/method.md, step 1)."""

import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from usam_core.config.training import ClassSpec, SyntheticConfig
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import value_digest
from usam_core.files.hub import commit_of, weights_digest
from usam_core.progress import Bar, Progress
from usam_core.rng import derive_seed
from usam_core.sources.base import Collected, Rejected, class_folder, picture_of
from usam_core.sources.diffusion import (
    Drawn,
    Order,
    Painter,
    local_folder,
    model_folder,
    open_painter,
)

SYNTHETIC_REVISION = 1
"""Raised when the same settings make other pictures than before."""

_BLACK = 2.0  # gray levels: a black or burnt-out picture deviates less
_NO_INFLUENCE = {"per_class", "batch_size", "device", "low_memory"}
_PACKAGES = ("diffusers", "transformers", "torch")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of picture `number` of a class: the picture, and beside it how it was made."""

    number: int
    folder: Path

    @property
    def picture(self) -> Path:
        return self.folder / f"{self.number:05d}.png"

    @property
    def note(self) -> Path:
        return self.folder / f"{self.number:05d}.json"

    def is_done(self) -> bool:
        """The note is written last; a picture that was given up has a note alone."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return "given_up" in note and (bool(note["given_up"]) or self.picture.is_file())


class SyntheticSource:
    """Makes pictures of a class in `<folder>/<class>-<settings>/`.

    The seed of picture i follows from (project seed, class, i, redraw) alone, so that an
    interrupted run goes on where it was, more pictures later keep the first, and the batch size
    changes nothing but rounding. A model's folder counts from `root`.
    """

    name = "synthetic"
    filtered = True

    def __init__(self, folder: Path, config: SyntheticConfig, seed: int, root: Path) -> None:
        self._folder = folder
        self._config = config
        self._seed = seed
        self._root = root

    def inputs(self, spec: ClassSpec) -> Any:
        """What decides the pictures: model, prompts, settings, seed."""
        return {"per_class": self._config.per_class, **self._settings(spec)}

    @property
    def wanted(self) -> int:
        """How many pictures a class shall have."""
        return self._config.per_class

    def collect(self, spec: ClassSpec, progress: Progress, spare: int = 0) -> Collected:
        """Make what is missing; return the class's pictures in the order of their numbers."""
        folder = self._folder_of(spec)
        slots = [_Slot(number, folder) for number in range(self.wanted + spare)]
        missing = [slot for slot in slots if not slot.is_done()]
        with progress.bar(f"Generating {spec.name}", len(slots)) as bar:
            bar.advance(len(slots) - len(missing))
            if missing:
                self._make(spec, missing, bar)
        return self._collected(spec, slots)

    def forget(self, spec: ClassSpec) -> None:
        """Delete the class's pictures of these settings."""
        shutil.rmtree(self._folder_of(spec), ignore_errors=True)

    def _settings(self, spec: ClassSpec) -> dict[str, Any]:
        settings = self._config.model_dump(mode="json", exclude=_NO_INFLUENCE)
        if (local := local_folder(self._config, self._root)) is not None:
            settings["model"] = weights_digest(local)
        return {
            **settings,
            "generation": SYNTHETIC_REVISION,
            "prompts": self._prompts(spec),
            "seed": self._seed,
        }

    def _prompts(self, spec: ClassSpec) -> list[str]:
        return [text.replace("{c}", spec.name) for text in spec.prompts or self._config.prompts]

    def _folder_of(self, spec: ClassSpec) -> Path:
        settings = value_digest([spec.name, self._settings(spec)])[:12]
        return self._folder / f"{class_folder(spec.name)}-{settings}"

    def _make(self, spec: ClassSpec, missing: list[_Slot], bar: Bar) -> None:
        folder = model_folder(self._config, self._root)
        painter = open_painter(self._config, folder)
        if painter.is_slow:
            hours = len(missing) * painter.seconds_a_picture / 3600
            time = f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"
            message = (
                "%s: %d pictures on this CPU take about %s; stop at any time, the next run goes on"
            )
            _log.warning(message, spec.name, len(missing), time)
        # The batch size may fall on the way.
        while batch := missing[: painter.batch_size]:
            del missing[: len(batch)]
            for slot, order, drawn, redraws in self._draw(spec, batch, painter):
                _save(slot, drawn, self._provenance(painter, folder, order, redraws))
                bar.advance()

    def _draw(
        self, spec: ClassSpec, slots: list[_Slot], painter: Painter
    ) -> Iterator[tuple[_Slot, Order, Drawn, int]]:
        """Yield each slot with its picture, or with its last bad one after all redraws."""
        left, prompts = slots, self._prompts(spec)
        for redraw in range(self._config.redraws + 1):
            orders = [
                Order(
                    prompts[slot.number % len(prompts)],
                    derive_seed(self._seed, "synthetic", spec.name, slot.number, redraw),
                )
                for slot in left
            ]
            again = []
            for slot, order, drawn in zip(left, orders, painter.draw(orders), strict=True):
                if _is_bad(drawn) and redraw < self._config.redraws:
                    again.append(slot)
                else:
                    yield slot, order, drawn, redraw
            left = again
            if not left:
                return

    def _provenance(
        self, painter: Painter, folder: Path, order: Order, redraws: int
    ) -> dict[str, Any]:
        config = self._config
        return {
            "model": config.model,
            "revision": commit_of(folder) or config.revision,
            "weights_sha256": weights_digest(folder),
            "prompt": order.prompt,
            "negative_prompt": config.negative_prompt,
            "seed": order.seed,
            "redraws": redraws,
            "scheduler": painter.scheduler,
            "steps": config.steps,
            "guidance": config.guidance,
            "size": config.size,
            "dtype": painter.compute_dtype,
            "versions": {package: version(package) for package in _PACKAGES},
        }

    def _collected(self, spec: ClassSpec, slots: list[_Slot]) -> Collected:
        result = Collected([])
        redrawn = 0
        for slot in slots:
            note = json.loads(slot.note.read_text(encoding="utf-8"))
            provenance, code = note["provenance"], note["given_up"]
            redrawn += provenance["redraws"]
            if code:
                reason = f"{code} with each of {self._config.redraws + 1} seeds"
                result.rejected.append(Rejected(spec.name, str(slot.picture), code, reason))
            else:
                result.pictures.append(picture_of(slot.picture, spec, self.name, provenance))
        if redrawn:
            result.notes.append(f"{spec.name}: {redrawn} black or filtered pictures drawn again")
        return result


def _is_bad(drawn: Drawn) -> bool:
    return drawn.flagged or float(np.std(drawn.rgb)) < _BLACK


def _save(slot: _Slot, drawn: Drawn, provenance: dict[str, Any]) -> None:
    given_up = ""
    if _is_bad(drawn):
        given_up = "safety_filter" if drawn.flagged else "black"
    else:
        with whole_file(slot.picture) as temporary:
            Image.fromarray(drawn.rgb).save(temporary, format="PNG")
    write_json(slot.note, {"given_up": given_up, "provenance": provenance})
