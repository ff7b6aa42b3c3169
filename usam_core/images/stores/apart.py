"""Decoding in a process that may die: for decoders that crash on hostile bytes, or fill memory.

Few pictures are of such kinds. One process for all of them stays until this one ends or a picture
kills it; then the next picture starts another.
"""

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any, TypeVar

from usam_core.images.errors import UnusableImage, library_verdicts

_T = TypeVar("_T")

_SECONDS = 120.0
"""A call that takes longer is taken for one that never ends."""
_SPARE_BYTES = 2**29
"""Memory that decoding may take beside several times its result."""
_TIMES = 4
_CODE = f"from {__name__} import serve; serve()"

_lock = threading.Lock()
_child: subprocess.Popen[bytes] | None = None


def apart(address: str, max_bytes: int, function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a module's function in another process; it and its arguments are pickled.

    Args:
        address: of the picture, for the verdict.
        max_bytes: of the result; several times these may be taken.
        function, arguments: the call.

    Raises:
        UnusableImage: what went wrong in there, or the end of the process.
    """
    with _lock:
        child, questions, answers = _running()
        timer = threading.Timer(_SECONDS, child.kill)
        timer.start()
        try:
            _send(questions, (address, max_bytes, function, arguments))
            code, result = pickle.load(answers)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            _end()
            raise UnusableImage(
                "undecodable",
                f"{address}: its decoder crashed, or took more than {_SECONDS:g} seconds; the "
                "file is damaged or made to do harm. Save it again as PNG or TIFF",
            ) from error
        finally:
            timer.cancel()
    if code:
        raise UnusableImage(code, result)
    return result


def serve() -> None:
    """Answer calls from the standard input until it ends."""
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            address, max_bytes, function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        _limit(_SPARE_BYTES + _TIMES * max_bytes)
        try:
            with library_verdicts(address):
                answer: tuple[str, Any] = "", function(*arguments)
        except UnusableImage as error:
            answer = error.quarantined.code, error.quarantined.reason
        _send(answers, answer)


def _running() -> tuple[subprocess.Popen[bytes], IO[bytes], IO[bytes]]:
    """Return the process, and its standard input and output."""
    global _child
    if _child is None or _child.poll() is not None:
        _end()
        _child = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    assert _child.stdin is not None
    assert _child.stdout is not None
    return _child, _child.stdin, _child.stdout


@atexit.register
def _end() -> None:
    global _child
    if _child is not None:
        _child.kill()
        _child.wait()
        for stream in (_child.stdin, _child.stdout):
            if stream is not None:
                stream.close()
    _child = None


def _forget() -> None:
    """In a forked process: the child is another's."""
    global _child, _lock
    _child, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _send(stream: IO[bytes], message: Any) -> None:
    pickle.dump(message, stream, pickle.HIGHEST_PROTOCOL)
    stream.flush()


def _limit(more_bytes: int) -> None:
    """Let this process take so many bytes more; systems that cannot tell have no limit."""
    try:
        import resource

        with open("/proc/self/status", encoding="ascii") as file:
            now = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (now + more_bytes, hard))
    except (ImportError, OSError, ValueError, StopIteration):
        return
