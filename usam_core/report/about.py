"""What was run: settings that are not the default, the chain back to pictures and weights."""

import json
from collections.abc import Mapping
from typing import Any

from usam_core.config.schema import ProjectConfig
from usam_core.lineage.chain import Chain, Link, facts, made_by, short
from usam_core.report.difference import changed_settings

_NEVER_DEFAULT = ("classes", "name", "images.path")


def own_settings(config: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the settings that are not the default: key, value, default.

    Args:
        config: the whole of the project's settings, JSON-like.
    """
    least = {"classes": config["classes"], "images": {"path": config["images"]["path"]}}
    default = ProjectConfig.model_validate(least).model_dump(mode="json")
    return [
        {"key": key, "value": as_text(value), "other": as_text(usual)}
        for key, usual, value in changed_settings(default, config)
        # A run of an older usam has no word on newer sections.
        if key not in _NEVER_DEFAULT and key.split(".")[0] in config
    ]


def as_text(value: Any) -> str:
    """Return a setting's value as it would stand in the project file, on one line.

    >>> as_text("calibrated"), as_text(None), as_text([1, 2])
    ('calibrated', 'null', '[1, 2]')
    """
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def chain_steps(chain: Chain) -> list[dict[str, Any]]:
    """Return every step that the labels were made by, the last one first."""
    return [_step(link) for link in chain.links.values()]


def _step(link: Link) -> dict[str, Any]:
    if link.document is None:
        return {"step": link.step, "path": link.path, "facts": [], "by": None, "current": False}
    return {
        "step": link.step,
        "path": link.path,
        "sha256": short(link.sha256),
        "current": link.current,
        "finished": link.document["finished"],
        "by": f"{made_by(link.document)}; seed {link.document['seed']}",
        "facts": [
            {"name": fact.name, "text": fact.text, "sha256": short(fact.sha256)}
            for fact in facts(link.document)
        ],
    }
