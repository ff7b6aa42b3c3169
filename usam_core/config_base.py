"""What every part of `project.yaml` is made of: strict sections and strict numbers."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _number(value: object) -> object:
    # Pydantic would take true for 1 and "3" for 3; whoever wrote that meant something else.
    if isinstance(value, bool | str):
        raise ValueError(f"expected a number, not {type(value).__name__}")
    return value


Int = Annotated[int, BeforeValidator(_number)]
Float = Annotated[float, BeforeValidator(_number)]
Fraction = Annotated[Float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of `project.yaml`: immutable, and strict about keys and types."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
