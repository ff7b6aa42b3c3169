"""Metrics to files: one JSON, one CSV with a line a class."""

from dataclasses import asdict
from pathlib import Path

import pandas as pd

from usam_core.files.atomic import write_json
from usam_core.files.spreadsheet import write_csv
from usam_core.metrics.instance import InstanceScores
from usam_core.metrics.presence import PresenceScores
from usam_core.metrics.semantic import Confusion, SemanticScores


def class_table(
    semantic: SemanticScores, instance: InstanceScores | None, absent: PresenceScores
) -> pd.DataFrame:
    """Return one row a class: images, iou, ap50, false_positive_rate, false_positive_area."""
    rows = [
        {
            "class": name,
            "images": semantic.images[name],
            "iou": iou,
            "ap50": instance.per_class.get(name) if instance else None,
            "false_positive_rate": absent.per_class.get(name),
            "false_positive_area": absent.area.get(name),
        }
        for name, iou in semantic.per_class.items()
    ]
    return pd.DataFrame(rows)


def write_report(
    folder: Path,
    semantic: SemanticScores,
    instance: InstanceScores | None,
    absent: PresenceScores,
    confusion: Confusion,
) -> list[Path]:
    """Write `metrics.json` and `per_class.csv`; return both."""
    metrics, table = folder / "metrics.json", folder / "per_class.csv"
    write_json(
        metrics,
        {
            "semantic": asdict(semantic),
            "instance": asdict(instance) if instance else None,
            "absent_classes": asdict(absent),
            # Rows are truth, columns labels, in pixels.
            "confusion": {"names": confusion.names, "pixels": confusion.matrix.tolist()},
        },
    )
    return [metrics, write_csv(table, class_table(semantic, instance, absent))]
