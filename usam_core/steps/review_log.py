"""The project's log of decisions about masks, and what of it concerns which image."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from usam_core.files.digest import file_digest, value_digest
from usam_core.lineage.document import portable
from usam_core.review.decisions import Decision, read_all, read_log, standing
from usam_core.steps.base import Input, Inputs


def decisions_file(out: Path) -> Path:
    """Where decisions are kept below a project's results: one log for classes and parents."""
    return out / "review" / "decisions.jsonl"


def decided(out: Path) -> dict[str, list[Decision]]:
    """The decisions that stand, by the digest of their image, oldest first."""
    by_image: dict[str, list[Decision]] = {}
    for decision in standing(read_all(decisions_file(out))):
        by_image.setdefault(decision.sha256, []).append(decision)
    return by_image


def decision_inputs(out: Path, root: Path) -> Inputs:
    """A person's decisions as an input of a step; nothing where there are none.

    Args:
        out: the folder of the project's results.
    """
    decisions = [one for of_image in decided(out).values() for one in of_image]
    if not decisions:
        return {}
    log, sha256 = decisions_file(out), decisions_digest(decisions)

    def lineage() -> dict[str, Any]:
        return {
            "path": portable(log, root),
            "count": len(decisions),
            "sha256": sha256,
            # Lines are only ever added: so far the log must stay as it is.
            "log_bytes": log.stat().st_size,
            "log_sha256": file_digest(log),
        }

    return {"decisions": Input(sha256, lineage)}


def notes_on_decisions(out: Path) -> list[str]:
    """Which lines of the log hold no decision, if there are any."""
    file = decisions_file(out)
    _, bad = read_log(file)
    if not bad:
        return []
    listed = ", ".join(map(str, bad[:10])) + (" and more" if len(bad) > 10 else "")
    return [
        f"{file}: {len(bad)} lines hold no decision and are left out, they stay in the file: line "
        f"{listed}"
    ]


def decisions_digest(decisions: Iterable[Decision]) -> str:
    """Digest of what decisions say, whenever it was said."""
    return value_digest(
        sorted(
            [d.sha256, d.prompt, d.mask["counts"], d.head_class, d.label or "", d.label is None]
            for d in decisions
        )
    )
