"""A trained head on disk: safetensors, and beside it a card that says what it is."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save

from usam_core.errors import StoreError
from usam_core.files.atomic import whole_file, write_json
from usam_core.files.digest import file_digest
from usam_core.head.familiar import FamiliarHead
from usam_core.head.model import BaseHead, TextHead, make_head

FORMAT = 3
"""Raised when heads change so that older code cannot read them; 1 had no `format`, one block;
2 knew no "none of these"."""


def card_path(path: Path) -> Path:
    """Where the card of a head file lies."""
    return path.with_suffix(".card.json")


def save_head(path: Path, head: BaseHead, card: dict[str, Any]) -> list[Path]:
    """Write weights and card; return both files.

    Args:
        path: the `.safetensors` file.
        head: the head.
        card: JSON-like; holds at least `classes` and `settings` (of `HeadConfig`), and
            `block_widths` (of what the learned head reads) where there are several blocks, and
            `text` where names are compared, `familiar` where a `FamiliarHead` is. The format, the
            digest of the weights and the input width are added.
    """
    with whole_file(path) as temporary:
        # Written by ourselves: what a full disk says is then an OSError like everywhere.
        temporary.write_bytes(save({k: v.contiguous() for k, v in head.state_dict().items()}))
    full = {"block_widths": [head.width], **card, "format": FORMAT, "features_width": head.width}
    write_json(card_path(path), {**full, "weights_sha256": file_digest(path)})
    return [path, card_path(path)]


def load_head(path: Path) -> tuple[BaseHead, dict[str, Any]]:
    """Read a head in evaluation mode, and its card.

    Raises:
        StoreError: weights or card are missing, damaged, of a newer usam, or do not belong
            together, or the head was trained with an option that is no more.
    """
    try:
        card = json.loads(card_path(path).read_text(encoding="utf-8"))
        digest = file_digest(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot read the head or its card: {error}; fit again") from error
    if card.get("weights_sha256") != digest:
        raise StoreError(
            f"{path}: expected weights with SHA-256 {card.get('weights_sha256')} as in its card, "
            f"got {digest}; fit again"
        )
    if card.get("format", 1) not in range(1, FORMAT + 1):
        raise StoreError(
            f"{card_path(path)}: got a head of format {card['format']!r}; expected at most "
            f"{FORMAT}. Fit again, or use the usam that made it"
        )
    try:
        settings = card["settings"]
        labels = len(card["classes"]) + len(card.get("negatives", []))
        head: BaseHead | None = None
        if settings.get("text", "off") != "alone":
            widths = card.get("block_widths", [card["features_width"]])
            _refuse_removed(path, settings, len(widths))
            outputs = labels + settings.get("background", False)
            head = make_head(widths, outputs, settings["hidden"], settings["dropout"])
            if familiar := card.get("familiar"):
                head = FamiliarHead(head, head.width, familiar["owners"], familiar["share"])
        if text := card.get("text"):
            head = TextHead(head, text["first"], text["width"], text["outputs"], text["weight"])
        if head is None:
            raise KeyError("text")
        head.load_state_dict(load_file(path))
    except (KeyError, TypeError, RuntimeError) as error:
        raise StoreError(
            f"{card_path(path)}: does not describe the head beside it ({error!r}); fit again"
        ) from error
    return head.eval(), card


def _refuse_removed(path: Path, settings: dict[str, Any], blocks: int) -> None:
    removed = [("bank", "off"), *([("fusion", "late")] if blocks > 1 else [])]
    for key, same in removed:
        if (value := settings.get(key, same)) != same:
            raise StoreError(
                f"{path}: the head was trained with head.{key}: {value}, which was removed, "
                "measured worthless (docs/decisions/0019-what-went.md); delete that line of "
                "project.yaml and train it anew: usam fit project.yaml"
            )
