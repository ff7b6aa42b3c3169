"""The project's log of decisions about masks, and what of it concerns which image."""

from collections.abc import Iterable
from pathlib import Path

from usam_core.config.project import Project
from usam_core.files.digest import value_digest
from usam_core.review.decisions import Decision, read_all, read_log, standing

DECISIONS = "decisions.jsonl"


def decisions_file(project: Project) -> Path:
    """Return where decisions are kept, there or not: one log for classes and parents."""
    return project.out / "review" / DECISIONS


def decided(project: Project) -> dict[str, list[Decision]]:
    """Return the decisions that stand, by the digest of their image, oldest first."""
    found: dict[str, list[Decision]] = {}
    for decision in standing(read_all(decisions_file(project))):
        found.setdefault(decision.sha256, []).append(decision)
    return found


def notes_on_decisions(project: Project) -> list[str]:
    """Say which lines of the log hold no decision, if there are any."""
    file = decisions_file(project)
    _, bad = read_log(file)
    if not bad:
        return []
    listed = ", ".join(map(str, bad[:10])) + (" and more" if len(bad) > 10 else "")
    return [
        f"{file}: {len(bad)} lines hold no decision and are left out, they stay in the file: line "
        f"{listed}"
    ]


def decisions_digest(decisions: Iterable[Decision]) -> str:
    """Return a digest of what decisions say, whenever it was said."""
    return value_digest(
        sorted(
            [d.sha256, d.prompt, d.mask["counts"], d.head_class, d.label or "", d.label is None]
            for d in decisions
        )
    )
