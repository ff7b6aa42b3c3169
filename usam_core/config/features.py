"""The `features` section of `project.yaml`: which encoders describe masks and names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from usam_core.config.base import Float, Int, PlacedError, Section, text_of

STORED = ("tokens", "encoder")
"""Blocks that SAM itself gives."""
FAMILY_OF = {
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "clip": "clip",
    "siglip": "siglip2",
    "siglip2": "siglip2",
}
"""The family of each `model_type` of `transformers`."""
FeatureName = text_of(
    "a name of letters, digits, - and _", r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=40
)


class FeatureConfig(Section):
    """One block of region features, made by an encoder from `transformers`."""

    model: Annotated[str, Field(min_length=1)]
    """Hub id ("facebook/dinov2-base") or a folder with `config.json` and safetensors; a relative
    folder counts from the project file."""
    revision: str | None = None
    """The hub's commit; empty takes the newest and remembers it with the features."""
    family: Literal["auto", "dinov2", "dinov3", "clip", "siglip2"] = "auto"
    """Which kind of encoder; `auto` reads it from the model's config."""
    image_size: Annotated[Int, Field(ge=32, le=4096)] | None = None
    """Longer side of the picture that the encoder sees, pixels, rounded to whole patches; empty
    takes the size that the model was trained with."""
    pooling: Literal["dense", "crop", "masked_image"] = "dense"
    """How a mask gets its vector: `dense` averages the picture's patch features inside the mask,
    `crop` encodes the mask's own box, `masked_image` the picture with all else black (the papers'
    SAM+CLIP, GranSAM supplement 3.1)."""
    crop_below: Annotated[Float, Field(ge=0, le=1)] = 0.0
    """With `dense`: masks smaller than this share of the picture are encoded from their own
    crop too, and both vectors averaged."""
    batch_size: Annotated[Int, Field(ge=1)] | None = None
    """Pictures or crops at a time; empty picks by device. Does not change the result."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the encoder; `auto` takes bfloat16 on a GPU and float32 on a CPU."""

    @model_validator(mode="after")
    def _crops_are_of_dense_features(self) -> "FeatureConfig":
        if self.crop_below and self.pooling != "dense":
            raise PlacedError(
                ("crop_below",),
                f"got {self.crop_below:g} with pooling {self.pooling!r}; expected pooling: dense, "
                "of which small masks' crops are a part",
            )
        return self


def _sections(features: object) -> object:
    """Refuse a block that is no section: the model alone, as a rule."""
    example = "facebook/dinov2-base"
    if not isinstance(features, dict):
        raise PlacedError(
            (), f"got {features!r}; expected a section a block: d: {{model: {example}}}"
        )
    for name, value in features.items():
        if not isinstance(value, dict | FeatureConfig):
            model = value if isinstance(value, str) and value else example
            raise PlacedError(
                (name,), f"got {value!r}; expected a section: {name}: {{model: {model}}}"
            )
    return features


FeatureBlocks = Annotated[dict[FeatureName, FeatureConfig], BeforeValidator(_sections)]
"""Sections by names of the user's choice."""


def check_blocks(named: Iterable[str], wanted: Sequence[str]) -> None:
    """Check the names of the project's feature blocks, and those that its head reads.

    Raises:
        PlacedError: a name is taken, is not known, or is given twice.
    """
    for name in named:
        if name in STORED:
            raise PlacedError(
                ("features", name), f"got {name!r}, which SAM itself gives; expected another name"
            )
    known = [*STORED, *named]
    for place, name in enumerate(wanted):
        if name not in known or name in wanted[:place]:
            raise PlacedError(
                ("head", "features", place),
                f"got {name!r}; expected some of {known}, each once; others need a section of "
                "that name under `features`",
            )


BlockName = text_of(
    "a block's name of letters, digits, - and _", r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$", max_length=40
)

NAME = "{c}"
"""Stands for the class's name in a prompt."""
WITH_TEXT = ("clip", "siglip2")
"""Families that can compare a name with a picture."""


def find_text_block(wanted: str, features: Mapping[str, FeatureConfig]) -> str:
    """Return the block that names are compared with.

    Args:
        wanted: its name; empty takes the only one that can be.
        features: the project's blocks.

    Raises:
        PlacedError: there is no such block, or its family has no texts.
    """
    if not features:
        raise PlacedError(
            ("head", "text"),
            "there is no block to compare names with; expected one under `features`, such as "
            "`clip: {model: openai/clip-vit-base-patch16}`",
        )
    able = [name for name, block in features.items() if block.family in ("auto", *WITH_TEXT)]
    said = [name for name in able if features[name].family in WITH_TEXT]
    if wanted:
        if wanted in able:
            return wanted
        raise PlacedError(
            ("head", "text_block"),
            f"got {wanted!r}; expected a block under `features` of the families "
            f"{' or '.join(WITH_TEXT)}: {able or 'there is none'}",
        )
    for only in (able, said):
        if len(only) == 1:
            return only[0]
    raise PlacedError(
        ("head", "text_block"),
        f"missing, and {able or list(features)} are there; expected the name of one whose family "
        f"is {' or '.join(WITH_TEXT)} (`family` says so where it is not `auto`)",
    )
