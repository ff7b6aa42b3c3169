"""What `project.yaml` may say: every key, its type, its range, its default and the reason.

Values that the papers give carry their section; values that we chose carry the decision record
that holds the measurement. Reading and writing the file itself is `usam_core.config.project`'s job.
"""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from usam_core.config.base import Int, PlacedError, Section
from usam_core.config.classes import CLASSES, PARENTS, ClassSpec
from usam_core.config.compute import ComputeConfig, SamConfig
from usam_core.config.features import FeatureBlocks, check_blocks, find_text_block
from usam_core.config.head import HeadConfig
from usam_core.config.images import ImagesConfig
from usam_core.config.inference import InferenceConfig
from usam_core.config.palette import MAX_CLASSES
from usam_core.config.presets import expand_preset, list_or_preset_schema
from usam_core.config.recipes import RECIPES, departures, with_recipe
from usam_core.config.results import EvaluationConfig, GateConfig, OutputsConfig, ReportConfig
from usam_core.config.training import ComposeConfig, TrainingConfig
from usam_core.files.text import normalize_name


class ProjectConfig(Section):
    """The whole of `project.yaml`."""

    name: Annotated[str, Field(min_length=1)] = "project"
    """Shown in the Prefect UI and in reports."""
    recipe: Literal["papers"] | None = None
    """Settings under one word: `papers` is the method as U-SAM and GranSAM print it, and nothing of
    ours. A setting that says something else beside it is refused."""
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

    @model_validator(mode="before")
    @classmethod
    def _recipe_is_filled_in(cls, value: object) -> object:
        recipe = RECIPES.get(str(value.get("recipe"))) if isinstance(value, dict) else None
        return with_recipe(value, recipe) if recipe else value

    @model_validator(mode="after")
    def _recipe_is_kept(self) -> "ProjectConfig":
        for place, found, wanted in departures(self, RECIPES.get(self.recipe or "", {})):
            raise PlacedError(
                place,
                f"got {found!r}, but recipe: {self.recipe} has {wanted!r}; take this setting out, "
                "or the recipe",
            )
        return self

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
    def _names_are_spelled_as_in_the_lists(self) -> "ProjectConfig":
        """A name is the same in any case: `level` and `class_thresholds` become the lists' own."""
        level = _own_spelling(self.level, [*self.parents, CLASSES, PARENTS])
        if level != self.level:
            object.__setattr__(self, "level", level)
        names = [*(spec.name for spec in self.classes), *self.parents, *self.label_names]
        given: dict[str, float] = {}
        for name, threshold in self.inference.class_thresholds.items():
            known = _own_spelling(name, names)
            if given.setdefault(known, threshold) != threshold:
                raise PlacedError(
                    ("inference", "class_thresholds", name),
                    f"got {name!r}, which names {known!r} already; expected each name once",
                )
        if given != self.inference.class_thresholds:
            inference = self.inference.model_copy(update={"class_thresholds": given})
            object.__setattr__(self, "inference", inference)
        return self

    @model_validator(mode="after")
    def _names_are_unique(self) -> "ProjectConfig":
        owners: dict[str, str] = {}
        places = [("classes", n) for n in range(len(self.classes))]
        places += [("negatives", n) for n in range(len(self.negatives))]
        for place, spec in zip(places, self.collected, strict=True):
            for word in (spec.name, *spec.synonyms):
                owner = owners.get(normalize_name(word))
                if owner is not None:
                    raise PlacedError(
                        place,
                        f"got {word!r}, which names {owner!r} already; expected each name and "
                        "synonym once",
                    )
                owners[normalize_name(word)] = spec.name
        parents: dict[str, str] = {}
        for number, spec in enumerate(self.classes):
            if not spec.parent:
                continue
            first = parents.setdefault(normalize_name(spec.parent), spec.parent)
            if first != spec.parent:
                raise PlacedError(
                    ("classes", number, "parent"),
                    f"got {spec.parent!r}, elsewhere {first!r}; expected one spelling",
                )
        for number, spec in enumerate(self.negatives):
            if normalize_name(spec.name) in parents:
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
    def _labels_have_numbers(self) -> "ProjectConfig":
        named = self.evaluation.classes if self.evaluation else None
        for place, names in (("classes",), self.label_names), (("evaluation", "classes"), named):
            if len(names or ()) > MAX_CLASSES:
                raise PlacedError(
                    place,
                    f"got {len(names)} names; expected at most {MAX_CLASSES}, as many as label "
                    "maps of 16 bit can hold",
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


def _own_spelling(given: str, names: list[str]) -> str:
    """Return the last of the names that is compared as the same one; itself if it is one or none.

    >>> _own_spelling("dog ", ["Dog", "cat"]), _own_spelling("cow", ["Dog", "cat"])
    ('Dog', 'cow')
    """
    own = {normalize_name(name): name for name in names}
    return given if given in names else own.get(normalize_name(given), given)
