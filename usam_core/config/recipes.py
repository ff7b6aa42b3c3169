"""Recipes: settings that go together under one word, and what each asks of a machine.

`papers` is the method as printed (`schema.PAPERS`) and lets nothing of ours in; the others fill in
what a project does not say itself. Sizes of downloads are about right: none was downloaded where
this was written, and none of these recipes has met real weights (docs/recipes.md).
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Part:
    """One model of a recipe.

    Attributes:
        what: what it is for.
        model: hub id, or the name of `sam.model`.
        megabytes: of the download.
        licence: short.
        gated: its owner asks for an agreement first.
        width: f, numbers of its vector of a mask; 0 of a SAM that is not pooled.
        core_seconds: an image on one core of an AMD EPYC, random weights, float32
            (`benchmarks/sams.py`).
    """

    what: str
    model: str
    megabytes: int
    licence: str
    core_seconds: float
    gated: bool = False
    width: int = 0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings, the models they need, and for whom they are.

    `mask_side` is that of its SAM's masks; `gpu_gb` the GPU memory that it wants, 0: none.
    """

    summary: str
    parts: tuple[Part, ...]
    settings: dict[str, Any]
    mask_side: int
    gpu_gb: int = 0

    @property
    def megabytes(self) -> int:
        """Of all downloads."""
        return sum(part.megabytes for part in self.parts)

    @property
    def licences(self) -> list[str]:
        """Each licence once."""
        every = ", ".join(part.licence for part in self.parts)
        return list(dict.fromkeys(every.split(", ")))

    @property
    def gated(self) -> list[str]:
        """Models whose owner asks for an agreement first."""
        return [part.model for part in self.parts if part.gated]

    @property
    def core_seconds(self) -> float:
        """An image on one core."""
        return sum(part.core_seconds for part in self.parts)

    @property
    def store_bytes(self) -> int:
        """An image's embeddings before compression, which halves them at least; 100 points."""
        masks = 4 * self.mask_side * self.mask_side // 8 + 4 * (4 + 4)
        vectors = sum(part.width for part in self.parts)
        return 100 * (masks + 2 * 4 * vectors + 2 * 4 * 256)


_DINOV2_SMALL = Part("looks", "facebook/dinov2-small", 88, "Apache-2.0", 1.0, width=384)
_DINOV2_BASE = Part("looks", "facebook/dinov2-base", 346, "Apache-2.0", 3.0, width=768)
_DINOV2_LARGE = Part(
    "looks", "facebook/dinov2-with-registers-large", 1217, "Apache-2.0", 10.8, width=1024
)
_DINOV3_LARGE = Part(
    *("looks", "facebook/dinov3-vitl16-pretrain-lvd1689m", 1213, "DINOv3 Licence", 20.0),
    gated=True,
    width=1024,
)
_TIPSV2 = Part("names", "google/tipsv2-l14", 1950, "Apache-2.0", 7.1, width=1024)


def _settings(sam: str, looks: Part, names: Part | None = None) -> dict[str, Any]:
    head: dict[str, Any] = {"features": ["looks"]}
    features: dict[str, Any] = {"looks": {"model": looks.model}}
    if looks is _DINOV3_LARGE:
        features["looks"]["image_size"] = 768  # it was trained at 224, and is used at far more
    if names is not None:
        features["names"] = {"model": names.model}
        head |= {"text": "fuse", "text_block": "names"}
    return {"sam": {"model": sam}, "features": features, "head": head}


def _sam(name: str, megabytes: int, core_seconds: float, width: int = 256) -> Part:
    return Part("masks", name, megabytes, "Apache-2.0", core_seconds, width=width)


RECIPES = {
    "laptop": Recipe(
        "the bundled SAM, a small encoder: minutes on a laptop",
        (Part("masks", "nano", 0, "MIT, Apache-2.0", 0.35, width=472), _DINOV2_SMALL),
        _settings("nano", _DINOV2_SMALL),
        80,
    ),
    "fast": Recipe(
        "SAM 2.1 small, DINOv2 base: a small GPU, or a CPU overnight",
        (_sam("sam2.1_small", 184, 7.1), _DINOV2_BASE),
        _settings("sam2.1_small", _DINOV2_BASE),
        256,
        gpu_gb=4,
    ),
    "balanced": Recipe(
        "SAM 2.1 base+, DINOv2 large, names by TIPSv2: all Apache-2.0, no agreement",
        (_sam("sam2.1_base_plus", 324, 10.4), _DINOV2_LARGE, _TIPSV2),
        _settings("sam2.1_base_plus", _DINOV2_LARGE, _TIPSV2),
        256,
        gpu_gb=8,
    ),
    "best": Recipe(
        "SAM 2.1 large, DINOv3 large, names by TIPSv2",
        (_sam("sam2.1_large", 898, 23.1), _DINOV3_LARGE, _TIPSV2),
        _settings("sam2.1_large", _DINOV3_LARGE, _TIPSV2),
        256,
        gpu_gb=16,
    ),
}
"""From small to large."""
PROBE = "a probe on ImageNet reads 11 % from SAM's own, 74 to 77 % from CLIP's and DINOv2's"


def poor_features(sam: str, features: list[str], text: str, recipe: str | None) -> str:
    """Say so if a head would look at a real SAM through its own eyes alone; "" if not.

    The nano SAM is another matter: its `encoder` is one that was trained to name things.
    """
    if sam == "nano" or recipe == "papers" or text == "alone":
        return ""
    if not set(features) <= {"tokens", "encoder"}:
        return ""
    return (
        f"head.features: {features} of sam.model {sam} say little of what a mask shows ({PROBE}); "
        "take `recipe: fast`, or a section under `features` (docs/features.md): nothing that is "
        "embedded is embedded again"
    )
