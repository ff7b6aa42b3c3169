"""The steps, and the one interface through which the command line and the tasks run them.

To add a step: a module `usam_core/steps/NAME.py` with what `base.StepModule` names, and an entry
here. Its key, record, lineage, command, flow and form are derived; its block in prefect.yaml and
its rows in the docs are written by hand, and tests compare them.

A step's key is the digest of its code and its inputs; a step whose record has the same key and
whose outputs are undamaged is not run again.
"""

from typing import TYPE_CHECKING, Any

from usam_core.steps.base import Input, Step, StepResult, listed_once, step_folder

if TYPE_CHECKING:
    from usam_core.steps.running import code_revision, intact, run_step, step_key

__all__ = [
    "STEPS",
    "Input",
    "Step",
    "StepResult",
    "code_revision",
    "intact",
    "listed_once",
    "run_step",
    "step_folder",
    "step_key",
    "steps_table",
]

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            "collect",
            "Get single-object pictures of every class, filter them, and list where they came "
            "from.",
            settings=("classes", "negatives", "training", "images"),
            refresh="Drop the pictures that were made or fetched, and begin anew.",
            kept="the pictures that are there",
        ),
        Step(
            "embed",
            "Run SAM once over every image that the store does not have yet.",
            parents=("collect",),
            settings=("sam", "images"),
            refresh="Remove what the store has of the project's images, and embed all again.",
            stored=True,
            kept="every image that went through SAM",
        ),
        Step(
            "compose",
            "Put cut-out objects together to scenes with known truth, and embed them.",
            parents=("collect", "embed"),
            settings=("classes", "negatives", "compose", "images"),
            stored=True,
            kept="every scene that went through SAM",
        ),
        Step(
            "describe",
            "Make the blocks of `features:` for every embedded image that lacks them; SAM is not "
            "run.",
            parents=("collect", "embed", "compose"),
            settings=("features", "sam", "images"),
            wanted=lambda config: bool(config.features),
            stored=True,
            kept="the images that are described",
        ),
        Step(
            "fit",
            "Learn the head from the training pictures' embeddings; embeds nothing.",
            parents=("collect", "embed", "compose", "describe"),
            settings=("classes", "negatives", "level", "head"),
        ),
        Step(
            "calibrate",
            "Fit probabilities, thresholds and presence to held-out composed scenes; no labels "
            "needed.",
            parents=("fit", "compose", "describe"),
            settings=("classes", "level", "inference"),
        ),
        Step(
            "annotate",
            "Label every image: COCO JSON, palette PNGs, overlays, lineage.json.",
            parents=("fit", "calibrate", "embed", "describe"),
            settings=("classes", "level", "inference", "outputs", "images"),
            kept="the images that are labelled",
        ),
        Step(
            "evaluate",
            "Measure the labels against truth: mIoU, mAP50, false positives, a contact sheet.",
            parents=("annotate",),
            settings=("classes", "level", "evaluation"),
            table="per_class.csv",
            wanted=lambda config: config.evaluation is not None,
        ),
        Step(
            "export",
            "Write the labels for other programs; files that a person has changed are kept.",
            parents=("annotate",),
            settings=("classes", "level", "outputs"),
            wanted=lambda config: bool(config.outputs.formats),
            kept="the files that are written",
        ),
        Step(
            "distill",
            "Train a small, fast model on the labels, measure it beside them, write it as ONNX.",
            parents=("annotate",),
            settings=("classes", "level", "distill"),
            table="student.csv",
            wanted=lambda config: config.distill is not None,
        ),
        Step(
            "report",
            "Write one HTML file that shows a run: what was done, what came out, what changed.",
            parents=("annotate", "evaluate"),
            settings=("report",),
            wanted=lambda config: config.report.enabled,
        ),
    )
}
"""Every step by its name, in their order."""


def __getattr__(name: str) -> Any:
    # What runs steps reads projects with pydantic, YAML and NumPy: `usam --help` does without.
    if name not in ("code_revision", "intact", "run_step", "step_key"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from usam_core.steps import running

    return getattr(running, name)


def steps_table() -> str:
    """The steps as a table in Markdown, as docs/prefect.md has it."""
    rows = [
        f"| `{step.name}` | {step.title} | {', '.join(step.parents)} |" for step in STEPS.values()
    ]
    return "\n".join(["| step | does | made from |", "| --- | --- | --- |", *rows])
