"""What `scale.py` watches while it works: memory, processor time, the server and its pages."""

import csv
import json
import os
import secrets
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil


class Memory:
    """Watches the resident memory of this process and, added up, of its Dask workers."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._end.wait(0.5):
            workers = 0
            for child in me.children(recursive=True):
                try:
                    if "spawn_main" in " ".join(child.cmdline()):
                        workers += child.memory_info().rss
                except psutil.Error:
                    continue
            self.samples.append((me.memory_info().rss / 2**20, workers / 2**20))

    def stop(self) -> dict[str, list[int]]:
        """Return MiB after a quarter, half, three quarters and all of the time, and the peak."""
        self._end.set()
        self._thread.join()
        count = len(self.samples)
        report = {}
        for name, column in (("process", 0), ("workers", 1)):
            values = [sample[column] for sample in self.samples] or [0.0]
            marks = [values[min(count * q // 4, count - 1)] for q in (1, 2, 3, 4)]
            report[name] = [round(value) for value in (*marks, max(values))]
        return report


@contextmanager
def server(home: Path) -> Iterator[Path]:
    """Run a Prefect server of its own while the block runs, its pages asked all the time.

    Yields:
        What `pages` reads.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    password = f"usam:{secrets.token_urlsafe(32)}"
    os.environ |= {
        "PREFECT_API_AUTH_STRING": password,
        "PREFECT_SERVER_API_AUTH_STRING": password,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    latency = home.with_name("latency.csv")
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with home.with_suffix(".log").open("a") as log:
        started = [subprocess.Popen([*command, "--port", str(port)], stdout=log, stderr=log)]
        try:
            for _ in range(240):
                try:
                    httpx.get(f"{api}/health", trust_env=False).raise_for_status()
                    break
                except httpx.HTTPError:
                    time.sleep(0.5)
            asking = Path(__file__).with_name("page_latency.py")
            started.append(subprocess.Popen([sys.executable, asking, api, latency], stderr=log))
            yield latency
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait(30)


def pages(file: Path, since: float) -> dict[str, dict[str, Any]]:
    """Return median, 95th percentile and most milliseconds of each request since a time."""
    taken: dict[str, list[float]] = {}
    refused: dict[str, int] = {}
    with file.open() as lines:
        for when, name, milliseconds, status in csv.reader(lines):
            if float(when) < since:
                continue
            taken.setdefault(name, []).append(float(milliseconds))
            refused[name] = refused.get(name, 0) + (status != "200")
    return {
        name: {
            "asked": len(all_of),
            "refused": refused[name],
            "ms_median_95_most": [
                round(statistics.median(all_of)),
                round(sorted(all_of)[int(0.95 * (len(all_of) - 1))]),
                round(max(all_of)),
            ],
        }
        for name, all_of in taken.items()
    }


def database(file: Path) -> dict[str, int]:
    """Return the server's database in bytes, and its rows of the tables that grow."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        tables = ("flow_run", "task_run", "task_run_state", "artifact", "events", "log")
        rows = {t: connection.execute(f"select count(*) from {t}").fetchone()[0] for t in tables}
    files = file.parent.glob(f"{file.name}*")
    return {"bytes": sum(one.stat().st_size for one in files), **rows}


def cpu_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and of its living and dead children."""
    times = process.cpu_times()
    own = times.user + times.system + times.children_user + times.children_system
    return own + sum(cpu_seconds(child) for child in process.children())


def measured(name: str, images: int, latency: Path, work: Callable[[], Any]) -> dict[str, Any]:
    """Run `work` and print what it took; the processor time is that of everything, server too."""
    memory = Memory()
    began, start, cpu = time.time(), time.monotonic(), cpu_seconds(psutil.Process())
    work()
    seconds, cpu = time.monotonic() - start, cpu_seconds(psutil.Process()) - cpu
    row = {
        "what": name,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "images_per_second": round(images / seconds, 1),
        "mib_at_quarters_and_peak": memory.stop(),
        "pages": pages(latency, began),
    }
    print(json.dumps(row), flush=True)
    return row
