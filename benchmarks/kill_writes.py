"""Kills inside writes: where they are put (`POINTS`), and steps that are started fast enough.

Each step runs in a process of its own, forked from one that has the imports behind it, and kills
itself there by `USAM_FAULT` (see `usam_core.files.atomic`).
"""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kill_project import contents, done, left, lose

HALF = "half"
POINTS = (
    ("collect", "*/collect/pictures/*/*.png", 9),
    ("collect", "*/collect/found/*.json", 3),
    ("collect", "*/collect/manifest.parquet", 1),
    ("collect", "*/collect/report.json", 1),
    ("collect", "*/collect/sheets/*.jpg", 3),
    ("embed", "*/shards/.partial-*/tokens", 5),
    ("embed", "*/shards/.partial-*/packed_masks", 5),
    ("embed", "*/shards/.partial-*/features/encoder", 5),
    ("embed", "*/shards/.partial-*/zarr.json", 5),
    ("embed", "*/shards/[!.]*", 5),
    ("embed", "*/embed/images.parquet", 1),
    ("embed", "*/embed/lineage.json", 1),
    ("embed", "*/store/*/zarr.json", 2),
    ("block", "*/shards/*/features/mean-*", 5),
    ("compose", "*/compose/scenes/*.png", 2),
    ("compose", "*/compose/truth/*.png", 2),
    ("compose", "*/compose/scenes.parquet", 1),
    ("fit", "*/fit/*.safetensors", 2),
    ("fit", "*/fit/*.card.json", 2),
    ("fit", "*/fit/training.parquet", 1),
    ("annotate", "*/annotate/masks/*.png", 6),
    ("annotate", "*/annotate/parts/*.parquet", 3),
    ("annotate", "*/annotate/coco.json", 1),
    ("annotate", "*/annotate/overlays/*.jpg", 2),
    ("evaluate", "*/evaluate/[!r]*", 3),
    ("export", "*/export/label_tiff/*", 6),
    ("export", "*/export/ome_zarr/*", 6),
    ("export", "*/export/rows/*.jsonl", 6),
    ("export", "*/export/*/*.json", 1),
    ("export", "*/export/*/*.parquet", 1),
    ("export", "*/export/ledger.sqlite", 12),
    ("report", "*/report/report.html", 1),
    ("report", "*/report/runs/*/*.parquet", 3),
    ("report", "*/report/runs/*/labels.zip", 1),
    ("report", "*/report/history.json", 1),
    ("*", "*/record.json", 1),
    ("decide", "*/decisions.jsonl", 6),
)
"""Step, pattern of what it writes, and how often it does at least."""
STEPS = ("collect", "embed", "fit", "annotate", "export", "report")
"""Those whose records are hit."""
AFTER = {"embed": ("compose", "block")}
"""What has to run too until all is there again that `kill_project.lose` takes away."""

_NURSERY = """
import json, os, signal, sys, time
import usam_core.cli.app, usam_core.outputs.formats, usam_core.steps.review
import usam_core.cli.steps, usam_core.sam.nano, flows.cli, kill_acts
from usam_core.outputs import lists, ome_zarr, rasters
for line in sys.stdin:
    asked = json.loads(line)
    child = os.fork()
    if not child:
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.environ.update(asked["environment"])
        try:
            kill_acts.act(*asked["words"])
        except SystemExit as end:
            os._exit(end.code if isinstance(end.code, int) else 1)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline = time.monotonic() + 300
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGTERM)
        time.sleep(0.02)
    print(os.waitstatus_to_exitcode(ended[1]), flush=True)
"""


class Nursery:
    """Runs steps, each in a process of its own.

    Args:
        log: what the last step said.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import sys\nsys.path[0] = {sys.path[0]!r}\n{_NURSERY}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, words: list[str], **environment: str) -> int:
        """Run `usam WORDS`, or `block` or `decide` of `kill_acts`; return its exit code."""
        asked = {"words": words, "environment": environment, "log": str(self._log)}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def said(self) -> str:
        """Return what the last step printed."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait(30)


@dataclass
class WriteKill:
    """One kill inside a write and what followed.

    Attributes:
        number: of the kill.
        kind: `write`.
        step: what ran.
        moment: see `usam_core.files.atomic`.
        target: pattern of the file.
        seen: what lay there after the kill, half written: bytes, and of how many.
        finished: pieces of work that were finished at the kill.
        seconds: with the run after it.
        faults: what was wrong; empty is right.
    """

    number: int
    kind: str
    step: str
    moment: str
    target: str
    seen: str = ""
    finished: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


def only_half(point: int) -> bool:
    """Return whether what is written at a point is not renamed by itself."""
    return any(word in POINTS[point][1] for word in (".partial-", ".sqlite", "decisions"))


def restore(peace: Path, file: Path) -> None:
    """Put a project back as the run in peace left it, times included."""
    shutil.rmtree(file.parent, ignore_errors=True)
    shutil.copytree(peace, file.parent, symlinks=True)


def one_write(
    number: int, point: int, moment: str, nursery: Nursery, peace: Path, file: Path, calm: dict
) -> WriteKill:
    """Kill a step inside a write, run it again, and look at what became of everything."""
    chance = random.Random(number)
    step, pattern, most = POINTS[point % len(POINTS)]
    step = chance.choice(STEPS) if step == "*" else step
    one = WriteKill(number, "write", step, moment, pattern)
    began = time.monotonic()
    restore(peace, file)
    lose(file, step)
    start = done(file)
    note = file.parent.parent / "note.json"
    for count in (chance.randint(1, most), 1):
        note.unlink(missing_ok=True)
        fault = f"{moment}:{count}:{pattern}"
        code = nursery.run([step, str(file)], USAM_FAULT=fault, USAM_FAULT_NOTE=str(note))
        if note.exists():
            break
        restore(peace, file)
        lose(file, step)
    if code != -9 or not note.exists():
        one.faults.append(
            f"was to be killed at {fault}, ended with {code}: {nursery.said()[-300:]}"
        )
        return one
    killed = done(file)
    one.finished = len(killed.keys() - start.keys())
    one.seen = half_seen(json.loads(note.read_text()), file) if moment == HALF else ""
    if moment == HALF and not one.seen:
        one.faults.append("nothing half written was seen")
    for next_step in (step, *AFTER.get(step, ())):
        if nursery.run([next_step, str(file)]) != 0 or "Traceback" in nursery.said():
            one.faults.append(f"the next {next_step} failed: {nursery.said()[-300:]}")
    one.faults += after(killed, file, calm)
    one.seconds = round(time.monotonic() - began, 1)
    return one


def after(killed: dict[str, Any], file: Path, calm: dict[str, str]) -> list[str]:
    """Return what is wrong after the run that followed a kill.

    Args:
        killed: what was finished at the kill.
        file: the project.
        calm: `contents` of a run in peace.
    """
    now = done(file)
    faults = [
        f"{name} was made again or lost" for name, was in killed.items() if now.get(name) != was
    ]
    faults += [f"{name} was left" for name in left(file)]
    found = contents(file)
    differing = sorted(name for name in found | calm if found.get(name) != calm.get(name))
    return faults + [f"{name} differs from a run in peace" for name in differing]


def half_seen(note: dict[str, Any], file: Path) -> str:
    """Return how much of what was written lies there, or "" if that is not so."""
    target = Path(note["target"])
    if "written" not in note:  # SQLite: the transaction is open, and its way back lies beside it
        journal = target.with_name(f"{target.name}-journal")
        return f"{journal.name} of {journal.stat().st_size} bytes" if journal.exists() else ""
    written = Path(note["written"])
    here = written.exists() and written.stat().st_size == note["left"] < note["bytes"]
    return (
        f"{written.relative_to(file.parent)}: {note['left']} of {note['bytes']} bytes"
        if here
        else ""
    )
