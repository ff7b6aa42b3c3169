"""Kill -9 what works on a run, at random moments; the end must equal an undisturbed run's.

    python benchmarks/kill_runs.py --out out/kills --times 30 [--kinds flow,served,server,...]

Draws a small project twice. One runs in peace. Of the other, something is lost, a run is started,
and a process is killed at a random moment, by turns:

    flow            the process of `usam run`, watched by a server
    served          the process of a run of the deployment on `usam up`
    worker          the process that serves the deployments, while such a run is in flight
    server          the Prefect server, while `usam run` is in flight
    server-served   the Prefect server, while a served run is in flight
    dask            one of two Dask worker processes of `usam run`

After each kill: what became of the run; then `usam run` to its end, which must not do again what
was done. At last labels, heads and embeddings are compared byte by byte. Prints a line a kill and
a table; exits with 1 when anything was repeated or differs.
"""

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import psutil
from kill_project import Done, contents, draw, look, repeated, use_workers
from kill_server import Server, dask_workers, kill

KINDS = ("flow", "served", "worker", "server", "server-served", "dask")
LOSSES = ("store", "store", "annotate", "fit", "collect")
SHARDS_OF_A_TASK = {False: 1, True: 8}
"""Without and with two workers, who get several at once (`tasks.steps`)."""
PATIENCE = 240.0
"""Seconds for a run to notice that its server is gone, or to go on to its end."""


@dataclass(frozen=True)
class Kill:
    """One kill and what followed.

    Attributes:
        kind: of `KINDS`.
        lost: what of the outputs had been removed before the run.
        step: the last finished step at the kill.
        state: of the run, as its server had it when all was up again.
        words: what `usam run` said last, if it ended by itself.
        again: images that the next run embedded.
        faults: what was done again although it was done, or lost although it was finished.
    """

    kind: str
    lost: str
    step: str
    state: str
    words: str
    again: int
    faults: list[str]


def one_kill(kind: str, server: Server, file: Path, seconds: float, rng: random.Random) -> Kill:
    """Lose something, start a run, kill; then run to the end and look at what was repeated."""
    use_workers(file, 2 if kind == "dask" else 0)
    words = ""
    while True:
        lost = rng.choice(LOSSES)
        subprocess.run(["rm", "-rf", str(file.parent / "out" / lost)], check=True)
        start = look(file)
        moment = rng.uniform(0.2, 0.9) * seconds
        hit = hit_served if kind in ("served", "worker", "server-served") else hit_run
        outcome = hit(kind, server, moment)
        if outcome is not None:
            break
    run, words = outcome
    server.up()  # what was killed of it; it tells what became of the run that it served
    state = server.state(run, seconds=60) if run else "no run yet"
    finished, begun = server.embedded(run) if run else (0, 0)
    use_workers(file, 0)
    killed = look(file)
    faults = lost_work(start, killed, finished, begun, SHARDS_OF_A_TASK[kind == "dask"])
    if server.start_run().wait() != 0:
        raise SystemExit(f"the run after a kill of {kind} failed: {server.last_words()}")
    after = look(file)
    faults += repeated(killed, after)
    again = len(after.rows) - len(killed.rows)
    return Kill(kind, lost, killed.step, state, words, again, faults)


def lost_work(start: Done, killed: Done, finished: int, begun: int, most: int) -> list[str]:
    """Return what a run had finished, or what it had begun but for `most` shards, and is not there.

    A server that was killed may know less than was done, but never more.
    """
    written = len(killed.shards) - len(start.shards)
    if written < finished:
        return [f"{finished} shards were finished, {written} are stored"]
    return [f"{begun} shards were begun, {written} are stored"] if begun - written > most else []


def hit_run(kind: str, server: Server, moment: float) -> tuple[str | None, str] | None:
    """Kill at `usam run` or below it; None if it came to its end before, else run and words."""
    before = server.newest_run()
    process = server.start_run()
    try:
        process.wait(timeout=moment)
        return None
    except subprocess.TimeoutExpired:
        pass
    run = server.newest_run()
    run_id = run["id"] if run and (before is None or run["id"] != before["id"]) else None
    if kind == "flow":
        process.kill()
        process.wait()
        return run_id, "killed"
    if kind == "dask":
        workers = wait_for_workers(process)
        if not workers:
            return None
        run = server.newest_run()
        run_id = run["id"] if run else None
        kill(workers[0])
    else:
        kill(server.process("server"))
    began = time.monotonic()
    code = process.wait(timeout=PATIENCE)
    said = server.last_words() if code else "came to its end"
    return run_id, f"exit {code} after {time.monotonic() - began:.0f} s: {said}"


def wait_for_workers(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return a run's Dask workers, as soon as there are any; none if it ends without."""
    while process.poll() is None:
        workers = dask_workers(psutil.Process(process.pid))
        if workers:
            return workers
        time.sleep(0.2)
    return []


def hit_served(kind: str, server: Server, moment: float) -> tuple[str | None, str] | None:
    """Kill at a served run; None if it came to its end before, else run and words."""
    run = server.start_served()
    deadline = time.monotonic() + moment + 10  # it is fetched within some seconds
    while not server.run_processes() and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(moment)
    below = server.run_processes()
    if server.state(run) != "Running" or not below:
        server.state(run, seconds=PATIENCE)
        return None
    if kind == "served":
        kill(below[0])
        return run, f"the server said {server.state(run, seconds=60)}"
    kill(server.process("flows" if kind == "worker" else "server"))
    began = time.monotonic()
    _, left = psutil.wait_procs(below, timeout=PATIENCE / 4)
    what = "was still at work" if left else "had ended"
    return run, f"its process {what} {time.monotonic() - began:.0f} s later"


def table(kills: list[Kill]) -> str:
    """Return what became of the runs, by kind."""
    lines = ["| killed | times | state of the run afterwards | images embedded again |"]
    lines.append("| --- | --- | --- | --- |")
    for kind in dict.fromkeys(one.kind for one in kills):
        those = [one for one in kills if one.kind == kind]
        states = ", ".join(f"{n} {s}" for s, n in Counter(one.state for one in those).items())
        again = " ".join(str(one.again) for one in those)
        lines.append(f"| {kind} | {len(those)} | {states} | {again} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, kill, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=4290)
    args = parser.parse_args()
    kinds = args.kinds.split(",")
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise SystemExit(f"--kinds: no kind {', '.join(unknown)}; expected {', '.join(KINDS)}")
    folder = args.out.resolve()
    folder.mkdir(parents=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    rng = random.Random(args.seed)
    calm, killed = (draw(folder / name, args.images) for name in ("calm", "killed"))
    server = Server(folder, args.port, killed)
    kills: list[Kill] = []
    try:
        server.up()
        began = time.monotonic()
        if server.start_run(calm).wait() != 0:
            raise SystemExit(f"an undisturbed run failed: {server.last_words()}")
        seconds = time.monotonic() - began
        print(f"an undisturbed run takes {seconds:.1f} s; seed {args.seed}", flush=True)
        while len(kills) < args.times:
            kills.append(one_kill(kinds[len(kills) % len(kinds)], server, killed, seconds, rng))
            print(f"{len(kills)}: {kills[-1]}", flush=True)
    finally:
        server.down()
    first, second = contents(calm), contents(killed)
    differing = sorted(name for name in first | second if first.get(name) != second.get(name))
    faults = [fault for one in kills for fault in one.faults]
    print(table(kills))
    print(f"done again or lost: {faults or 'nothing'}")
    print(f"compared {len(first)} labels, heads and embeddings; differing: {differing or 'none'}")
    sys.exit(bool(differing or faults))


if __name__ == "__main__":
    main()
