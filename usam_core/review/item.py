"""One listed mask, as a person judges it."""

from dataclasses import dataclass, field

from usam_core.files.digest import value_digest
from usam_core.labels.image import Instance
from usam_core.review.decisions import Decision, mask_id


@dataclass(slots=True)
class Item:
    """A mask that `annotate` has listed, with what makes it doubtful.

    Attributes:
        sha256: digest of the image.
        file_name: the image's name as it is listed.
        name: what the head calls the mask, whatever a person has said.
        instance: the mask; its class index may be a person's, `name` is the head's.
        doubt: measures of doubt by name, larger is more doubtful.
        decision: what a person has said, if anything.
        id: names the mask, whichever run lists it.
        draw: its place in the order of chance, 0 to 2^63 - 1.
    """

    sha256: str
    file_name: str
    name: str
    instance: Instance
    doubt: dict[str, float] = field(default_factory=dict)
    decision: Decision | None = None
    id: str = ""
    draw: int = 0

    def __post_init__(self) -> None:
        self.id = mask_id(self.sha256, self.instance.rle)
        self.draw = int(value_digest(["drawn", self.id])[:16], 16) >> 1
