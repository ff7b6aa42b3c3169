"""One listed mask, as a person judges it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from usam_core.files.digest import value_digest
from usam_core.review.decisions import Decision, mask_id


@dataclass(slots=True)
class Item:
    """A mask that `annotate` has listed, with what makes it doubtful.

    Attributes:
        sha256: digest of the image.
        file_name: the image's name as it is listed.
        name: what the head calls the mask, whatever a person has said.
        record: of `annotate`: segmentation, bbox, score, probability, entropy, prompt.
        doubt: measures of doubt by name, larger is more doubtful.
        decision: what a person has said, if anything.
        id: names the mask, whichever run lists it.
        draw: its place in the order of chance, 0 to 2^63 - 1.
    """

    sha256: str
    file_name: str
    name: str
    record: Mapping[str, Any]
    doubt: dict[str, float] = field(default_factory=dict)
    decision: Decision | None = None
    id: str = ""
    draw: int = 0

    def __post_init__(self) -> None:
        self.id = mask_id(self.sha256, self.record["segmentation"])
        self.draw = int(value_digest(["drawn", self.id])[:16], 16) >> 1
