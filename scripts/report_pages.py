"""Make the pictures of docs/report.md: the report of drawn scenes, as a browser shows it.

    python scripts/report_pages.py --out /tmp/pages

The demo's project, with fewer scenes, pictures and prompts, is run twice, the second time with
another threshold. Minutes of SAM on a CPU; run again, only what is missing is done.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import yaml
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.chromium import emulate, open_chromium, screenshot
from usam_core.config.project import Project, load_project
from usam_core.demo import prepare_demo
from usam_core.steps import STEPS, run_step

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SCENES, PICTURES, HELD_OUT, SIDE = 10, 6, 10, 6
COLORS = 128
"""Flat pages need no more, and the files are a third as large."""


def run_twice(folder: Path) -> Path:
    """Run the project with two thresholds; return the second report."""
    file = folder / "project.yaml"
    if not file.exists():
        prepare_demo(folder, SCENES, PICTURES)
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
        values["sam"] = {"points_per_side": SIDE}
        values["compose"]["held_out_scenes"] = HELD_OUT
        file.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    project = load_project(file)
    for threshold in (0.6, 0.45):
        inference = project.config.inference.model_copy(update={"threshold": threshold})
        config = project.config.model_copy(update={"inference": inference})
        for step in STEPS:
            result = run_step(step, Project(config, project.file))
            sys.stdout.write(f"{threshold}: {step}\n")
    return Path(result.path)


def main() -> None:
    """Run the project and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    page = run_twice(parser.parse_args().out)
    views = (
        ("report-light.png", 1000, 1250, "light", False, ""),
        ("report-samples.png", 1000, 1100, "light", False, "samples"),
        ("report-changes.png", 1000, 1250, "dark", False, "difference"),
        ("report-phone.png", 390, 1250, "dark", True, "coverage"),
    )
    with tempfile.TemporaryDirectory() as profile, open_chromium(profile) as browser:
        for name, width, height, scheme, phone, anchor in views:
            emulate(browser, width, height, scheme, phone)
            browser.get(page.as_uri())
            if anchor:
                browser.execute_script(
                    "document.getElementById(arguments[0]).scrollIntoView()", anchor
                )
            browser.execute_async_script("setTimeout(arguments[0], 1000)")  # pictures come in
            screenshot(browser, IMAGES / name)
            with Image.open(IMAGES / name) as seen:
                small = seen.convert("RGB").quantize(COLORS)
            small.save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
