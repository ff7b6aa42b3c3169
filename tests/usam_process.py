"""`usam`, or Python, in processes of their own, without seconds of imports for each.

A server imports the libraries once and forks a process for every command. What a test asks of the
imports themselves, or of the environment that a process was started with, needs `python -m flows`.
"""

import atexit
import multiprocessing
import os
import pkgutil
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired

from usam_core import steps

_FORKS = multiprocessing.get_context("forkserver")
_STEPS = [f"usam_core.steps.{found.name}" for found in pkgutil.iter_modules(steps.__path__)]
_FORKS.set_forkserver_preload(["flows.cli", *_STEPS])


class Started:
    """A command of `usam` that runs, or Python code with these words as `sys.argv[1:]`.

    Variables are added to the environment, or taken from it by None.
    """

    def __init__(self, *words, code=None, cwd=None, **variables):
        self.words = [str(word) for word in words]
        self._place = tempfile.TemporaryDirectory(prefix="usam-test-")
        self._files = [Path(self._place.name, name) for name in ("stdout", "stderr")]
        environment = {**os.environ, **variables}
        environment = {name: value for name, value in environment.items() if value is not None}
        files = [str(file) for file in self._files]
        self.process = _FORKS.Process(
            target=_main, args=(self.words, code, str(cwd or os.getcwd()), environment, files)
        )
        self.process.start()

    def printed(self):
        """Return what it has printed so far."""
        return self._files[0].read_text(encoding="utf-8") if self._files[0].exists() else ""

    def kill(self):
        self.process.kill()
        self.process.join()

    def wait(self, timeout=300):
        """Return how it ended, and what it printed."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutExpired(self.words, timeout)
        out, err = (file.read_text(encoding="utf-8") for file in self._files)
        self._place.cleanup()
        return CompletedProcess(self.words, self.process.exitcode, out, err)


def usam(*words, cwd=None, timeout=300, **variables):
    """Run a command to its end."""
    return Started(*words, cwd=cwd, **variables).wait(timeout)


def python(code, *words, cwd=None, timeout=300, **variables):
    """Run Python code to its end."""
    return Started(*words, code=code, cwd=cwd, **variables).wait(timeout)


def _main(words, code, cwd, environment, files):
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["usam", *words]
    from flows.cli import main

    try:
        main() if code is None else exec(code, {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()  # which a forked process leaves out
