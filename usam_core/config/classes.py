"""The `classes` of `project.yaml`: what each may say."""

import unicodedata

from pydantic import field_validator, model_validator

from usam_core.config.base import IN_QUOTES, Section, text_of
from usam_core.files.text import normalize_name

BACKGROUND = "background"
CLASSES, PARENTS = "classes", "parents"
_LEVEL_WORDS = (CLASSES, PARENTS, "file")  # the last is the flows', for what the file says
ClassName = text_of(
    "a name without slashes and control characters: names are folders too",
    r"^[^/\\\x00-\x1f]*$",
    min_length=1,
    max_length=80,
)


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
    color: text_of("a colour as #rrggbb, in quotes", r"^#[0-9a-fA-F]{6}$") | None = None
    """Colour in overlays, as "#rrggbb"; empty takes the VOC palette's next colour."""
    parent: ClassName | None = None
    """Name of the coarser class that this one belongs to; see `level`."""

    @model_validator(mode="before")
    @classmethod
    def _a_name_is_text(cls, value: object) -> object:
        if not isinstance(value, dict | ClassSpec):
            raise ValueError(f"expected a name as text: {IN_QUOTES}")
        return value

    @field_validator("name", "parent")
    @classmethod
    def _name_can_be_used(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if value != value.strip():
            raise ValueError("expected a name without spaces at its ends")
        if value in (".", ".."):
            raise ValueError("expected another name: this one is a folder's")
        if normalize_name(value) == BACKGROUND:
            raise ValueError("expected another name: the background is what no class claims")
        return unicodedata.normalize("NFC", value)

    @field_validator("parent")
    @classmethod
    def _parent_can_be_a_level(cls, value: str | None) -> str | None:
        if value in _LEVEL_WORDS:
            raise ValueError(f"expected another name: as a level, {value!r} means something else")
        return value
