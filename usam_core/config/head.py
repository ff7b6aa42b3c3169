"""The `head` section of `project.yaml`: the papers' head, and what it may have beyond theirs.

docs/photographs.md says what each option of ours is worth. With all of them off, and
`features: [tokens]`, the head is the papers'.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from usam_core.config.base import Bool, Float, Fraction, Int, Section, without
from usam_core.config.features import NAME, BlockName

Width = Annotated[Int, Field(ge=1, le=65536)]


class HeadOptions(Section):
    """Options of the `head` section that are ours."""

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
    """Compare masks with the class names themselves, where a block of CLIP or SigLIP 2 is there:
    `fuse` weighs that against the learned head, `alone` learns nothing and needs no pictures."""
    text_block: BlockName = ""
    """With `text`: which block under `features` is compared; empty takes the only one that can
    be. It need not be one of `head.features`."""
    text_weight: Fraction = 0.5
    """With `text: fuse`: weight of the names' log-probabilities against the learned head's."""
    text_prompts: list[str] = []
    """Sentences that names are put into; `{c}` is the name, and each synonym in turn. Empty takes
    seven of our own (docs/features.md); a class's own `text_prompts` replace them."""

    @field_validator("text_prompts")
    @classmethod
    def _text_prompts_name_the_class(cls, value: list[str]) -> list[str]:
        for prompt in value:
            if NAME not in prompt:
                raise ValueError(
                    f"{prompt!r} has no {NAME}, so that all classes would get the same vector; "
                    f"expected it where the name belongs, as in 'a photo of a {NAME}'"
                )
        return value


class HeadConfig(HeadOptions):
    """The learned head (GranSAM, sections 3.5 and 4.2, supplement 2)."""

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
