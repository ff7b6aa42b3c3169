"""Images of any masks, written in a format, for the tests that read the formats back."""

import json

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from tests.export_data import target_in
from usam_core.outputs.formats import open_writer

sizes = st.tuples(st.integers(1, 19), st.integers(1, 27))


def masks_of(size):
    some = arrays(bool, size).filter(lambda mask: mask.any())
    return st.tuples(st.just(size), st.lists(some, max_size=5))


images = sizes.flatmap(masks_of)
few = settings(max_examples=60, deadline=None)


def written(name, image, folder, **options):
    """Write one image; return the writer, its file if it has one, and its index files."""
    writer = open_writer(name, target_in(folder, **options))
    path = writer.target(image)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        writer.write(image, path)
    return writer, path, writer.finish(iter(json.loads(json.dumps(list(writer.rows(image))))))


def filled(polygons, size_hw):
    """Fill polygons with pycocotools, which is not what wrote them."""
    flat = [np.asarray(polygon, float).ravel().tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *size_hw))).astype(bool)
