"""What `project.yaml` may say: every key, its type, its range, its default and the reason.

Values that the papers give carry their section; values that we chose carry the decision record
that holds the measurement. Reading and writing the file is the job of `config/project.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from usam_core.config import RecipeName, expand_preset, list_or_preset_schema
from usam_core.config.base import Int, PlacedError, Section
from usam_core.config.images import ImagesConfig
from usam_core.config.model import (
    FeatureBlocks,
    HeadConfig,
    InferenceConfig,
    SamConfig,
    check_blocks,
    find_text_block,
)
from usam_core.config.recipes import RECIPES
from usam_core.config.results import (
    ComputeConfig,
    DistillConfig,
    EvaluationConfig,
    GateConfig,
    OutputsConfig,
    ReportConfig,
)
from usam_core.config.training import (
    CLASSES,
    MAX_CLASSES,
    PARENTS,
    ClassSpec,
    ComposeConfig,
    FilterConfig,
    TrainingConfig,
)
from usam_core.files.text import normalize_name

Location = tuple[str | int, ...]
"""Keys, and positions in lists."""
Mistake = tuple[Location, str]
"""The keys that lead to it, and what came and what was expected."""

PAPERS: dict[str, Any] = {
    "negatives": [],
    "features": {},
    "training": {
        "filters": dict.fromkeys(FilterConfig.model_fields),
        "synthetic": {"per_class": 200, "prompts": ["a photo of a {c}"]},  # GranSAM 4.2
    },
    "sam": {"points_per_side": 10},  # U-SAM 4.2
    "compose": {"scenes": 0, "held_out_scenes": 0},
    "head": {
        "features": ["tokens"],  # U-SAM 3.3: the four mask tokens
        "mask_choice": "single",  # open; tokens are the same for all masks of a prompt
        "hidden": (512, 256, 128),  # GranSAM, supplement 2
        "dropout": 0.9,  # GranSAM, supplement 2
        "standardize": False,
        "top_k_share": 20.0,  # open: a
        "entropy_threshold": 0.5,  # open
        "distil": True,
        "lambda_mil": 1.0,  # U-SAM 4.2
        "lambda_uncertainty": 0.15,  # U-SAM 4.2
        "uncertainty_reduction": "sum",  # equation 4 as printed
        "steps": 150,  # open: epochs
        "batch_size": 64,  # U-SAM 4.2
        "learning_rate": 0.001,  # U-SAM 4.2
        "composed": "off",
        "background": False,
        "familiar": 0.0,
        "reviewed": False,
        "class_balance": False,
        "text": "off",
    },
    "inference": {
        "threshold": 0.3,  # open; 0.7 is given for SAM+CLIP alone
        "class_thresholds": {},
        "thresholds": "fixed",
        "presence": 0.0,
        "mask_choice": "single",  # open
        "min_predicted_iou": 0.0,
        "min_stability": 0.0,
        "min_area": 0.0,
        "max_area": 1.0,
        "min_part": 0.0,
        "edges": "grid",  # open: how masks are scaled up
        "nms_iou": 0.5,  # open: how much, and of masks or boxes
        "score": "confidence",  # open: of mAP50
        "paint": "score",  # open: overlaps; the survivors of NMS, the best on top
    },
}
"""The method of U-SAM and GranSAM as they are printed, and nothing of ours. What they give carries
its place; what they leave open is named as ours (docs/method.md lists it; the choices were measured
in decision 4).

Free beside it: where the pictures come from, `training.web` and a class's own prompts; the labels'
`level` (supplement 4); and what the method does not speak of, `images.tile` and
`training.min_per_class`. The final head is the student; `inference.head: teacher` is free because
the papers' tables have a row of the teacher alone too."""

STRICT: dict[str, dict[str, Any]] = {"papers": PAPERS}
"""Recipes beside which nothing else may be said, by their word."""
FILLED_IN = {**STRICT, **{word: recipe.settings for word, recipe in RECIPES.items()}}
"""Settings that go together, by the word for `recipe`."""


def fill_in(values: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with defaults, section by section, where they say nothing themselves.

    >>> fill_in({"head": {"steps": 9}}, {"head": {"steps": 150, "text": "off"}})
    {'head': {'steps': 9, 'text': 'off'}}
    """
    both = dict(values)
    for key, value in defaults.items():
        if isinstance(value, dict) and value:
            part = both.get(key)
            if part is None or isinstance(part, dict):
                both[key] = fill_in(part or {}, value)
        else:
            both.setdefault(key, value)
    return both


def departures(
    config: Any, recipe: Mapping[str, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield each setting that is not the recipe's: its keys, what it is, what the recipe says."""
    for key, value in recipe.items():
        found = getattr(config, key)
        if isinstance(value, dict) and value:
            yield from departures(found, value, (*place, key))
        elif found != value:
            yield (*place, key), found, value


class ProjectConfig(Section):
    """The whole of `project.yaml`."""

    name: Annotated[str, Field(min_length=1)] = "project"
    """Shown in the Prefect UI and in reports. Left out, it is the folder's name."""
    recipe: RecipeName | None = None
    """Settings under one word (docs/recipes.md): a SAM, encoders and how the head uses them, for a
    `laptop`, or `fast`, `balanced`, `best` on a GPU; every other setting stays yours. `papers` is
    the method as U-SAM and GranSAM print it: a setting that says something else is refused."""
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
    distill: DistillConfig | None = None
    """With it a whole run ends with a small, fast model that has learned the labels; `distill: {}`
    takes the defaults. `usam distill` makes one in any case."""
    gate: GateConfig = GateConfig()
    report: ReportConfig = ReportConfig()
    seed: Annotated[Int, Field(ge=0, lt=2**31)] = 0
    """Everything random follows from this number."""

    @model_validator(mode="before")
    @classmethod
    def _recipe_is_filled_in(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return fill_in(value, FILLED_IN.get(str(value.get("recipe")), {}))

    @field_validator("classes", "negatives", mode="before")
    @classmethod
    def _names_may_stand_alone(cls, value: object) -> object:
        if isinstance(value, str | dict):
            return expand_preset(value)
        if not isinstance(value, list):
            return value
        return [{"name": item} if isinstance(item, str) else item for item in value]

    @model_validator(mode="after")
    def _sections_agree(self) -> "ProjectConfig":
        for place, found, wanted in departures(self, STRICT.get(self.recipe or "", {})):
            raise PlacedError(
                place,
                f"got {found!r}, but recipe: {self.recipe} has {wanted!r}; take this setting out, "
                "or the recipe",
            )
        for key, message in self._missing_needs():
            raise PlacedError(key, message)
        self._use_own_spellings()
        for key, message in self._wrong_names():
            raise PlacedError(key, message)
        check_blocks(self.features, self.head.features)
        if self.head.text != "off":
            find_text_block(self.head.text_block, self.features)
        return self

    def _missing_needs(self) -> Iterator[Mistake]:
        """Yield options without what they need."""
        head, compose = self.head, self.compose
        if self.training.source == "none" and head.text != "alone":
            yield (
                ("training", "source"),
                f"got 'none', but the head learns from pictures with head.text: {head.text}; "
                "expected another source, or head.text: alone",
            )
        if head.text == "alone":
            return  # nothing is learned
        for key in ("composed", "background"):
            if getattr(head, key) not in ("off", False) and not compose.scenes:
                yield (
                    ("head", key),
                    f"got {getattr(head, key)!r} without composed scenes to learn from; expected "
                    "compose.scenes above 0",
                )
        if set(compose.backgrounds) == {"negative"} and not self.negatives:
            yield (
                ("compose", "backgrounds"),
                "got 'negative' alone without `negatives`; expected another background too",
            )
        for key, off in (("presence", 0.0), ("thresholds", "fixed")):
            value = getattr(self.inference, key)
            if value != off and compose.held_out_scenes == 0:
                yield (
                    ("inference", key),
                    f"got {value!r} without held-out scenes to calibrate on; expected "
                    "compose.held_out_scenes above 0",
                )

    def _use_own_spellings(self) -> None:
        """A name is the same in any case: `level` and `class_thresholds` become the lists' own."""
        level = _own_spelling(self.level, [*self.parents, CLASSES, PARENTS])
        object.__setattr__(self, "level", level)
        names = [*(spec.name for spec in self.classes), *self.parents, *self.label_names]
        thresholds: dict[str, float] = {}
        for name, threshold in self.inference.class_thresholds.items():
            known = _own_spelling(name, names)
            if thresholds.setdefault(known, threshold) != threshold:
                raise PlacedError(
                    ("inference", "class_thresholds", name),
                    f"got {name!r}, which names {known!r} already; expected each name once",
                )
        if thresholds != self.inference.class_thresholds:
            inference = self.inference.model_copy(update={"class_thresholds": thresholds})
            object.__setattr__(self, "inference", inference)

    def _wrong_names(self) -> Iterator[Mistake]:
        """Yield names that are given twice, are unknown, or are too many for label maps."""
        owners: dict[str, str] = {}
        places: list[tuple[str | int, ...]] = [("classes", n) for n in range(len(self.classes))]
        places += [("negatives", n) for n in range(len(self.negatives))]
        for place, spec in zip(places, self.collected, strict=True):
            for word in (spec.name, *spec.synonyms):
                owner = owners.get(normalize_name(word))
                if owner is not None:
                    yield (
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
                yield (
                    ("classes", number, "parent"),
                    f"got {spec.parent!r}, elsewhere {first!r}; expected one spelling",
                )
        for number, spec in enumerate(self.negatives):
            if normalize_name(spec.name) in parents:
                yield (
                    ("negatives", number),
                    f"got {spec.name!r}, which is the parent of a class; expected another name",
                )
        known = {*self.label_names, *(spec.name for spec in self.classes)}
        unknown = sorted(set(self.inference.class_thresholds) - known)
        if unknown:
            yield (
                ("inference", "class_thresholds", unknown[0]),
                f"got {unknown[0]!r}, which is no class; expected some of {sorted(known)}",
            )
        truth = (self.evaluation and self.evaluation.classes) or []
        for keys, names in (("classes",), self.label_names), (("evaluation", "classes"), truth):
            if len(names) > MAX_CLASSES:
                yield (
                    keys,
                    f"got {len(names)} names; expected at most {MAX_CLASSES}, as many as label "
                    "maps of 16 bit can hold",
                )
        if self.level not in (CLASSES, PARENTS, *self.parents):
            yield (
                ("level",),
                f"got {self.level!r}; expected {CLASSES!r}, {PARENTS!r} or the name of a parent: "
                + (", ".join(map(repr, self.parents)) or "no class has a `parent` yet"),
            )
        for number, spec in enumerate(self.classes):
            if self.level == PARENTS and not spec.parent:
                yield (
                    ("classes", number),
                    f"{spec.name!r} has no parent, but level is 'parents'; expected a parent for "
                    "every class, or level: classes",
                )

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
        """The block that names are compared with; `head.text` is not off."""
        return find_text_block(self.head.text_block, self.features)

    @property
    def row_blocks(self) -> list[str]:
        """Blocks that stand side by side in a row of the head, the perceptron's first.

        They are needed of every image, whether the perceptron or the text side reads them.
        """
        head = self.head
        learned = [] if head.text == "alone" else head.features
        return list(learned if head.text == "off" else dict.fromkeys([*learned, self.text_block]))

    @property
    def label_of(self) -> dict[str, str]:
        """Map each class name to the name it is labelled with at the chosen level."""
        coarse = self.parents if self.level == PARENTS else [self.level]
        return {
            c.name: c.parent if c.parent and c.parent in coarse else c.name for c in self.classes
        }

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
