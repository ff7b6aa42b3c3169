"""The quality gate: whether a finished run may be trusted, compared with those before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from usam_core.config.results import GateConfig

COVERED = 0.9
"""A class that takes more than this share of an image covers it."""
_MIN_SHARE = 0.001
"""A class that covers less of the images than this may come and go."""


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """What a run is judged by.

    Attributes:
        key: of the annotate step: the same labels are judged once.
        images: number of labelled images.
        quarantined: share of all images that could not be used, 0 to 1.
        class_share: share of all pixels that each class's instances cover, by name.
        mean_score: mean score of all instances, or None where there are none.
        miou: against truth, or None where there is none.
        covered: number of images that each class covers nearly whole, by name.
    """

    key: str
    images: int
    quarantined: float
    class_share: dict[str, float] = field(default_factory=dict)
    mean_score: float | None = None
    miou: float | None = None
    covered: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Objection:
    """A reason not to trust a run: the setting of `gate` that failed, a sentence, the class."""

    check: str
    reason: str
    class_name: str | None = None


def judge(
    now: RunStatistics, before: Sequence[RunStatistics], config: GateConfig
) -> list[Objection]:
    """Every objection to a run; none means that it passes.

    Args:
        now: the run.
        before: earlier runs that passed, oldest first; the last `config.history` count.
        config: the thresholds.
    """
    objections = []
    if config.max_quarantined is not None and now.quarantined > config.max_quarantined:
        reason = (
            f"{now.quarantined:.1%} of the images are quarantined; "
            f"at most {config.max_quarantined:.1%} are allowed"
        )
        objections.append(Objection("max_quarantined", reason))
    if config.max_covered is not None:
        reasons = covers_too_much(now.covered, now.images, config.max_covered)
        objections += [Objection("max_covered", reason) for reason in reasons]
    if config.min_miou is not None and now.miou is not None and now.miou < config.min_miou:
        reason = f"mIoU is {now.miou:.3f}; expected {config.min_miou:.3f} or more"
        objections.append(Objection("min_miou", reason))
    if last := list(before)[-config.history :]:
        # Without one instance, nothing was found with any confidence.
        scores = [now.mean_score or 0.0, *(run.mean_score for run in last)]
        objections += _drop("max_confidence_drop", "mean score", config.max_confidence_drop, scores)
        mious = [now.miou, *(run.miou for run in last)]
        objections += _drop("max_miou_drop", "mIoU", config.max_miou_drop, mious)
        if config.max_share_change is not None:
            objections += _share_changes(now, last, config.max_share_change)
    return objections


def covers_too_much(covered: Mapping[str, int], images: int, max_share: float = 0.5) -> list[str]:
    """A sentence for each class that covers nearly whole more than `max_share` of all images.

    `covered` is the number of images that each class covers, by name.
    """
    return [
        f"{name} covers over {COVERED:.0%} of the pixels of {count} of {images} images, as if it "
        "were all there is; add a class, or `negatives:`, for what else the images show, or more "
        "pictures of it: at least 5, tens are usual. A higher inference.threshold, such as 0.9, "
        "helps where there are so many, or two names; a higher head.familiar where there are so "
        "many (if it is so: `gate: {max_covered: null}`)"
        for name, count in sorted(covered.items())
        if count > max_share * images
    ]


def _drop(
    check: str, words: str, max_drop: float | None, values: Sequence[float | None]
) -> list[Objection]:
    """An objection if the first value lies more than `max_drop` below the others' median."""
    now, before = values[0], [value for value in values[1:] if value is not None]
    if max_drop is None or now is None or not before or (usual := median(before)) - now <= max_drop:
        return []
    reason = (
        f"{words} is {now:.3f}, the median of the last {len(before)} runs is "
        f"{usual:.3f}; a drop of {max_drop:g} is allowed"
    )
    return [Objection(check, reason)]


def _share_changes(
    now: RunStatistics, last: Sequence[RunStatistics], max_factor: float
) -> list[Objection]:
    objections = []
    for name in sorted({*now.class_share, *(n for run in last for n in run.class_share)}):
        share = now.class_share.get(name, 0.0)
        usual = median(run.class_share.get(name, 0.0) for run in last)
        low, high = sorted((max(share, _MIN_SHARE), max(usual, _MIN_SHARE)))
        if high > max_factor * low:
            reason = (
                f"{name} covers {share:.2%} of the images, the median of the last {len(last)} "
                f"runs is {usual:.2%}; a factor of {max_factor:g} is allowed"
            )
            objections.append(Objection("max_share_change", reason, name))
    return objections
