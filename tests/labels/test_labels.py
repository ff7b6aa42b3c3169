"""Labelled images, their parts on disk, and the one place that turns class indexes into ids."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import usam_core
from usam_core.errors import StoreError
from usam_core.labels import Instance, LabelledImage, LabelMap, parts
from usam_core.labels.parts import Parts, write_part
from usam_core.masks.rle import mask_record

NAMES = LabelMap.of_names(["a", "b", "c"])
SIZE = (5, 7)

numbers = st.floats(0, 1).map(lambda value: round(value, 6))
indexes = st.integers(0, 2)


@st.composite
def instances(draw):
    top, left = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    mask = np.zeros(SIZE, bool)
    mask[top : top + draw(st.integers(1, 3)), left : left + draw(st.integers(1, 3))] = True
    shape = mask_record(mask, 0)
    head_said = draw(st.none() | indexes)
    return Instance(
        class_index=draw(indexes),
        rle=shape["segmentation"],
        area=shape["area"],
        bbox=tuple(shape["bbox"]),
        score=draw(numbers),
        probability=draw(numbers),
        runner_up=draw(st.none() | indexes),
        entropy=draw(numbers),
        predicted_iou=draw(numbers),
        prompt=draw(st.integers(0, 99)),
        point=draw(st.none() | st.tuples(numbers, numbers)),
        reviewed=draw(st.none() | st.just("accepted")) if head_said is None else "changed",
        head_said=head_said,
        threshold=draw(st.none() | numbers),
    )


some = st.lists(instances(), max_size=3).map(tuple)


@st.composite
def images(draw):
    path = draw(st.text("abc/é ", min_size=1, max_size=5)).strip("/ ") or "x"
    return LabelledImage(
        path=f"{path}.png",
        sha256="0" * 64,
        size_hw=SIZE,
        label_map=NAMES,
        instances=draw(some),
        missed=draw(some),
        rejected=draw(st.none() | some),
        pixels=draw(st.dictionaries(st.integers(0, 3), st.integers(1, 35))),
        png="masks/x.png",
        png_sha256="1" * 64,
        tiles=draw(st.none() | st.tuples(st.just("k"))),
    )


def said(image):
    names = ("path", "sha256", "size_hw", "instances", "missed", "rejected", "pixels", "png")
    return [getattr(image, name) for name in (*names, "png_sha256", "tiles")]


def old(image):
    """Return the image as versions before wrote it, in JSON."""
    lists = {"annotations": image.instances, "missed": image.missed, "rejected": image.rejected}
    record = {**image.to_coco()["image"], "png": image.png, "png_sha256": image.png_sha256}
    record["pixels"] = {str(label): count for label, count in image.pixels.items()}
    for name, listed in lists.items():
        if listed is not None:
            record[name] = [one.to_coco() for one in listed]
    return record | ({} if image.tiles is None else {"tiles": list(image.tiles)})


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(images(), max_size=4), max_size=4), st.booleans())
def test_what_is_written_is_read_by_path_in_either_form(tmp_path_factory, groups, is_old):
    folder = tmp_path_factory.mktemp("labels")
    (folder / "parts").mkdir()
    files = {}
    for number, group in enumerate(groups):
        name = f"parts/{number}.{'json' if is_old else 'parquet'}"
        files[name] = None
        if is_old:
            records = [old(one) for one in sorted(group, key=lambda one: one.path)]
            (folder / name).write_text(json.dumps(records))
        else:
            write_part(folder / name, group)
    every = [image for group in groups for image in group]
    found = list(Parts(folder, files, NAMES).sorted_images())
    assert [one.path for one in found] == sorted(one.path for one in every)
    assert sorted(map(repr, map(said, found))) == sorted(map(repr, map(said, every)))
    few = list(Parts(folder, files, NAMES).images(["instances"]))
    assert sorted(repr(one.instances) for one in few) == sorted(repr(o.instances) for o in every)
    if not is_old:  # JSON is read whole
        assert not any(one.missed or one.rejected or one.pixels or one.tiles for one in few)


@given(instances())
def test_an_annotation_is_read_back(instance):
    assert Instance.from_coco(json.loads(json.dumps(instance.to_coco()))) == instance


def image_called(path):
    return LabelledImage(path, "0", SIZE, NAMES, png="masks/x.png", png_sha256="1")


def test_a_part_is_read_when_its_paths_are_due(tmp_path, monkeypatch):
    files = {}
    for number in range(20):
        files[f"parts/{number}.parquet"] = None
        group = [image_called(f"{number:02}-{k:03}.png") for k in range(200)]
        write_part(tmp_path / f"parts/{number}.parquet", group)
    read = []
    batches = parts._batches

    def counted(part, columns):
        for table in batches(part, columns):
            if "png" in table.column_names:
                read.append(len(table))
            yield table

    monkeypatch.setattr(parts, "_batches", counted)
    found = Parts(tmp_path, files, NAMES).sorted_images([])
    files_before = psutil.Process().num_fds()
    for _ in range(201):
        next(found)
    assert psutil.Process().num_fds() <= files_before + 2, "parts that are not due are open"
    assert sum(read) <= 200 + parts._ROWS
    assert max(read) <= parts._ROWS


def test_a_part_with_other_columns_or_bytes_is_told(tmp_path):
    file = tmp_path / "parts" / "one.parquet"
    write_part(file, [image_called("a.png")])
    table = pq.read_table(file)
    for other in (table.drop_columns(["instances"]), table.drop_columns(["height"])):
        pq.write_table(other, file)
        with pytest.raises(StoreError, match=r"one\.parquet: cannot be read as labels"):
            list(Parts(tmp_path, {"parts/one.parquet": None}).images())
    with pytest.raises(StoreError, match="damaged since it was written"):
        list(Parts(tmp_path, {"parts/one.parquet": "0" * 64}).images())
    file.write_bytes(b"PAR1 cut")
    with pytest.raises(StoreError, match="cannot be read as labels"):
        list(Parts(tmp_path, {"parts/one.parquet": None}).sorted_images())


def test_a_label_map_names_ids_and_classes():
    assert NAMES.ids() == {"a": 1, "b": 2, "c": 3}
    assert [NAMES.name_of(id_) for id_ in (-1, 0, 3, 4)] == [
        "unknown",
        "background",
        "c",
        "unknown",
    ]
    index = np.arange(3)
    assert NAMES.index_of(NAMES.id_of(index)).tolist() == index.tolist()
    assert NAMES.categories()[2] == {"id": 3, "name": "c"}
    assert replace(NAMES, colors=NAMES.colors + 1) == NAMES


BY_HAND = re.compile(
    r"category_id\W{0,3} [-+] 1\b|(classes|names)\[[^\]]* [-+] 1\]"
    r"|(classes|names)\.index\([^)]*\) \+ 1|enumerate\(\S*(classes|names)\S*, start=1\)"
)


def test_no_id_is_counted_by_hand():
    package = Path(usam_core.__file__).parent
    found = [
        f"{file.relative_to(package)}: {line.strip()}"
        for file in package.rglob("*.py")
        for line in file.read_text(encoding="utf-8").splitlines()
        if BY_HAND.search(line)
    ]
    # The objects of a drawn scene are numbered, not its classes; VOC's void is a number of truth.
    allowed = ("drawn.names, start=1", "self._names[void - 1]")
    assert [line for line in found if not any(one in line for one in allowed)] == []
