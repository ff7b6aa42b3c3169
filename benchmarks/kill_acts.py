"""What the killed processes do: a step or a run, or one of two acts that no step does."""

import json
import os
import sys
from pathlib import Path

import numpy as np

from flows.cli import main
from usam_core.config.project import load_project
from usam_core.files.atomic import FAULT, fault_point
from usam_core.review.decisions import Decision, append_decision, read_all
from usam_core.steps import annotate
from usam_core.steps.embed import open_store
from usam_core.steps.record import decisions_file
from usam_core.store.reader import block_id

SPEC = {"family": "mean", "weights": "none"}
DECISIONS = 6


def act(what: str, file: str) -> None:
    """Do it; the exit code of a step comes as `SystemExit`."""
    acts = {"block": add_blocks, "decide": decide}
    if what in acts:
        acts[what](Path(file))
    else:
        if "/storage/" in os.environ.get(FAULT, ""):
            break_storage()
        sys.argv = ["usam", what, file]
        main()


def break_storage() -> None:
    """Put a fault point into Prefect's records of tasks, which it writes in place."""
    from prefect.filesystems import LocalFileSystem

    def write(self: LocalFileSystem, path: str, content: bytes, **_: bool) -> str:
        file = self._resolve_path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        fault_point("half", file, file)
        return str(file)

    LocalFileSystem.write_path = write  # how the synchronous tasks of this project call it


def add_blocks(file: Path) -> None:
    """Give every shard the block that it lacks: the mean of each mask."""
    project = load_project(file)
    store = open_store(project, create=True)
    index = store.index(refresh=True)
    for shard, blocks in store.lacking([block_id(SPEC)], index["sha256"]).items():
        made = {}
        for sha256 in blocks[block_id(SPEC)]:
            masks = store.read(sha256).packed_masks
            made[sha256] = masks.mean((-1, -2), keepdims=True)[..., 0].astype(np.float16)
        store.add_block(shard, SPEC, made)


def decide(file: Path) -> None:
    """Reject masks, one after the other; what was told to the person stands in a second file."""
    project = load_project(file)
    log = decisions_file(project.out)
    told = log.with_name("told")
    known = {decision.id for decision in read_all(log)}
    before = told.read_text().split() if told.exists() else []
    if lost := set(before) - known:
        raise SystemExit(f"decisions that were told are gone: {lost}")
    for image in annotate.labels(project).sorted_images():
        for number, one in enumerate(image.instances):
            name = f"{image.path}-{number}"
            if name in known:
                continue
            said = [name, "2026-01-01T00:00:00Z", image.sha256, image.path]
            said += [one.prompt, one.rle, "disc", None, False]
            append_decision(log, Decision(*said))
            with told.open("a") as lines:
                lines.write(f"{name}\n")
    kept = [json.dumps(decision.id) for decision in read_all(log)]
    if len(kept) != len(set(kept)):
        raise SystemExit("a decision was kept twice")


if __name__ == "__main__":
    act(*sys.argv[1:])
