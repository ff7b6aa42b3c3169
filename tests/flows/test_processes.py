"""Background processes that are found again after whoever started them is gone."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest

from flows import processes
from usam_core.errors import UsamError

SLEEP = "import time; time.sleep(60)"
WITH_CHILD = (
    "import subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(60)"
)
DEAF = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('deaf', flush=True)\n"
    "time.sleep(60)"
)


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    processes.stop_all(tmp_path, 5)


def start(folder, code, *, wait_for_output=False):
    pid = processes.start(folder, "worker", ["-c", code], dict(os.environ))
    deadline = time.monotonic() + 30
    while wait_for_output and not (folder / "worker.log").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return pid


def test_stopping_asks_first(folder):
    pid = start(folder, SLEEP)
    assert processes.alive(folder, "worker")
    assert [p.pid for p in processes.marked(folder)] == [pid]
    processes.stop(folder, "worker", 10)
    assert not processes.alive(folder, "worker")
    assert not (folder / "worker.pid").exists()


def test_children_of_a_killed_process_are_found(folder):
    pid = start(folder, WITH_CHILD, wait_for_output=True)
    child = int((folder / "worker.log").read_text())
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)], timeout=10)
    assert not processes.alive(folder, "worker")
    assert [p.pid for p in processes.marked(folder)] == [child]
    processes.stop_all(folder, 10)
    assert processes.marked(folder) == []


def test_a_process_that_does_not_listen_is_killed(folder):
    start(folder, DEAF, wait_for_output=True)
    processes.stop_all(folder, 0.5)
    assert processes.marked(folder) == []


def test_a_number_that_another_program_has_now_is_not_taken_for_ours(folder, tmp_path):
    (folder / "worker.pid").write_text(f"{os.getppid()}\n")
    assert not processes.alive(folder, "worker")
    (folder / "worker.pid").write_text("not a number\n")
    assert not processes.alive(folder, "worker")


def test_what_it_last_said_is_told_when_it_ends_at_once(folder):
    pid = start(folder, "import sys; sys.exit('no room')")
    with suppress(psutil.NoSuchProcess):  # it may be gone by now
        psutil.wait_procs([psutil.Process(pid)], timeout=30)
    with pytest.raises(UsamError, match=r"worker\.log:\nno room"):
        processes.check_alive(folder, "worker")


def is_alive(process):
    try:
        return process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def test_what_a_killed_run_left_is_ended_and_what_a_living_one_has_is_not():
    code = (
        "import subprocess, sys, time\n"
        "from flows import processes\n"
        "processes.mark_own()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(300)\n"
    )
    owners = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    children = [psutil.Process(int(owner.stdout.readline())) for owner in owners]
    try:
        owners[0].kill()
        owners[0].wait()
        assert children[0].is_running(), "a child does not notice by itself"
        # A run of a test beside this one may have ended it first.
        assert children[1].pid not in processes.end_orphans()
        deadline = time.monotonic() + 60
        while is_alive(children[0]) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_alive(children[0])
        assert is_alive(children[1])
    finally:
        for process in (*owners, *children):
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
