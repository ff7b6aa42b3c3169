"""What `project.yaml` may say of names as texts: which block they are compared with."""

from collections.abc import Mapping

from usam_core.config.base import PlacedError, text_of
from usam_core.config.features import FeatureConfig

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
