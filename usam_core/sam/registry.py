"""The SAM checkpoints: where the bundled one lies; the official ones' address, size, digest."""

from dataclasses import dataclass
from pathlib import Path

NANO_WEIGHTS = Path(__file__).parent / "weights" / "nano_sam.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published checkpoint.

    Attributes:
        model: `vit_b`, `vit_l` or `vit_h`.
        url: where its publisher serves it.
        bytes: size of the file.
        sha256: digest of the file.
    """

    model: str
    url: str
    bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Return the official file name."""
        return self.url.rsplit("/", 1)[1]


_HOME = "https://dl.fbaipublicfiles.com/segment_anything"

OFFICIAL: dict[str, Checkpoint] = {
    checkpoint.model: checkpoint
    for checkpoint in (
        Checkpoint(
            "vit_b",
            f"{_HOME}/sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        Checkpoint(
            "vit_l",
            f"{_HOME}/sam_vit_l_0b3195.pth",
            1_249_524_607,
            "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        ),
        Checkpoint(
            "vit_h",
            f"{_HOME}/sam_vit_h_4b8939.pth",
            2_564_550_879,
            "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        ),
    )
}
"""The three sizes, by model name."""
