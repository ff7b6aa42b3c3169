"""What finds masks and names them: the sections `sam`, `features`, `head` and `inference`.

docs/photographs.md says what each option of ours is worth. With all options of the head off, and
`features: [tokens]`, the head is the papers'.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from usam_core.config import OF_THE_HUB, SamName
from usam_core.config.base import (
    Bool,
    Float,
    Fraction,
    Int,
    PlacedError,
    Section,
    TextForm,
    naming_class,
    without,
)


def _no_hq(model: object) -> object:
    name = str(model).lower().replace("-", "_")
    if name.startswith(("sam_hq", "hq_sam", "samhq")):
        raise ValueError(
            "SAM-HQ of transformers gives wrong masks since 4.55 (docs/sam.md); take "
            "sam2.1_large or vit_h"
        )
    return model


class SamConfig(Section):
    """Which SAM, and how its automatic mode asks."""

    model: Annotated[SamName, BeforeValidator(_no_hq)] = "nano"
    """`nano` is bundled and made for machines without a GPU; `vit_*` are the official SAM 1,
    `sam2.1_*`, `edgetam` and `sam3` (its tracker) those of the model hub (docs/sam.md)."""
    checkpoint: Path | None = None
    """Local weights: a file of SAM 1, also of another training (micro-sam, MedSAM), or the folder
    of a model of the hub; empty means the bundled or the downloaded official ones."""
    sha256: Annotated[str, TextForm("64 digits 0 to 9, a to f", r"^[0-9A-Fa-f]{64}$")] | None = None
    """Of the file under `checkpoint`; another one is refused."""
    revision: str | None = None
    """The hub's commit; empty takes the newest and remembers it with the embeddings."""
    points_per_side: Annotated[Int, Field(ge=1, le=64)] = 10
    """Grid of prompts: 10 x 10 = 100 points (GranSAM, section 4.2)."""
    points_per_batch: Annotated[Int, Field(ge=1, le=4096)] | None = None
    """Prompts decoded at a time, at most; they are cut into equal batches. Empty picks by device
    and free memory. Changes results by rounding: next to nothing in `float32`; in `bfloat16` some
    masks, with a mean IoU above 0.99 (docs/speed.md)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where SAM runs. Does not change what is stored beyond rounding of the `dtype`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products. `bfloat16` is quicker on GPUs and on CPUs that know it, and changes
    masks a little (docs/speed.md): its embeddings are kept apart from those of `float32`."""
    compile: Bool = False
    """Compile the model with `torch.compile` at the first image: pays for many images on a GPU."""

    @model_validator(mode="after")
    def _says_what_it_can(self) -> "SamConfig":
        of_the_hub = self.model in OF_THE_HUB
        if self.sha256 and (of_the_hub or self.checkpoint is None):
            raise PlacedError(
                ("sha256",),
                f"got one with model {self.model} and checkpoint {self.checkpoint}; expected it "
                "beside a checkpoint that is a file",
            )
        if self.revision and (not of_the_hub or self.checkpoint is not None):
            raise PlacedError(
                ("revision",),
                f"got {self.revision!r} with model {self.model} and checkpoint {self.checkpoint}; "
                f"expected it with one of {', '.join(OF_THE_HUB)} from the hub",
            )
        return self


STORED = ("tokens", "encoder")
"""Blocks that SAM itself gives."""
FAMILY_OF = {
    "dinov2": "dinov2",
    "dinov2_with_registers": "dinov2",
    "dinov3_vit": "dinov3",
    "clip": "clip",
    "metaclip_2": "clip",
    "siglip": "siglip2",
    "siglip2": "siglip2",
    "tipsv2": "tipsv2",
    "radio": "radio",
}
"""The family of each `model_type` of `transformers`."""
FeatureName = Annotated[
    str,
    Field(max_length=40),
    TextForm("a name of letters, digits, - and _", r"^[A-Za-z0-9][A-Za-z0-9_-]*$"),
]


class FeatureConfig(Section):
    """One block of region features, made by an encoder from `transformers`."""

    model: Annotated[str, Field(min_length=1)]
    """Hub id ("facebook/dinov2-base") or a folder with `config.json` and safetensors; a relative
    folder counts from the project file."""
    revision: str | None = None
    """The hub's commit; empty takes the newest and remembers it with the features."""
    family: Literal["auto", "dinov2", "dinov3", "clip", "siglip2", "tipsv2", "radio"] = "auto"
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

    Raises a `PlacedError` if a name is taken, is not known, or is given twice.
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


BlockName = Annotated[
    str,
    Field(max_length=40),
    TextForm("a block's name of letters, digits, - and _", r"^([A-Za-z0-9][A-Za-z0-9_-]*)?$"),
]
WITH_TEXT = ("clip", "siglip2", "tipsv2")
"""Families that can compare a name with a picture."""


def find_text_block(wanted: str, features: Mapping[str, FeatureConfig]) -> str:
    """Return the block that names are compared with.

    `wanted` is its name; empty takes the only one that can be. Raises a `PlacedError` if there is
    no such block, or its family has no texts.
    """
    if not features:
        raise PlacedError(
            ("head", "text"),
            "there is no block to compare names with; expected one under `features`, such as "
            "`clip: {model: openai/clip-vit-base-patch16}`",
        )
    able = [name for name, block in features.items() if block.family in ("auto", *WITH_TEXT)]
    stated = [name for name in able if features[name].family in WITH_TEXT]
    families = " or ".join(WITH_TEXT)
    if wanted in able:
        return wanted
    if wanted:
        raise PlacedError(
            ("head", "text_block"),
            f"got {wanted!r}; expected a block under `features` of the families {families}: "
            f"{able or 'there is none'}",
        )
    for names in (able, stated):
        if len(names) == 1:
            return names[0]
    raise PlacedError(
        ("head", "text_block"),
        f"missing, and {able or list(features)} are there; expected the name of one whose family "
        f"is {families} (`family` says so where it is not `auto`)",
    )


Width = Annotated[Int, Field(ge=1, le=65536)]


class HeadConfig(Section):
    """The learned head (GranSAM, sections 3.5 and 4.2, supplement 2)."""

    removed = {
        "bank": "off",
        **dict.fromkeys(("bank_weight", "bank_size", "bank_neighbors", "bank_neighbours"), ...),
        "fusion": "late",
    }

    composed: Literal["off", "bags", "masks"] = "off"
    """Learn from composed scenes too: `bags` from the names of what they show, as from pictures;
    `masks` also from their truth, which says what each mask shows."""
    lambda_masks: Annotated[Float, Field(ge=0)] = 1.0
    """With `composed: masks`: weight of the loss on masks whose class is known."""
    background: Bool = False
    """One more output, "none of these", learned from the masks of composed scenes that lie on no
    object; it is never painted."""
    lambda_background: Annotated[Float, Field(ge=0)] = 1.0
    """With `background`: weight of its loss."""
    reviewed: Bool = False
    """Learn from what a person has decided in `usam review` too: masks accepted or renamed are
    further bags, rejected ones examples of "none of these" where `background` is on."""
    familiar: Fraction = 0.5
    """A mask less like its class's training pictures than this share of how alike they are is
    rather "none of these", where there are fewer than 20 classes; 0 switches it off, and so does
    a name with fewer than 5 pictures."""
    class_balance: Bool = False
    """Draw the pictures of an epoch so that every class is seen alike, however many it has."""
    text: Literal["off", "fuse", "alone"] = "off"
    """Compare masks with the class names themselves, where a block of CLIP, SigLIP 2 or TIPSv2 is
    there: `fuse` weighs that against the learned head, `alone` learns nothing and needs no
    pictures."""
    text_block: BlockName = ""
    """With `text`: which block under `features` is compared; empty takes the only one that can
    be. It need not be one of `head.features`."""
    text_weight: Fraction = 0.5
    """With `text: fuse`: weight of the names' log-probabilities against the learned head's."""
    text_prompts: Annotated[
        list[str],
        naming_class(
            "all classes would get the same vector",
            "where the name belongs, as in 'a photo of a {c}'",
        ),
    ] = []
    """Sentences that names are put into; `{c}` is the name, and each synonym in turn. Empty takes
    seven of our own (docs/features.md); a class's own `text_prompts` replace them."""

    features: Annotated[list[str], Field(min_length=1)] = ["encoder"]
    """Feature blocks that the head sees: `tokens` (alone, the papers' mode), `encoder` (of the
    nano SAM), and names under `features`. Of several, each trains a head; logits are averaged."""
    mask_choice: Annotated[Literal["single", "best_iou"], without("largest")] = "best_iou"
    """Which mask of a prompt gives the region features of its instance in the bag."""
    top_k_share: Annotated[Float, Field(ge=1)] = 20.0
    """The papers' `a`: a class score is the mean of the ceil(d / a) largest logits."""
    entropy_threshold: Fraction = 0.5
    """Masks above this entropy are bad; a fraction of log C, the largest possible."""
    distil: Bool = True
    """Train the uncertainty-distilled student; off leaves the MIL teacher alone."""
    lambda_mil: Annotated[Float, Field(ge=0)] = 1.0
    """Weight of the MIL loss (GranSAM, section 4.2)."""
    lambda_uncertainty: Annotated[Float, Field(ge=0)] = 0.15
    """Weight of the uncertainty loss (GranSAM, section 4.2)."""
    uncertainty_reduction: Literal["mean", "sum"] = "mean"
    """`sum` adds the uncertainty loss up over classes and bad masks, as equation 4 is printed;
    `mean` divides by both, so that its weight does not grow with them."""
    hidden: tuple[Width, Width, Width] = (512, 256, 128)
    """Widths of the three hidden layers."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Dropout on the third hidden layer (GranSAM, supplement 2)."""
    standardize: Bool = True
    """Bring each input column to mean 0 and deviation 1 over the training masks."""
    steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 150
    """Optimiser steps for the teacher and again for the student, rounded up to whole passes over
    the pictures: few pictures are seen more often, and the time does not grow with their number."""
    batch_size: Annotated[Int, Field(ge=1)] = 64
    """Pictures a step (GranSAM, section 4.2)."""
    learning_rate: Annotated[Float, Field(gt=0)] = 0.001
    """Adam's step (GranSAM, section 4.2)."""
    cache_mb: Annotated[Int, Field(ge=0)] = 1024
    """Memory for training bags; what does not fit is read from the store each epoch."""


MaskChoice = Annotated[Literal["single", "best_iou"], without("largest", "most_confident")]


class InferenceConfig(Section):
    """From scored masks to one label a pixel (U-SAM, section 3.6)."""

    removed = {"nms_containment": 1.0}

    head: Literal["student", "teacher"] = "student"
    """Which head labels; the teacher is kept beside the student for comparison."""
    threshold: Fraction = 0.3
    """Keep masks whose class confidence is at least this."""
    class_thresholds: dict[str, Fraction] = {}
    """The same for single classes, by name."""
    mask_choice: MaskChoice = "single"
    """Which of a prompt's masks is its candidate."""
    min_predicted_iou: Float = 0.0
    """Drop masks that SAM itself believes bad."""
    min_stability: Fraction = 0.0
    """Drop masks whose border hangs on the threshold."""
    min_area: Fraction = 0.0005
    """Drop masks, and regions of the label map, smaller than this share of the image."""
    max_area: Fraction = 0.95
    """Drop masks larger than this share of the image."""
    min_part: Fraction = 0.05
    """Drop a mask's islands and close its holes that are smaller than this share of the mask; 0
    leaves all (SAM's `min_mask_region_area`)."""
    edges: Literal["image", "grid"] = "image"
    """Where borders lie: `image` moves those of masks and label map to the image's own edges, for
    which it is read again; `grid` scales SAM's low-resolution grid up."""
    nms_iou: Fraction = 0.5
    """Of two masks that overlap more than this (mask IoU), the better scored stays."""
    thresholds: Literal["fixed", "calibrated"] = "fixed"
    """`fixed`: `threshold` and `class_thresholds` count against the head's confidence.
    `calibrated`: each class's own, fitted on held-out composed scenes, against the calibrated
    probability; `class_thresholds` still win."""
    presence: Fraction = 0.0
    """Drop all masks of a class that is in the image with less than this calibrated probability;
    0 switches the gate off."""
    score: Literal["confidence", "confidence_x_iou"] = "confidence_x_iou"
    """What orders masks in NMS, in painting, and in the COCO file."""
    paint: Annotated[Literal["score", "vote"], without("smallest")] = "vote"
    """Who gets a pixel that several masks claim: the best score, as in the papers' mode, or the
    class with the largest sum of scores over all masks that pass the thresholds, before NMS."""

    @model_validator(mode="after")
    def _areas_are_in_order(self) -> "InferenceConfig":
        if self.min_area >= self.max_area:
            raise PlacedError(
                ("min_area",),
                f"got {self.min_area:g}; expected less than max_area, {self.max_area:g}",
            )
        return self
