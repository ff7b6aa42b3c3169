"""What to do next: sentences that follow from a run's numbers, what spoils most first."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

FEW_PICTURES = 10
"""Below so many training pictures of a class more of them are the first thing to try."""
_MANY_EMPTY = 0.3
_CONFUSED = 0.2
_WORST_IOU = 0.5
_ENOUGH_TO_DISTIL = 50
_MAX_NAMES = 5


class Advice(NamedTuple):
    """One thing to do: why, and the command or the setting that does it ("" for none)."""

    why: str
    do: str = ""


class Facts(NamedTuple):
    """What advice follows from.

    Attributes:
        file: name of the project file.
        images: how many are labelled.
        classes: as `found.class_rows` gives them.
        coverage: as `found.coverage` gives it.
        kept: training pictures of each class; empty where none are collected.
        metrics: as `sections.metrics_part` gives it; None without truth.
        left_out: images that could not be used.
        rejected: classes of which rejected masks are shown.
        decisions: of a person.
        formats: that are exported.
        distilled: a small model is trained on the labels.
    """

    file: str
    images: int
    classes: Sequence[Mapping[str, Any]]
    coverage: Mapping[str, Any]
    kept: Mapping[str, int]
    metrics: Mapping[str, Any] | None
    left_out: int
    rejected: Sequence[str]
    decisions: int
    formats: Sequence[str]
    distilled: bool


def next_steps(facts: Facts) -> list[Advice]:
    """Say what to do about a run; never nothing."""
    steps = [*_spoilt(facts), *_weak(facts)]
    if any(row["instances"] for row in facts.classes):
        steps += _more(facts)
    return steps


def _spoilt(facts: Facts) -> list[Advice]:
    """What makes a part of the labels useless."""
    steps = []
    if facts.left_out:
        steps.append(
            Advice(f"{_some(facts.left_out, 'image')} could not be used: the reasons stand below.")
        )
    steps += [Advice(f"{note}.") for note in facts.coverage["notes"]]
    silent = [row["name"] for row in facts.classes if not row["instances"]]
    if silent and len(silent) == len(facts.classes):
        return [
            *steps,
            Advice(
                "Nothing was labelled. Look at the training pictures: does each show one object of "
                "its class, and are they like your images? Then try a lower threshold.",
                f"inference: {{threshold: {_lower(facts.classes[0]['threshold'])}}}",
            ),
        ]
    near = [name for name in silent if name in facts.rejected]
    if near:
        limit = next(row["threshold"] for row in facts.classes if row["name"] == near[0])
        steps.append(
            Advice(
                f"No mask of {_names(near)} was kept, but some came near: if those under Samples "
                "look right, lower the threshold.",
                f"inference: {{class_thresholds: {{{near[0]}: {_lower(limit)}}}}}",
            )
        )
    if far := [name for name in silent if name not in near]:
        steps.append(
            Advice(
                f"No mask was like {_names(far)}: are they in your images, and do their training "
                "pictures look like them?"
            )
        )
    return steps


def _weak(facts: Facts) -> list[Advice]:
    """What more pictures, other thresholds or other names would better."""
    steps = []
    few = {name: count for name, count in facts.kept.items() if count < FEW_PICTURES}
    if few:
        told = ", ".join(f"{name} {count}" for name, count in list(few.items())[:_MAX_NAMES])
        steps.append(
            Advice(f"Few training pictures ({told}): tens of each are usual.", _run("run", facts))
        )
    share = facts.coverage["empty_count"] / max(1, facts.images)
    if share > _MANY_EMPTY:
        steps.append(
            Advice(
                f"{share:.0%} of the images have no label. If there is something in them, look at "
                "the rejected masks, and lower inference.threshold."
            )
        )
    if facts.metrics is None:
        return steps
    ious = [(row["iou"], row["class"]) for row in facts.metrics["rows"] if row["iou"] is not None]
    if ious and min(ious)[0] < _WORST_IOU:
        steps.append(
            Advice(f"{min(ious)[1]} is found worst (IoU {min(ious)[0]:.2f}): begin with it.")
        )
    pairs = [
        p for p in facts.metrics["pairs"] if p["share"] > _CONFUSED and p["label"] != p["truth"]
    ]
    named = {row["name"] for row in facts.classes}
    mixed = [pair for pair in pairs if {pair["truth"], pair["label"]} <= named]
    return steps + [
        Advice(
            f"{pair['share']:.0%} of the pixels of {pair['truth']} are labelled {pair['label']}: "
            "add pictures that tell them apart, or label both as one level, by a parent."
        )
        for pair in mixed[:1]
    ]


def _more(facts: Facts) -> list[Advice]:
    """What comes after a run that labelled something."""
    steps = []
    if not facts.decisions:
        steps.append(Advice("Look at the most doubtful masks, and decide.", _run("review", facts)))
    else:
        steps.append(
            Advice(
                f"{_some(facts.decisions, 'decision')} of a person so far: decide on more, then "
                "run again.",
                _run("review", facts),
            )
        )
    if facts.metrics is None:
        steps.append(
            Advice(
                "Nothing was measured against truth. What was decided says how often each class is "
                "right.",
                f"usam review {facts.file} --summary",
            )
        )
    if not facts.formats:
        steps.append(
            Advice(
                "Take the labels to another program: YOLO, CVAT, Label Studio, ImageJ and others.",
                f"usam export {facts.file} --format yolo",
            )
        )
    if not facts.distilled and facts.images >= _ENOUGH_TO_DISTIL:
        steps.append(
            Advice(
                "Train a small, fast model on the labels, for new images.", _run("distill", facts)
            )
        )
    return steps


def _run(command: str, facts: Facts) -> str:
    return f"usam {command} {facts.file}"


def _lower(threshold: float) -> float:
    return round(max(0.05, threshold / 2), 2)


def _some(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
