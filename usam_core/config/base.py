"""What every part of `project.yaml` is made of: strict sections, strict numbers, placed errors."""

import logging
import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StrictBool,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

Bool = StrictBool
NAME = "{c}"
"""Stands for the class's name in a prompt."""
IN_QUOTES = "put it in quotes (without, yes, no, null, numbers and dates are no text to YAML)"


def _number(value: object) -> object:
    # Pydantic would take true for 1 and "3" for 3; whoever wrote that meant something else.
    if isinstance(value, bool | str):
        raise ValueError(f"expected a number, not {type(value).__name__}")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class TextForm:
    """Which form a text must have."""

    form: str
    """The form in words, for whoever wrote something else."""
    pattern: str
    """What fits it, for editors too."""

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.pattern}

    def _check(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise ValueError(f"expected {self.form}")
        return value


WAS_REMOVED = "was removed, measured worthless (docs/decisions/0019-what-went.md); delete the line"
_OLD_SPELLINGS = {"colour": "color", "standardise": "standardize", "min_centre": "min_center"}
_log = logging.getLogger(__name__)


def without(*values: str) -> BeforeValidator:
    """Refuse values that a setting once had, saying what became of them."""

    def refuse(value: object) -> object:
        if value in values:
            raise ValueError(f"this value {WAS_REMOVED}")
        return value

    return BeforeValidator(refuse)


def naming_class(loss: str, example: str) -> AfterValidator:
    """Refuse prompts without the class's name, `{c}`: what is lost, and where it belongs."""

    def check(prompts: list[str]) -> list[str]:
        for prompt in prompts:
            if NAME not in prompt:
                raise ValueError(f"{prompt!r} has no {NAME}, so that {loss}; expected it {example}")
        return prompts

    return AfterValidator(check)


class Section(BaseModel):
    """A part of `project.yaml`: immutable, and strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    removed: ClassVar[dict[str, object]] = {}
    """Keys that are no more, each with the value that still says what is done; `...` stands for
    every value, where the key alone does nothing."""

    @model_validator(mode="before")
    @classmethod
    def _old_keys_and_empty_sections(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        for old, new in _OLD_SPELLINGS.items():
            if old in value and new in cls.model_fields and new not in value:
                _log.warning("%s: this key of project.yaml is spelled %s now", old, new)
                value = {new if key == old else key: part for key, part in value.items()}
        for key, harmless in cls.removed.items():
            if key in value and harmless in (..., value[key]):
                _log.warning("%s: this key of project.yaml %s", key, WAS_REMOVED)
                value = {name: part for name, part in value.items() if name != key}
        # A section whose lines are all commented out is None to YAML: then its defaults hold.
        empty = {
            name
            for name, field in cls.model_fields.items()
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        }
        return {k: part for k, part in value.items() if part is not None or k not in empty}


class PlacedError(ValueError):
    """A mistake of several keys; `place` leads to it, from the section that raises it."""

    def __init__(self, place: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.place = place
