"""Run in an environment of its own: what the targets' libraries read of exports, as JSON.

Arguments: the folder that holds the exports, and where to write what was read.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import zarr


def yolo(root, work):
    """Return the class and the polygon that ultralytics' trainer has of each image."""
    from ultralytics.data import utils
    from ultralytics.data.dataset import YOLODataset

    utils.check_font = lambda *_: None  # fetches one
    data = utils.check_det_dataset(str(root / "yolo" / "data.yaml"))
    read = YOLODataset(img_path=data["train"], data=data, task="segment", augment=False)
    return {
        str(Path(one["im_file"]).resolve()): [
            (int(label), segment.tolist())
            for label, segment in zip(one["cls"].ravel(), one["segments"], strict=True)
        ]
        for one in read.labels
    }


def datumaro(root, work):
    """Return class and area of the objects of each image, of the three forms of COCO.

    datumaro wants the images beside, and knows them without their ending: of two that differ in it
    alone the JPEG is left out.
    """
    from datumaro import AnnotationType, Dataset

    found = {}
    for name in ("coco", "coco_polygons", "cvat"):
        (source,) = (root / name).rglob("*.json")
        document = json.loads(source.read_text(encoding="utf-8"))
        kept = [one for one in document["images"] if not one["file_name"].endswith(".jpg")]
        ids = {one["id"] for one in kept}
        notes = [one for one in document["annotations"] if one["image_id"] in ids]
        (work / name / "annotations").mkdir(parents=True)
        (work / name / "images").symlink_to(root / "images")
        file = work / name / "annotations" / "instances_default.json"
        file.write_text(json.dumps({**document, "images": kept, "annotations": notes}))
        dataset = Dataset.import_from(str(work / name), "coco_instances")
        names = [one.name for one in dataset.categories()[AnnotationType.label]]
        found[name] = {
            str(Path(item.media.path).resolve()): [
                (names[one.label], int(one.get_area()))
                for one in item.annotations
                if one.type != AnnotationType.bbox
            ]
            for item in dataset
        }
    return found


def label_studio(root, work):
    """Return class and mask of each task's brush strokes."""
    from label_studio_sdk.converter.brush import decode_rle

    found = {}
    for task in json.loads((root / "label_studio" / "tasks.json").read_text(encoding="utf-8")):
        strokes = []
        for one in task["predictions"][0]["result"]:
            size = one["original_height"], one["original_width"], 4
            mask = np.asarray(decode_rle(one["value"]["rle"])).reshape(size)[..., 3] > 0
            strokes.append((one["value"]["brushlabels"][0], mask.tolist()))
        found[task["data"]["image"]] = strokes
    return found


def labelme(root, work):
    """Return class and corners of each image's shapes; its pixels are found and have their size."""
    from labelme import LabelFile

    found = {}
    for file in sorted((root / "labelme").rglob("*.json")):
        read = LabelFile(str(file))
        assert read.image_data, f"{file}: no image beside it"
        image = str((file.parent / read.image_path).resolve())
        assert {one["shape_type"] for one in read.shapes} == {"polygon"}
        found[image] = [(one["label"], np.asarray(one["points"]).tolist()) for one in read.shapes]
    return found


def ome_zarr(root, work):
    """Return the full level and the number of levels of each group of labels; all are valid."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr_models.v04.image_label import ImageLabel as Label04
    from ome_zarr_models.v05.image_label import ImageLabel as Label05

    found = {}
    places = json.loads((root / "groups.json").read_text(encoding="utf-8"))
    for place in places:
        group = zarr.open_group(place, mode="r")
        (Label04 if group.metadata.zarr_format == 2 else Label05).from_zarr(group)
        nodes = list(Reader(parse_url(place))())  # of labels in an image, that comes first
        (node,) = (one for one in nodes if Path(one.zarr.path) == Path(place))
        full = np.asarray(node.data[0])
        found[place] = (full.tolist(), len(node.data))
    return found


def napari(root, work):
    """Run the recipe of the docs for each group; return the shape and kind of its last layer."""
    import napari
    from napari.components import ViewerModel

    napari.Viewer = ViewerModel  # without a window
    recipe = (root / "recipe.py").read_text(encoding="utf-8")
    found = {}
    for place in json.loads((root / "groups.json").read_text(encoding="utf-8")):
        said = {}
        exec(recipe.replace('"out/export/ome_zarr/a.zarr"', repr(place)), said)
        layer = said["viewer"].layers[-1]
        found[place] = (list(layer.data[0].shape if layer.multiscale else layer.data.shape),)
        found[place] += (bool(layer.multiscale), type(layer).__name__)
    return found


READERS = (yolo, datumaro, label_studio, labelme, ome_zarr, napari)


def main():
    """Run one reader."""
    reader, root, target = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    work = target.with_suffix("")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    read = {one.__name__: one for one in READERS}
    target.write_text(json.dumps(read[reader](root, work)), encoding="utf-8")


if __name__ == "__main__":
    main()
