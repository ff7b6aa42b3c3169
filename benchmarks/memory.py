"""The most memory that a process has had since one asked, for benchmarks. Linux only."""

from pathlib import Path

_OF_PROCESS = Path("/proc/self")


def forget_peak() -> None:
    """Begin anew: the peak is what is in use now."""
    (_OF_PROCESS / "clear_refs").write_text("5")


def peak_mib() -> float:
    """Return the peak, MiB; not `ru_maxrss`, which begins with that of the parent process."""
    status = (_OF_PROCESS / "status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
