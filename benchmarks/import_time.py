"""How long `import usam_core` and `usam --help` take in a new process: the best of some runs."""

import argparse
import subprocess
import sys
import time

COMMANDS = {
    "python, for comparison": ["-c", "pass"],
    "import usam_core": ["-c", "import usam_core"],
    "usam --help": ["-m", "flows", "--help"],
}


def seconds(arguments: list[str], times: int) -> float:
    """Return the shortest of some runs of Python, from start to end, seconds."""
    found = []
    for _ in range(times):
        began = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return min(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5, help="how often each is run")
    options = parser.parse_args()
    for name, arguments in COMMANDS.items():
        print(f"{name:24} {seconds(arguments, options.times):.2f} s")
