"""Presets where `project.yaml` lists its classes: `voc-20`, or `{preset: voc-20, names: raw}`."""

import difflib
from typing import Any

from usam_core.config.base import PlacedError
from usam_core.config.presets import NAMES, preset_classes, preset_names


def expand_preset(given: str | dict[str, Any]) -> list[dict[str, Any]]:
    """Return the classes that a preset's name or mapping stands for.

    Raises:
        PlacedError: there is no such preset, key or spelling.
    """
    place: tuple[str, ...] = ("preset",)
    if isinstance(given, str):
        given, place = {"preset": given}, ()
    strange = sorted(set(given) - {"preset", "names"}, key=str)
    if strange:
        raise PlacedError((strange[0],), "unknown key; expected a list of names, or preset, names")
    name, names = given.get("preset"), given.get("names", NAMES[0])
    known = preset_names()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise PlacedError(
            place,
            f"got {name!r}; expected a list of names, or one of the presets {', '.join(known)}"
            f"{hint}",
        )
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
