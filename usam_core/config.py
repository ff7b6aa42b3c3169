"""What `project.yaml` may say: every key, its type, its range, its default and the reason.

Values that the papers give carry their section; values that we chose carry the decision record
that holds the measurement. Reading and writing the file itself is `usam_core.project`'s job.
"""

import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from usam_core.config_base import Bool, Float, Fraction, Int, PlacedError, Section
from usam_core.config_compose import ComposeConfig
from usam_core.config_compute import ComputeConfig
from usam_core.config_features import FeatureBlocks, check_blocks
from usam_core.config_head import HeadOptions
from usam_core.config_images import ImagesConfig
from usam_core.config_inference import InferenceConfig
from usam_core.config_results import EvaluationConfig, GateConfig, OutputsConfig, ReportConfig
from usam_core.config_text import find_text_block
from usam_core.config_training import TrainingConfig
from usam_core.presets.in_project import expand_preset, list_or_preset_schema

BACKGROUND = "background"
CLASSES, PARENTS = "classes", "parents"
_LEVEL_WORDS = (CLASSES, PARENTS, "file")  # the last is the flows', for what the file says
Width = Annotated[Int, Field(ge=1, le=65536)]
ClassName = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^/\\\x00-\x1f]+$")]


class ClassSpec(Section):
    """One class the user wants found."""

    name: ClassName
    """The name, as it appears in outputs. Also the folder name of its training pictures."""
    prompts: list[str] = []
    """Prompts for synthetic pictures; empty means "a photo of a {name}" (U-SAM, section 3.4)."""
    queries: list[str] = []
    """Search queries for web pictures; empty means the name itself."""
    text_prompts: list[str] = []
    """Sentences that stand for the class where names are compared with masks (`head.text`), `{c}`
    for its name and synonyms; empty takes `head.text_prompts`."""
    synonyms: list[str] = []
    """Other words for the same class: folders with these names count as this class too, and texts
    (`head.text`) use them."""
    colour: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] | None = None
    """Colour in overlays, as "#rrggbb"; empty takes the VOC palette's next colour."""
    parent: ClassName | None = None
    """Name of the coarser class that this one belongs to; see `level`."""

    @field_validator("name", "parent")
    @classmethod
    def _name_can_be_used(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value != value.strip():
            raise ValueError("expected a name without spaces at its ends")
        if value in (".", ".."):
            raise ValueError("expected another name: this one is a folder's")
        if plain(value) == BACKGROUND:
            raise ValueError("expected another name: the background is what no class claims")
        return unicodedata.normalize("NFC", value)

    @field_validator("parent")
    @classmethod
    def _parent_can_be_a_level(cls, value: str | None) -> str | None:
        if value in _LEVEL_WORDS:
            raise ValueError(f"expected another name: as a level, {value!r} means something else")
        return value


class SamConfig(Section):
    """Which SAM, and how its automatic mode asks."""

    model: Literal["nano", "vit_b", "vit_l", "vit_h"] = "nano"
    """`nano` is bundled and made for machines without a GPU; the others are the official ones."""
    checkpoint: Path | None = None
    """A local checkpoint file; empty means the bundled or the downloaded official one."""
    points_per_side: Annotated[Int, Field(ge=1, le=64)] = 10
    """Grid of prompts: 10 x 10 = 100 points (U-SAM, section 4.2)."""
    points_per_batch: Annotated[Int, Field(ge=1, le=4096)] | None = None
    """Prompts decoded at a time; empty picks by device and free memory. Does not change the result
    beyond rounding."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where SAM runs. Does not change what is stored beyond rounding."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the matrix products. `bfloat16` is quicker on GPUs and on CPUs that know it, and changes
    masks a little (docs/speed.md): its embeddings are kept apart from those of `float32`."""
    compile: Bool = False
    """Compile the model with `torch.compile` at the first image: pays for many images on a GPU."""


class HeadConfig(HeadOptions):
    """The learned head (U-SAM, sections 3.5 and 4.2; GranSAM, supplement 2)."""

    features: Annotated[list[str], Field(min_length=1)] = ["encoder"]
    """Feature blocks that the head sees: `tokens` (alone, the papers' mode), `encoder` (of the
    nano SAM), and names under `features`."""
    fusion: Literal["concat", "concat_equal", "late"] = "late"
    """Several blocks: `concat` puts them side by side, `concat_equal` at one length each, `late`
    trains a head for each and averages their logits."""
    mask_choice: Literal["single", "best_iou", "largest"] = "best_iou"
    """Which mask of a prompt gives the region features of its instance in the bag."""
    top_k_share: Annotated[Float, Field(ge=1)] = 20.0
    """The papers' `a`: a class score is the mean of the ceil(d / a) largest logits."""
    entropy_threshold: Fraction = 0.5
    """Masks above this entropy are bad; a fraction of log C, the largest possible."""
    distil: Bool = True
    """Train the uncertainty-distilled student; off leaves the MIL teacher alone."""
    lambda_mil: Annotated[Float, Field(ge=0)] = 1.0
    """Weight of the MIL loss (section 4.2)."""
    lambda_uncertainty: Annotated[Float, Field(ge=0)] = 0.15
    """Weight of the uncertainty loss (section 4.2)."""
    uncertainty_reduction: Literal["mean", "sum"] = "mean"
    """`sum` adds the uncertainty loss up over classes and bad masks, as equation 4 is printed;
    `mean` divides by both, so that its weight does not grow with them."""
    hidden: tuple[Width, Width, Width] = (512, 256, 128)
    """Widths of the three hidden layers."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.9
    """Dropout on the third hidden layer (GranSAM, supplement 2)."""
    standardise: Bool = True
    """Bring each input column to mean 0 and deviation 1 over the training masks."""
    steps: Annotated[Int, Field(ge=1, le=1_000_000)] = 150
    """Optimiser steps for the teacher and again for the student, rounded up to whole passes over
    the pictures: few pictures are seen more often, and the time does not grow with their number."""
    batch_size: Annotated[Int, Field(ge=1)] = 64
    """Pictures a step (section 4.2)."""
    learning_rate: Annotated[Float, Field(gt=0)] = 0.001
    """Adam's step (section 4.2)."""
    cache_mb: Annotated[Int, Field(ge=0)] = 1024
    """Memory for training bags; what does not fit is read from the store each epoch."""


class ProjectConfig(Section):
    """The whole of `project.yaml`."""

    name: Annotated[str, Field(min_length=1)] = "project"
    """Shown in the Prefect UI and in reports."""
    classes: Annotated[
        list[ClassSpec], Field(min_length=1, json_schema_extra=list_or_preset_schema)
    ]
    """The names to be found: a list of them, or a preset (`usam presets` lists these)."""
    negatives: list[ClassSpec] = []
    """Names of what the images also show and nobody wants found, such as "grass" or "street".
    Pictures of them are collected and teach the head; they are never painted nor listed."""
    level: str = CLASSES
    """Label with the `classes` themselves, with their `parents`, or with the one parent named
    here: `animals` makes all classes with `parent: animals` the one class `animals`, and the
    others stay themselves. Changing it needs a new head only: nothing is embedded again."""
    images: ImagesConfig
    training: TrainingConfig = TrainingConfig()
    sam: SamConfig = SamConfig()
    compose: ComposeConfig = ComposeConfig()
    features: FeatureBlocks = {}
    """Further blocks, by a name of your choice, for `head.features`."""
    head: HeadConfig = HeadConfig()
    inference: InferenceConfig = InferenceConfig()
    outputs: OutputsConfig = OutputsConfig()
    compute: ComputeConfig = ComputeConfig()
    evaluation: EvaluationConfig | None = None
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()
    seed: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    """Everything random follows from this number."""

    @field_validator("classes", "negatives", mode="before")
    @classmethod
    def _names_may_stand_alone(cls, value: object) -> object:
        if isinstance(value, str | dict):
            return expand_preset(value)
        if not isinstance(value, list):
            return value
        return [{"name": item} if isinstance(item, str) else item for item in value]

    @model_validator(mode="after")
    def _options_have_what_they_need(self) -> "ProjectConfig":
        head, wanted = self.head, self.compose.scenes
        if self.training.source == "none" and head.text != "alone":
            raise PlacedError(
                ("training", "source"),
                f"got 'none', but the head learns from pictures with head.text: {head.text}; "
                "expected another source, or head.text: alone",
            )
        if head.text == "alone":
            return self  # nothing is learned
        for key in ("composed", "background"):
            if getattr(head, key) not in ("off", False) and not wanted:
                raise PlacedError(
                    ("head", key),
                    f"got {getattr(head, key)!r} without composed scenes to learn from; expected "
                    "compose.scenes above 0",
                )
        if set(self.compose.backgrounds) == {"negative"} and not self.negatives:
            raise PlacedError(
                ("compose", "backgrounds"),
                "got 'negative' alone without `negatives`; expected another background too",
            )
        for key, off in (("presence", 0.0), ("thresholds", "fixed")):
            value = getattr(self.inference, key)
            if value != off and not self.compose.held_out_scenes:
                raise PlacedError(
                    ("inference", key),
                    f"got {value!r} without held-out scenes to calibrate on; expected "
                    "compose.held_out_scenes above 0",
                )
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ProjectConfig":
        owners: dict[str, str] = {}
        places = [("classes", n) for n in range(len(self.classes))]
        places += [("negatives", n) for n in range(len(self.negatives))]
        for place, spec in zip(places, self.collected, strict=True):
            for word in (spec.name, *spec.synonyms):
                owner = owners.get(plain(word))
                if owner is not None:
                    raise PlacedError(
                        place,
                        f"got {word!r}, which names {owner!r} already; expected each name and "
                        "synonym once",
                    )
                owners[plain(word)] = spec.name
        parents = {plain(name) for name in self.parents}
        for number, spec in enumerate(self.negatives):
            if plain(spec.name) in parents:
                raise PlacedError(
                    ("negatives", number),
                    f"got {spec.name!r}, which is the parent of a class; expected another name",
                )
        known = {*self.label_names, *(spec.name for spec in self.classes)}
        unknown = sorted(set(self.inference.class_thresholds) - known)
        if unknown:
            raise PlacedError(
                ("inference", "class_thresholds", unknown[0]),
                f"got {unknown[0]!r}, which is no class; expected some of {sorted(known)}",
            )
        return self

    @model_validator(mode="after")
    def _level_is_known(self) -> "ProjectConfig":
        known = [CLASSES, PARENTS, *self.parents]
        if self.level not in known:
            raise PlacedError(
                ("level",),
                f"got {self.level!r}; expected {CLASSES!r}, {PARENTS!r} or the name of a parent: "
                + (", ".join(map(repr, self.parents)) or "no class has a `parent` yet"),
            )
        for number, spec in enumerate(self.classes):
            if self.level == PARENTS and not spec.parent:
                raise PlacedError(
                    ("classes", number),
                    f"{spec.name!r} has no parent, but level is 'parents'; expected a parent for "
                    "every class, or level: classes",
                )
        return self

    @model_validator(mode="after")
    def _blocks_are_known(self) -> "ProjectConfig":
        check_blocks(self.features, self.head.features)
        if self.head.text != "off":
            find_text_block(self.head.text_block, self.features)
        return self

    @property
    def parents(self) -> list[str]:
        """The parents that classes name, in the order of their first mention."""
        return list(dict.fromkeys(spec.parent for spec in self.classes if spec.parent))

    @property
    def collected(self) -> list[ClassSpec]:
        """Everything that pictures are collected of: the classes, then the negatives."""
        return [*self.classes, *self.negatives]

    @property
    def text_block(self) -> str:
        """Return the block that names are compared with; `head.text` is not off."""
        return find_text_block(self.head.text_block, self.features)

    @property
    def row_blocks(self) -> list[str]:
        """Return the blocks that stand side by side in a row of the head, the perceptron's first.

        They are needed of every image, whether the perceptron or the text side reads them.
        """
        head = self.head
        learned = [] if head.text == "alone" else head.features
        return list(learned if head.text == "off" else dict.fromkeys([*learned, self.text_block]))

    @property
    def label_of(self) -> dict[str, str]:
        """Map each class name to the name it is labelled with at the chosen level."""
        coarse = self.parents if self.level == PARENTS else [self.level]
        return {c.name: c.parent if c.parent in coarse else c.name for c in self.classes}

    @property
    def label_names(self) -> list[str]:
        """The head's classes at the chosen level, in the order of their first mention."""
        return list(dict.fromkeys(self.label_of.values()))


def plain(word: str) -> str:
    """Return a word as names are compared: composed, without case, without spaces at its ends."""
    return unicodedata.normalize("NFC", word).casefold().strip()
