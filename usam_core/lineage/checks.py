"""Compares a chain with the disk: is everything still what the documents say it was?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from usam_core.errors import StoreError
from usam_core.lineage import check_links
from usam_core.lineage.chain import Chain, entries
from usam_core.lineage.check_output import output_checks
from usam_core.lineage.compare import Broken
from usam_core.progress import SILENT, Progress

Verdict = Literal["ok", "broken", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check.

    Attributes:
        link: key of `Chain.links`; None for the output itself.
        name: a fact of the link, or one of "file", "image", "masks", "outputs", "lineage".
        verdict: whether it is as it was; unknown where there is nothing to compare with.
        text: what was compared; for a broken one what came, what was expected, and the fix.
    """

    link: tuple[str, str | None] | None
    name: str
    verdict: Verdict
    text: str


def check_chain(chain: Chain, progress: Progress = SILENT) -> list[Finding]:
    """Check every link of a chain; it takes the time of reading the files it speaks of.

    For a label PNG or an overlay that is one image; else all images and label PNGs of the step.
    """
    found = [_finding(None, name, check) for name, check in output_checks(chain).items()]
    for key, link in chain.links.items():
        found.append(_finding(key, "lineage", partial(check_links.check_document, chain, link)))
        if link.document is None:
            continue
        if link.step == "annotate" and chain.subject.entry is None:
            whole = partial(check_links.check_labels_of_all, chain, link, progress)
            found.append(_finding(key, "outputs", whole))
        for name, entry in entries(link.document).items():
            if name in check_links.CHECKS:
                check = partial(check_links.CHECKS[name], chain, link, entry, progress)
                found.append(_finding(key, name, check))
    return found


def _finding(
    link: tuple[str, str | None] | None, name: str, check: Callable[[], str | None]
) -> Finding:
    try:
        text = check()
    except (Broken, StoreError) as error:
        return Finding(link, name, "broken", str(error))
    except (OSError, ValueError, KeyError, TypeError) as error:
        # Whatever a damaged JSON or Parquet file makes of itself.
        return Finding(link, name, "broken", f"cannot be read: {error!r}")
    return Finding(link, name, "unknown" if text is None else "ok", text or "")
