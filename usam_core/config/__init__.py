"""The sections of `project.yaml`. This module has what `usam --help` needs, without pydantic.

The lists of class names that ship with usam are one YAML file each in `presets/`. `raw` are the
data set's own words and nothing else; `cleaned` are words that people use, with the raw word among
the synonyms. Published numbers differ by this, so both are kept.
"""

import copy
import difflib
import functools
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, Literal

SamName = Literal[
    "nano",
    "vit_b",
    "vit_l",
    "vit_h",
    "sam2.1_tiny",
    "sam2.1_small",
    "sam2.1_base_plus",
    "sam2.1_large",
    "edgetam",
    "sam3",
]
RecipeName = Literal["laptop", "fast", "balanced", "best", "papers"]
OF_THE_HUB = ("sam2.1_tiny", "sam2.1_small", "sam2.1_base_plus", "sam2.1_large", "edgetam", "sam3")
"""SAMs that are a model of `transformers`: a folder, not a file."""
Format = Literal[
    "coco",
    "coco_polygons",
    "cvat",
    "labelme",
    "label_studio",
    "label_tiff",
    "ome_zarr",
    "parquet",
    "voc",
    "volumes",
    "yolo",
]
"""Names of the output formats."""

PROJECT_FILE = "project.yaml"
"""What `usam init` writes, and what of a folder is read."""

NAMES = ("cleaned", "raw")
"""The two spellings of each list; the first is the default."""


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in _presets().iterdir())


def preset_summary(preset: str) -> str:
    """Return one sentence on what a preset holds."""
    return _read(preset)["summary"]


def preset_classes(preset: str, names: str = NAMES[0]) -> list[dict[str, Any]]:
    """Return a preset's classes as `project.yaml` would list them; `names` is one of `NAMES`."""
    return copy.deepcopy(_read(preset)["names"][names])


def _presets() -> Traversable:
    return resources.files(__name__) / "presets"


@functools.cache
def _read(preset: str) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((_presets() / f"{preset}.yaml").read_text(encoding="utf-8"))


def expand_preset(given: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Return the classes of a preset's name or mapping, or raise a `PlacedError`."""
    from usam_core.config.base import PlacedError

    place: tuple[str, ...] = ("preset",)
    if isinstance(given, str):
        given, place = {"preset": given}, ()
    unknown = sorted(set(given) - {"preset", "names"}, key=str)
    if unknown:
        raise PlacedError((unknown[0],), "unknown key; expected a list of names, or preset, names")
    name, names = given.get("preset"), given.get("names", NAMES[0])
    known = preset_names()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        expected = f"a list of names, or one of the presets {', '.join(known)}"
        raise PlacedError(place, f"got {name!r}; expected {expected}{hint}")
    if names not in NAMES:
        raise PlacedError(("names",), f"got {names!r}; expected {' or '.join(NAMES)}")
    return preset_classes(name, names)


def list_or_preset_schema(schema: dict[str, Any]) -> None:
    """Let editors take a preset's name or mapping where the classes stand."""
    listed = {key: schema.pop(key) for key in ("type", "items", "minItems") if key in schema}
    preset = {"enum": preset_names()}
    mapping = {
        "type": "object",
        "properties": {"preset": preset, "names": {"enum": list(NAMES)}},
        "required": ["preset"],
        "additionalProperties": False,
    }
    schema["anyOf"] = [listed, preset, mapping]
