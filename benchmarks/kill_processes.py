"""Kills of whole runs, and of the processes below and beside them; what became of each run."""

import json
import random
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from kill_project import done, lose, stored, use_workers
from kill_server import Server, kill
from kill_writes import Nursery, after, half_seen, restore

PROCESS_KINDS = (
    "flow",
    "dask",
    "served",
    "result",
    "small-server",
    "worker",
    "server",
    "server-served",
)
_HIT = ("*/shards/[!.]*", "*/shards/.partial-*/tokens", "*/annotate/parts/*", "*/record.json")
_HIT_DASK = ("*/shards/[0-9a-f]*", "*/shards/.partial-*/packed_masks")
_TRIES = 5
_PATIENCE = 240.0
"""Seconds for a run to notice that its server is gone, or to go on to its end."""


@dataclass
class ProcessKill:
    """One kill and what followed.

    Attributes:
        number: of the kill.
        kind: of `PROCESS_KINDS`.
        lost: the step whose outputs had been removed before the run.
        state: of the run, as its server had it when all was up again.
        words: how `usam run` ended, or what its process did.
        seen: what lay there half written.
        again: shards that the next run stored.
        seconds: with the run after it.
        faults: what was wrong; empty is right.
    """

    number: int
    kind: str
    lost: str
    state: str = "no server to ask"
    words: str = ""
    seen: str = ""
    again: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)


class ProcessKills:
    """Kills on `usam up` and on `usam run`; the server is started when it is first needed.

    Args:
        folder: for its logs and database.
        port: of 127.0.0.1.
        file: the project.
        calm: `contents` of a run in peace.
        nursery: adds the blocks that no step of the project makes.
    """

    def __init__(
        self, folder: Path, port: int, file: Path, calm: dict[str, str], nursery: Nursery
    ) -> None:
        self._server = Server(folder / "server", port, file)
        self._file, self._calm, self._folder, self._nursery = file, calm, folder, nursery

    def close(self) -> None:
        """Stop what runs."""
        self._server.down()

    def one(self, number: int, kind: str, peace: Path, chance: random.Random) -> ProcessKill:
        """Lose something, start a run, kill; then run to the end and look at everything."""
        for _ in range(_TRIES):
            lost = "embed" if kind == "dask" else chance.choice(("embed", "annotate", "fit"))
            restore(peace, self._file)
            lose(self._file, lost)
            (self._folder / "note.json").unlink(missing_ok=True)
            use_workers(self._file, 2 if kind == "dask" else 0)
            one = ProcessKill(number, kind, lost)
            run = self._hit(one, chance.uniform(0.5, 8.0), chance)
            if run is not None:
                break
        else:
            one.faults.append(f"came to its end {_TRIES} times before it could be killed")
            return one
        if kind not in ("small-server", "result"):
            self._server.up()  # what was killed of it; it tells what became of the run
            one.state = self._server.state(run, seconds=60) if run else "no run yet"
        use_workers(self._file, 0)
        killed, before = done(self._file), stored(self._file)
        finished = self._server.finished(run) if run else 0
        if finished > before:
            one.faults.append(f"{finished} shards were finished, {before} are stored")
        if self._server.start_run(**self._environment(kind)).wait() != 0:
            one.faults.append(f"the next run failed: {self._server.last_words()}")
        if self._nursery.run(["block", str(self._file)]):
            one.faults.append(f"no blocks could be added: {self._nursery.said()}")
        one.again = stored(self._file) - before
        one.faults += after(killed, self._file, self._calm)
        return one

    def _environment(self, kind: str) -> dict[str, str]:
        """Return what keeps a run from the server of `usam up`: it starts a small one."""
        if kind not in ("small-server", "result"):
            return {}
        alone = self._folder / "alone"
        alone.mkdir(exist_ok=True)  # Prefect makes its own folder only
        return {"USAM_CACHE": str(alone), "PREFECT_HOME": str(alone / "prefect")}

    def _hit(self, one: ProcessKill, moment: float, chance: random.Random) -> str | None:
        """Kill; return the run's id, "" where there is none, or None if it ended before."""
        if one.kind in ("flow", "dask", "result"):
            return self._hit_write(one, chance)
        if one.kind == "small-server":
            return self._hit_small_server(one, moment)
        self._server.up()
        if one.kind == "server":
            return self._hit_server(one, moment)
        return self._hit_served(one, moment)

    def _hit_write(self, one: ProcessKill, chance: random.Random) -> str | None:
        note = self._folder / "note.json"
        environment = {**self._environment(one.kind), "USAM_FAULT_NOTE": str(note)}
        if one.kind == "result":
            environment["USAM_FAULT"] = f"half:{chance.randint(1, 3)}:*/prefect/storage/*"
        else:
            self._server.up()
            pattern = chance.choice(_HIT_DASK if one.kind == "dask" else _HIT)
            environment["USAM_FAULT"] = f"half:{1 if one.kind == 'dask' else 2}:{pattern}"
        before = self._server.newest_run() if one.kind != "result" else None
        process = self._server.start_run(**environment)
        while process.poll() is None and not (note.exists() and note.stat().st_size):
            time.sleep(0.02)
        if not note.exists():
            return None
        said = json.loads(note.read_text())
        while psutil.pid_exists(said["pid"]) and process.poll() is None:
            time.sleep(0.02)
        # At once: a step that comes later in the run sweeps what its dead worker left.
        one.seen = half_seen(said, self._folder)
        code = process.wait()
        one.words = f"exit {code}"
        if code != (0 if one.kind == "dask" else -9):
            one.faults.append(f"ended with {code}: {self._server.last_words()}")
        if not one.seen:
            one.faults.append("nothing half written was seen")
        run = self._server.newest_run() if one.kind != "result" else None
        return run["id"] if run and (before is None or run["id"] != before["id"]) else ""

    def _hit_small_server(self, one: ProcessKill, moment: float) -> str | None:
        process = self._server.start_run(**self._environment(one.kind))
        while process.poll() is None:
            if servers := _small_servers(psutil.Process(process.pid)):
                time.sleep(moment)
                kill(servers[0])
                return self._wait_for(one, process)
            time.sleep(0.1)
        return None

    def _hit_server(self, one: ProcessKill, moment: float) -> str | None:
        before = self._server.newest_run()
        process = self._server.start_run()
        while (run := self._server.newest_run()) == before and process.poll() is None:
            time.sleep(0.2)
        time.sleep(moment)
        if process.poll() is not None:
            return None
        kill(self._server.process("server"))
        self._wait_for(one, process)
        return run["id"]

    def _wait_for(self, one: ProcessKill, process: subprocess.Popen[bytes]) -> str:
        began = time.monotonic()
        code = process.wait(timeout=_PATIENCE)
        said = self._server.last_words() if code else "came to its end"
        one.words = f"exit {code} after {time.monotonic() - began:.0f} s: {said}"
        return ""

    def _hit_served(self, one: ProcessKill, moment: float) -> str | None:
        run = self._server.start_served()
        deadline = time.monotonic() + 60  # it is fetched within some seconds
        while self._server.state(run) != "Running" and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(moment)
        below = self._server.run_processes()
        if self._server.state(run) != "Running" or not below:
            self._server.state(run, seconds=_PATIENCE)
            return None
        if one.kind == "served":
            kill(below[0])
            one.words = f"the server said {self._server.state(run, seconds=60)}"
            return run
        kill(self._server.process("flows" if one.kind == "worker" else "server"))
        began = time.monotonic()
        _, alive = psutil.wait_procs(below, timeout=_PATIENCE / 4)
        what = "was still at work" if alive else "had ended"
        one.words = f"its process {what} {time.monotonic() - began:.0f} s later"
        return run


def _small_servers(process: psutil.Process) -> list[psutil.Process]:
    """Return the server that a run has started for itself."""
    found = []
    for child in process.children(recursive=True):
        try:
            if "uvicorn" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found
