"""The quality gate: whether a finished run may be trusted, compared with those before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from usam_core.config.schema import GateConfig

COVERED = 0.9
"""A class that takes more than this share of an image covers it."""
_MIN_SHARE = 0.001
"""A class that covers less of the images than this may come and go."""


@dataclass(frozen=True, slots=True)
class RunStatistics:
    """What a run is judged by.

    Attributes:
        key: of the annotate step: the same labels are judged once.
        images: how many were labelled.
        quarantined: share of all images that could not be used, 0 to 1.
        class_share: share of all pixels that each class's instances cover, by name.
        mean_score: mean score of all instances, or None where there are none.
        miou: against truth, or None where there is none.
        covered: how many images each class covers nearly whole, by name.
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
    """A reason not to trust a run.

    Attributes:
        check: the setting of `gate` that failed.
        reason: what came, what was expected.
        class_name: the class it is about, if it is about one.
    """

    check: str
    reason: str
    class_name: str | None = None


def judge(
    now: RunStatistics, before: Sequence[RunStatistics], config: GateConfig
) -> list[Objection]:
    """Return every objection to a run; none means that it passes.

    Args:
        now: the run.
        before: earlier runs that passed, oldest first; the last `config.history` count.
        config: the thresholds.
    """
    last = list(before)[-config.history :]
    found: list[Objection] = []
    if config.max_quarantined is not None and now.quarantined > config.max_quarantined:
        found.append(
            Objection(
                "max_quarantined",
                f"{now.quarantined:.1%} of the images are quarantined; "
                f"at most {config.max_quarantined:.1%} are allowed",
            )
        )
    if config.max_covered is not None:
        told = covers_too_much(now.covered, now.images, config.max_covered)
        found += [Objection("max_covered", reason) for reason in told]
    if config.min_miou is not None and now.miou is not None and now.miou < config.min_miou:
        found.append(
            Objection("min_miou", f"mIoU is {now.miou:.3f}; expected {config.min_miou:.3f} or more")
        )
    if last:
        found += _drops(now, last, config)
        if config.max_share_change is not None:
            found += _share_changes(now, last, config.max_share_change)
    return found


def covers_too_much(covered: Mapping[str, int], images: int, most: float = 0.5) -> list[str]:
    """Return a sentence for each class that covers more than a share of all images nearly whole.

    Args:
        covered: how many images each class covers, by name.
        images: how many there are.
        most: the share that is no reason for doubt, 0 to 1.
    """
    return [
        f"{name} covers over {COVERED:.0%} of the pixels of {count} of {images} images, as if it "
        "were all there is; add a class, or `negatives:`, for what else the images show, or more "
        "pictures of it: at least 5, tens are usual. A higher inference.threshold, such as 0.9, "
        "helps where there are so many, or two names; a higher head.familiar where there are so "
        "many (if it is so: `gate: {max_covered: null}`)"
        for name, count in sorted(covered.items())
        if count > most * images
    ]


def _drops(
    now: RunStatistics, last: Sequence[RunStatistics], config: GateConfig
) -> list[Objection]:
    checks = (
        ("max_confidence_drop", "mean score", config.max_confidence_drop, "mean_score"),
        ("max_miou_drop", "mIoU", config.max_miou_drop, "miou"),
    )
    found = []
    for check, words, most, name in checks:
        value = getattr(now, name)
        if value is None and check == "max_confidence_drop":
            value = 0.0  # not one instance: nothing was found with any confidence
        values = [v for run in last if (v := getattr(run, name)) is not None]
        if most is None or value is None or not values:
            continue
        usual = median(values)
        if usual - value > most:
            found.append(
                Objection(
                    check,
                    f"{words} is {value:.3f}, the median of the last {len(values)} runs is "
                    f"{usual:.3f}; a drop of {most:g} is allowed",
                )
            )
    return found


def _share_changes(
    now: RunStatistics, last: Sequence[RunStatistics], most: float
) -> list[Objection]:
    found = []
    for name in sorted({*now.class_share, *(n for run in last for n in run.class_share)}):
        share = now.class_share.get(name, 0.0)
        usual = median(run.class_share.get(name, 0.0) for run in last)
        low, high = sorted((max(share, _MIN_SHARE), max(usual, _MIN_SHARE)))
        if high > most * low:
            found.append(
                Objection(
                    "max_share_change",
                    f"{name} covers {share:.2%} of the images, the median of the last {len(last)} "
                    f"runs is {usual:.2%}; a factor of {most:g} is allowed",
                    name,
                )
            )
    return found
