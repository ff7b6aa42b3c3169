"""What each setting is worth on a project that has truth: one row a variant.

    usam demo --out demo && python benchmarks/variants.py demo/project.yaml benchmarks/variants.yaml

Each row of the YAML file names settings that differ from the project's own. The stored embeddings
serve all rows; outputs go to `variants/` beside the project file, the project's own stay.
"""

import argparse
import time
from datetime import date
from pathlib import Path

import torch
import yaml
from photographs import merged

from usam_core.config.project import Project, load_project
from usam_core.config.schema import ProjectConfig
from usam_core.steps import STEPS, run_step


def measure(project: Project, changes: dict) -> tuple[dict, float]:
    """Run one variant; return its evaluation's summary and the seconds it took."""
    own = {"outputs": {"path": "variants", "store": str(project.store_root), "overlays": 0}}
    settings = merged(merged(project.config.model_dump(mode="json"), own), changes)
    variant = Project(ProjectConfig.model_validate(settings), project.file)
    start = time.monotonic()
    results = [run_step(step, variant) for step in STEPS]
    return results[-1].summary, time.monotonic() - start


def main() -> None:
    """Parse the command line, measure every row, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("variants", type=Path)
    args = parser.parse_args()
    project = load_project(args.project)
    print(f"{date.today()}, torch {torch.__version__}, seed {project.config.seed}\n")
    print("| variant | mIoU | mIoU, common | mAP50 | false positives | seconds |")
    print("|---|---|---|---|---|---|")
    for name, changes in yaml.safe_load(args.variants.read_text()).items():
        scores, seconds = measure(project, changes or {})
        numbers = [scores[key] for key in ("miou", "miou_common", "map50", "false_positive_rate")]
        cells = " | ".join("-" if value is None else f"{100 * value:.1f}" for value in numbers)
        print(f"| {name} | {cells} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
