"""What a check of a project has found, and what it needs to know on its way."""

from array import array
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from usam_core.errors import StoreError
from usam_core.images.listing.content import mismatch
from usam_core.lineage.document import portable
from usam_core.progress import SILENT, Progress

Remade = Literal["run", "repair", "no"]


@dataclass(frozen=True, slots=True)
class Damage:
    """One file, or one folder, that is not as it was written.

    Attributes:
        path: from the project's folder, if it lies there.
        what: what is wrong, in words.
        step: which step made it; empty for what a person made.
        remade: `run`, the next run makes it anew by itself; `repair`, it does so after a repair;
            `no`, nobody can.
        advice: what to do, where that is more.
    """

    path: str
    what: str
    step: str
    remade: Remade
    advice: str = ""

    @property
    def sentence(self) -> str:
        """Return it in one line, with the fix."""
        again = f"run `usam {self.step}` again"
        fix = again if self.remade == "run" else f"`usam check --repair` drops it; then {again}"
        return f"{self.path}: {self.what}: {self.advice or fix}"


@dataclass(slots=True)
class Checked:
    """What a check found.

    Attributes:
        damages: what is damaged.
        edits: files that a person has changed, which are kept.
        files: how many files were read.
        bytes: how many bytes.
        seconds: how long it took.
        repaired: what can be made again was dropped.
    """

    damages: list[Damage] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    seconds: float = 0.0
    repaired: bool = False

    @property
    def sound(self) -> bool:
        """Return whether nothing is damaged, or only what a repair has dropped."""
        return not any(one.remade == "no" or not self.repaired for one in self.damages)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-like mapping."""
        return {**asdict(self), "sound": self.sound}


@dataclass(slots=True)
class Walk:
    """A check on its way.

    Attributes:
        root: the project's folder.
        repair: drop what is damaged and can be made again.
        progress: told of files and shards.
        found: what was found so far.
        stores: the spec of each store that results stand on, by its folder.
        images: what these stores must hold: the first 64 bits of digests.
    """

    root: Path
    repair: bool = False
    progress: Progress = SILENT
    found: Checked = field(default_factory=Checked)
    stores: dict[Path, dict[str, Any]] = field(default_factory=dict)
    images: array = field(default_factory=lambda: array("Q"))

    def tell(
        self,
        path: Path | str,
        what: str,
        step: str,
        remade: Remade,
        mend: Callable[[], object] = lambda: None,
        advice: str = "",
    ) -> None:
        """Add a damage, and mend it if that is wanted and can be: nothing outside is touched."""
        name = portable(path, self.root) if isinstance(path, Path) else path
        if self.repair and remade != "no":
            try:
                mend()
            except StoreError as error:
                remade, advice = "no", str(error)
        self.found.damages.append(Damage(name, what, step, remade, advice))

    def count(self, path: Path | str) -> None:
        """Count what was read of a file; one that is not there, or a plane of one, is nothing."""
        with suppress(OSError):
            self.found.bytes += Path(path).stat().st_size
            self.found.files += 1

    def differs(self, path: Path | str, sha256: str) -> str:
        """Return how a file differs from its digest, and count it."""
        what = mismatch(path, sha256)
        self.count(path)
        return what

    def need(self, shas: Iterable[str]) -> None:
        """Remember that the stores must hold these images."""
        self.images.extend(first_bits(shas))


def first_bits(shas: Iterable[str]) -> array:
    """Return the first 64 bits of digests."""
    return array("Q", (int(sha256[:16], 16) for sha256 in shas))
