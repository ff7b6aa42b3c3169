"""A bar chart of our rows beside published ones, drawn with Pillow."""

from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from usam_core.bench.tables import NOT_RUN, OURS
from usam_core.files.atomic import whole_file

_COLORS = {OURS: "#c0392b", "papers": "#2c6fa6", "best": "#9aa5ad"}
_LEGEND = {
    OURS: "this run",
    "papers": f"the papers' tables ({NOT_RUN})",
    "best": f"best published, names only ({NOT_RUN})",
}
_WIDTH, _LEFT, _RIGHT = 1000, 330, 120
_ROW, _TOP, _BOTTOM = 26, 64, 84


def save_figure(path: Path, table: pd.DataFrame, measure: str, title: str) -> None:
    """Write the chart as PNG, the largest bar on top.

    Args:
        path: where to.
        table: as `result_table` returns it; rows without the measure are left out.
        measure: `miou` or `map50`, percent.
        title: the headline.
    """
    rows = table[table[measure].notna()].sort_values(measure, ascending=False, kind="stable")
    picture = Image.new("RGB", (_WIDTH, _TOP + _ROW * len(rows) + _BOTTOM), "white")
    pen = ImageDraw.Draw(picture)
    font, bold = ImageFont.load_default(14), ImageFont.load_default(18)
    name = {"miou": "mIoU", "map50": "mAP50 of masks"}[measure]
    pen.text((16, 14), f"{title}: {name}, %", fill="black", font=bold)
    scale = (_WIDTH - _LEFT - _RIGHT) / 100
    bottom = _TOP + _ROW * len(rows)
    for tick in range(0, 101, 20):
        x = _LEFT + tick * scale
        pen.line([(x, _TOP - 8), (x, bottom)], fill="#dddddd")
        pen.text((x, _TOP - 10), str(tick), fill="#666666", font=font, anchor="mb")
    for number, row in enumerate(rows.to_dict("records")):
        middle = _TOP + _ROW * number + _ROW // 2
        value, deviation = row[measure], row[f"{measure}_deviation"]
        label = f"{row['method']} ({row['training']})"
        pen.text((_LEFT - 8, middle), label, fill="black", font=font, anchor="rm")
        end = _LEFT + value * scale
        box = [(_LEFT, middle - 8), (max(end, _LEFT + 1), middle + 8)]
        pen.rectangle(box, fill=_COLORS[row["group"]])
        text = f"{value:.1f}"
        if pd.notna(deviation):
            text = f"{text} ± {deviation:.1f}"
            reach = deviation * scale
            pen.line([(end - reach, middle), (end + reach, middle)], fill="black", width=2)
            end += reach
        pen.text((end + 8, middle), text, fill="black", font=font, anchor="lm")
    for number, (group, words) in enumerate(_LEGEND.items()):
        y = bottom + 14 + 20 * number
        pen.rectangle([(16, y), (28, y + 12)], fill=_COLORS[group])
        pen.text((36, y + 6), words, fill="black", font=font, anchor="lm")
    with whole_file(path) as temporary:
        picture.save(temporary, format="PNG")
