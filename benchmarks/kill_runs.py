"""Kill -9 what works on a project, in writes and at random moments; the end must equal peace.

    python benchmarks/kill_runs.py --out out/kills --times 100 [--kinds write,flow,dask,...]

Draws a small project and runs it twice in peace: the two must be equal. Then, again and again, it
is put back, something of it is lost, what makes that is started, and a process is killed:

    write           `usam STEP` kills itself inside a write (`kill_writes.POINTS`): nine of ten
    flow            `usam run`, watched by a server, kills itself inside a write
    dask            one of two Dask worker processes of `usam run` kills itself inside a write
    result          `usam run` kills itself while Prefect writes the record of a task, half of it
    small-server    the server that `usam run` starts for itself
    served          the process of a run of the deployment on `usam up`, at a random moment
    worker          the process that serves the deployments, while such a run is in flight
    server          the Prefect server, while `usam run` is in flight
    server-served   the Prefect server, while a served run is in flight

After each kill: the run again, to its end. It must not make again what was finished, nor leave a
temporary file or a lock, and every file must be, byte for byte, that of a run in peace (but for
those that hold the time). Every kill is a line of kills.jsonl in the folder; called again, it goes
on there. Prints tables; exits with 1 when anything was wrong.
"""

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kill_processes import PROCESS_KINDS, ProcessKills
from kill_project import contents, draw, left
from kill_writes import HALF, POINTS, Nursery, one_write, only_half

STEPS = ("collect", "embed", "compose", "fit", "calibrate", "annotate", "evaluate", "export")
KINDS = ("write", *PROCESS_KINDS)


def peace(
    folder: Path, images: int, nursery: Nursery, times: int = 2
) -> tuple[Path, dict[str, str]]:
    """Return the project file, and the `contents` of a run in peace, kept beside it.

    It is run so many times, so that what differs by itself is not taken for harm.
    """
    file, kept = folder / "project" / "project.yaml", folder / "peace.json"
    if not kept.exists():
        shutil.rmtree(file.parent, ignore_errors=True)
        draw(file.parent, images)
        found = []
        for _ in range(times):
            shutil.rmtree(file.parent / "out", ignore_errors=True)
            for step in (*STEPS, "report", "block"):
                if nursery.run([step, str(file)]):
                    raise SystemExit(f"{step} of an undisturbed run failed: {nursery.said()}")
            found.append(contents(file))
        first, second = found[0], found[-1]
        differing = sorted(n for n in first | second if first.get(n) != second.get(n))
        if differing or left(file):
            raise SystemExit(f"two runs in peace differ: {differing}, or leave {left(file)}")
        shutil.rmtree(folder / "peace", ignore_errors=True)
        shutil.copytree(file.parent, folder / "peace", symlinks=True)
        kept.write_text(json.dumps(first))
    return file, json.loads(kept.read_text())


def schedule(times: int, kinds: list[str], seed: int) -> list[tuple[str, int, str]]:
    """Return kind, place in `POINTS` and moment of every kill: nine of ten are writes."""
    others = [kind for kind in kinds if kind != "write"]
    places = list(range(len(POINTS)))
    random.Random(seed).shuffle(places)
    found = []
    every = 10 if "write" in kinds else 1
    for number in range(times):
        if others and number % every == every - 1:
            found.append((others[number // every % len(others)], 0, ""))
        else:
            place = places[number % len(places)]
            moment = HALF if number % 7 or only_half(place) else ("rename", "renamed")[number % 2]
            found.append(("write", place, moment))
    return found


def tables(kills: list[dict[str, Any]]) -> str:
    """Return what was hit, and what became of the runs."""
    lines = ["| written | half | before the rename | after it | finished then, not made again |"]
    lines.append("| --- | --- | --- | --- | --- |")
    writes = [one for one in kills if one["kind"] == "write"]
    for step in sorted({one["step"] for one in writes}):
        those = [one for one in writes if one["step"] == step]
        count = Counter(one["moment"] for one in those)
        cells = [count[HALF], count["rename"], count["renamed"], sum(o["finished"] for o in those)]
        lines.append(f"| {step} | {' | '.join(map(str, cells))} |")
    lines += ["", "| killed | times | half written | state of the run afterwards |"]
    lines.append("| --- | --- | --- | --- |")
    for kind in PROCESS_KINDS:
        if those := [one for one in kills if one["kind"] == kind]:
            states = Counter(one["state"] for one in those)
            said = ", ".join(f"{n} {state}" for state, n in states.items())
            half = sum(bool(one["seen"]) for one in those)
            lines.append(f"| {kind} | {len(those)} | {half} | {said} |")
    for name, those in (("write", writes), ("other", [o for o in kills if o["kind"] != "write"])):
        if those:
            seconds = [one["seconds"] for one in those]
            middle = statistics.median(seconds)
            lines.append(f"\n{name}: {middle:.1f} s a kill, at most {max(seconds):.1f}")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, kill, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=4290)
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise SystemExit(f"--kinds: no kind {', '.join(unknown)}; expected {', '.join(KINDS)}")
    folder = args.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    lines = folder / "kills.jsonl"
    kills = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    known = {one["number"] for one in kills}
    nursery = Nursery(folder / "step.log")
    file, calm = peace(folder, args.images, nursery)
    processes = ProcessKills(folder, args.port, file, calm, nursery)
    try:
        for number, (kind, place, moment) in enumerate(schedule(args.times, kinds, args.seed)):
            if number in known:
                continue
            began = time.monotonic()
            if kind == "write":
                one = one_write(number, place, moment, nursery, folder / "peace", file, calm)
            else:
                chance = random.Random(f"{args.seed} {number}")
                one = processes.one(number, kind, folder / "peace", chance)
            one.seconds = round(time.monotonic() - began, 1)
            kills.append(asdict(one))
            with lines.open("a") as log:
                log.write(json.dumps(kills[-1]) + "\n")
            print(json.dumps(kills[-1]), flush=True)
    finally:
        processes.close()
        nursery.close()
    faults = [f"{one['number']}: {fault}" for one in kills for fault in one["faults"]]
    half = sum(bool(one["seen"]) for one in kills)
    print(tables(kills))
    print(f"{len(kills)} kills, {half} of them with something half written; seed {args.seed}")
    print("\n".join(["wrong:", *faults]) if faults else "nothing lost, made again or left over")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
