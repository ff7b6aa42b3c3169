"""Label Studio: tasks with predictions, as brush strokes or as polygons.

A brush mask is Label Studio's own run-length code of an RGBA picture (all four channels are the
mask): a stream of bits with a head of 53 bits (number of values, bits of a value, and the four
sizes that a count may have) and then, for each run, a 1, which of the sizes, the count less one,
and the value.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from usam_core.labels.image import LabelledImage
from usam_core.masks.rle import Crop
from usam_core.outputs.base import Writer, write_json_list, write_text

_COUNT_BITS = np.array([3, 4, 8, 16])
_LONGEST = 1 << 16
_CHANNELS = 4


class LabelStudioWriter(Writer):
    """`tasks.json` to import, and the labelling configuration that it belongs to."""

    name = "label_studio"

    def rows(self, image: LabelledImage) -> Iterator[dict[str, Any]]:
        numbers = range(len(image.instances))
        results = [result for number in numbers for result in self._results(image, number)]
        scores = [instance.score for instance in image.instances]
        score = round(sum(scores) / len(scores), 6) if scores else 0.0
        yield {
            "data": {"image": _address(image), "sha256": image.sha256},
            "predictions": [{"score": score, "result": results}],
        }

    def finish(self, rows: Iterator[dict[str, Any]]) -> list[Path]:
        tasks = write_json_list(self.to.folder / "tasks.json", map(self._signed, rows))
        kind = "BrushLabels" if self.to.shapes == "brush" else "PolygonLabels"
        lines = ["<View>", '  <Image name="image" value="$image" zoom="true"/>']
        lines.append(f'  <{kind} name="label" toName="image">')
        names = self.to.label_map.names
        for name, color in zip(names, self.to.label_map.colors[1:], strict=True):
            background = "#" + bytes(color.tolist()).hex()
            lines.append(f'    <Label value={quoteattr(name)} background="{background}"/>')
        lines += [f"  </{kind}>", "</View>", ""]
        return [tasks, write_text(self.to.folder / "label_config.xml", "\n".join(lines))]

    def _signed(self, task: dict[str, Any]) -> dict[str, Any]:
        for prediction in task["predictions"]:
            prediction["model_version"] = f"usam {self.to.run[:12]}"
        return task

    def _results(self, image: LabelledImage, number: int) -> Iterator[dict[str, Any]]:
        instance = image.instances[number]
        h, w = image.size_hw
        name = self.to.label_map.names[instance.class_index]
        common = {
            "from_name": "label",
            "to_name": "image",
            "original_width": w,
            "original_height": h,
            "image_rotation": 0,
            "score": instance.score,
        }
        value: dict[str, Any]
        if self.to.shapes == "brush":
            rle = brush_rle(image.crops[number], image.size_hw)
            value = {"format": "rle", "rle": rle, "brushlabels": [name]}
            yield {"id": str(number + 1), "type": "brushlabels", **common, "value": value}
            return
        for part, ring in enumerate(image.polygons(self.to.tolerance)[number], start=1):
            points = (ring * 100.0 / [w, h]).tolist()
            value = {"points": points, "closed": True, "polygonlabels": [name]}
            id_ = f"{number + 1}-{part}"
            yield {"id": id_, "type": "polygonlabels", **common, "value": value}


def brush_rle(crop: Crop, size_hw: tuple[int, int]) -> list[int]:
    """A mask in Label Studio's code, as the bytes' numbers."""
    h, w = size_hw
    edges = np.diff(np.pad(crop.mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    at_row, begin = np.nonzero(edges == 1)
    end = np.nonzero(edges == -1)[1]
    start = (crop.top + at_row) * w + crop.left + begin
    # Background and mask in turn, to the end of the picture.
    bounds = np.stack([start, start + end - begin], axis=1).ravel()
    lengths = np.diff(bounds, prepend=0, append=h * w) * _CHANNELS
    values = np.tile([0, 255], len(start) + 1)[: len(lengths)]
    pieces = -(-lengths // _LONGEST)
    counts = np.full(int(pieces.sum()), _LONGEST)
    last = np.cumsum(pieces) - 1
    counts[last[pieces > 0]] = (lengths - (pieces - 1) * _LONGEST)[pieces > 0]
    values = np.repeat(values, pieces)
    size = np.searchsorted(1 << _COUNT_BITS, counts)
    bits = _COUNT_BITS[size]
    words = ((((1 << 2) | size) << bits) | (counts - 1)) << 8 | values
    # A count of 16 bits makes a word of 27.
    used = 3 + bits + 8
    table = (words[:, None] >> np.arange(26, -1, -1)) & 1
    stream = table[np.arange(27) >= (27 - used)[:, None]]
    head = f"{h * w * _CHANNELS:032b}{7:05b}" + "".join(f"{b - 1:04b}" for b in _COUNT_BITS)
    start_bits = np.array(list(head), np.uint8)
    return np.packbits(np.concatenate([start_bits, stream.astype(np.uint8)])).tolist()


def _address(image: LabelledImage) -> str:
    """An image's address for Label Studio: local files below its root, or a URL."""
    ref = image.ref
    if "://" in image.file:
        return str(replace(ref, file=image.file))
    plane = "".join(f"&{axis}={index}" for axis, index in ref.plane)
    return f"/data/local-files/?d={quote(ref.file)}{plane}"
