"""Take pictures of every page that usam shows, on a desk and a phone, light and dark; check them.

    python scripts/pages.py demo/project.yaml --out /tmp/pages
    python scripts/pages.py demo/project.yaml --out /tmp/pages --prefect
    python scripts/pages.py demo/project.yaml --out /tmp/pages --page mine=http://127.0.0.1:8000/

The project must have run to its end. Where axe-core is (`npm install -g axe-core`, or USAM_AXE
names its axe.min.js), each page is held against WCAG AA, and the exit status is 1 if one of ours
breaks it; Prefect's own pages are only looked at.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest

from tests.chromium import axe_source, emulate, open_chromium, screenshot, violations
from tests.local_server import LocalServer
from usam_core.config.project import load_project
from usam_core.steps import step_folder

SCREENS = {"desk": (1280, 900, False), "phone": (390, 844, True)}
SCHEMES = ("light", "dark")
SERVED = ("review", "crop")
"""Commands that serve a page and print its address with --json."""
LONGEST = 6000
"""Rows of a picture of a whole page, pixels."""
SECONDS_TO_LOAD = 2.0


@contextlib.contextmanager
def served(command: str, project: Path) -> Iterator[str | None]:
    """Yield the address of a command's page while it serves it; None where it cannot."""
    words = [sys.executable, "-m", "flows", command, str(project), "--json"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
    )
    try:
        lines: list[str] = []
        for line in process.stdout or ():
            lines.append(line)
            if line == "}\n":
                break
        yield json.loads("".join(lines))["page"] if lines else None
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def prefect_pages(project: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Yield the addresses of a run's page and of its artifacts, of a server of their own."""
    local = LocalServer(folder, project)
    up = local.usam("up", str(project), "--port", str(local.port))
    if up.returncode:
        sys.exit(up.stdout + up.stderr)
    try:
        run = local.run("annotate-dataset")
        pages = {"prefect-run": f"{local.page}/v2/runs/flow-run/{run['id']}"}
        made = local.ask("/artifacts/filter", artifacts={"flow_run_id": {"any_": [run["id"]]}})
        for one in made:
            if one["key"]:
                pages[f"prefect-{one['key']}"] = f"{local.page}/v2/artifacts/artifact/{one['id']}"
        yield {"": (local.home / "open.html").as_uri(), **pages}
    finally:
        local.usam("down")


def look(browser, name: str, address: str, out: Path, axe: str | None) -> list[str]:
    """Take the four pictures of a page; return what it breaks."""
    broken = []
    for screen, (width, height, phone) in SCREENS.items():
        for scheme in SCHEMES:
            emulate(browser, width, height, scheme, phone)
            browser.get(address)
            time.sleep(SECONDS_TO_LOAD)
            whole = browser.execute_script("return document.documentElement.scrollHeight")
            emulate(browser, width, max(height, min(whole, LONGEST)), scheme, phone)
            time.sleep(0.5)
            screenshot(browser, out / f"{name}-{screen}-{scheme}.png")
            emulate(browser, width, height, scheme, phone)
            found = violations(browser, axe) if axe else []
            broken += [f"{name}, {screen}, {scheme}: {line}" for line in found]
    return broken


def main() -> None:
    """Open each page, take its pictures, say what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path, help="project.yaml of a finished project")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", action="append", default=[], help="NAME=ADDRESS, another page")
    parser.add_argument("--prefect", action="store_true", help="a run's pages in Prefect too")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        axe = axe_source()
    except pytest.skip.Exception as reason:
        axe = None
        print(f"not checked: {reason}")
    broken: list[str] = []
    with contextlib.ExitStack() as stack:
        profile, home = (stack.enter_context(tempfile.TemporaryDirectory()) for _ in range(2))
        browser = stack.enter_context(open_chromium(profile))
        report = step_folder(load_project(options.project), "report") / "report.html"
        pages = {"report": report.as_uri()}
        for command in SERVED:
            if address := stack.enter_context(served(command, options.project)):
                pages[command] = address
        pages |= dict(page.split("=", 1) for page in options.page)
        for name, address in pages.items():
            broken += look(browser, name, address, options.out, axe)
            print(f"{name}: {address}")
        if options.prefect:
            theirs = stack.enter_context(prefect_pages(options.project.absolute(), Path(home)))
            browser.get(theirs.pop(""))
            time.sleep(SECONDS_TO_LOAD)
            for name, address in theirs.items():
                look(browser, name, address, options.out, None)
                print(f"{name}: {address}")
    print("\n".join(broken) or ("nothing breaks WCAG AA" if axe else ""))
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
