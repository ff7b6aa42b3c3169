"""Lists of class names that ship with usam: one YAML file each, with raw and cleaned names.

`raw` are the data set's own words and nothing else; `cleaned` are words that people use, with the
raw word among the synonyms. Published numbers differ by this, so both are kept.
"""

import copy
import functools
from importlib import resources
from typing import Any

NAMES = ("cleaned", "raw")
"""The two spellings of each list; the first is the default."""


def preset_names() -> list[str]:
    """Return the names of all presets, sorted."""
    files = resources.files(__name__).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def preset_summary(preset: str) -> str:
    """Return one sentence on what a preset holds."""
    return _read(preset)["summary"]


def preset_classes(preset: str, names: str = NAMES[0]) -> list[dict[str, Any]]:
    """Return a preset's classes as `project.yaml` would list them.

    Args:
        preset: one of `preset_names()`.
        names: one of `NAMES`.
    """
    return copy.deepcopy(_read(preset)["names"][names])


@functools.cache
def _read(preset: str) -> dict[str, Any]:
    import yaml

    text = resources.files(__name__).joinpath(f"{preset}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)
