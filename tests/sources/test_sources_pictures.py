"""The folder and the renderer as sources of training pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from usam_core.config.schema import ClassSpec, ImagesConfig
from usam_core.config.training import RenderConfig
from usam_core.errors import InputError
from usam_core.files.digest import file_digest
from usam_core.progress import SILENT
from usam_core.sources.base import to_frame
from usam_core.sources.local import FolderSource, RenderSource


def picture(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


def folder_source(tmp_path):
    return FolderSource(tmp_path / "pictures", ImagesConfig(path=tmp_path), tmp_path / "cache")


def test_a_class_takes_its_folder_and_those_of_its_synonyms(tmp_path):
    picture(tmp_path / "pictures" / "Dog" / "a.png", 10)
    picture(tmp_path / "pictures" / "hound" / "deep" / "b.png", 20)
    picture(tmp_path / "pictures" / "cat" / "c.png", 30)
    spec = ClassSpec(name="dog", synonyms=["hound"])
    found = folder_source(tmp_path).collect(spec, SILENT).pictures
    assert sorted(p.path.rsplit("/", 1)[1] for p in found) == ["a.png", "b.png"]
    assert all(p.sha256 == file_digest(p.path) for p in found)
    assert {p.source for p in found} == {"folder"}


def test_the_same_content_counts_once(tmp_path):
    picture(tmp_path / "pictures" / "dog" / "a.png", 10)
    picture(tmp_path / "pictures" / "dog" / "copy.png", 10)
    assert len(folder_source(tmp_path).collect(ClassSpec(name="dog"), SILENT).pictures) == 1


def test_inputs_change_with_the_content_and_the_names_of_pictures_not_with_their_folder(tmp_path):
    """The manifest names the pictures: one that was renamed is missing there."""
    path = tmp_path / "one" / "pictures" / "dog" / "a.png"
    picture(path, 10)
    before = folder_source(tmp_path / "one").inputs(ClassSpec(name="dog"))
    (tmp_path / "one").rename(tmp_path / "two")
    assert folder_source(tmp_path / "two").inputs(ClassSpec(name="dog")) == before
    path = tmp_path / "two" / "pictures" / "dog" / "a.png"
    path.rename(path.with_name("b.png"))
    assert folder_source(tmp_path / "two").inputs(ClassSpec(name="dog")) != before
    path.with_name("b.png").rename(path)
    picture(path, 11)
    assert folder_source(tmp_path / "two").inputs(ClassSpec(name="dog")) != before


def test_a_missing_class_folder_is_named_with_what_there_is(tmp_path):
    picture(tmp_path / "pictures" / "dogs" / "a.png", 10)
    with pytest.raises(InputError, match=r"no folder named 'dog'.*found \['dogs'\]"):
        folder_source(tmp_path).collect(ClassSpec(name="dog"), SILENT)


def test_drawing_more_later_keeps_the_first_pictures(tmp_path):
    spec = ClassSpec(name="star")
    few = RenderSource(tmp_path, RenderConfig(per_class=2, size=64), seed=1)
    more = RenderSource(tmp_path, RenderConfig(per_class=4, size=64), seed=1)
    first = few.collect(spec, SILENT).pictures
    stamps = [(tmp_path / p.path).stat().st_mtime_ns for p in first]
    second = more.collect(spec, SILENT).pictures
    assert [p.sha256 for p in second[:2]] == [p.sha256 for p in first]
    assert [(tmp_path / p.path).stat().st_mtime_ns for p in second[:2]] == stamps
    assert len({p.sha256 for p in second}) == 4


def test_an_interrupted_drawing_goes_on_to_the_same_pictures(tmp_path):
    spec, config = ClassSpec(name="ring"), RenderConfig(per_class=3, size=64)
    whole = RenderSource(tmp_path / "a", config, seed=1).collect(spec, SILENT).pictures
    resumed = RenderSource(tmp_path / "b", config, seed=1)
    victim = resumed.collect(spec, SILENT).pictures[1]
    (tmp_path / victim.path).unlink()
    assert [p.sha256 for p in resumed.collect(spec, SILENT).pictures] == [p.sha256 for p in whole]


def test_a_name_that_cannot_be_drawn_says_which_can(tmp_path):
    source = RenderSource(tmp_path, RenderConfig(), seed=0)
    with pytest.raises(InputError, match=r"'nucleus' cannot be drawn.*'crescent'"):
        source.inputs(ClassSpec(name="nucleus"))


def test_a_synonym_may_name_the_shape(tmp_path):
    source = RenderSource(tmp_path, RenderConfig(per_class=1, size=64), seed=0)
    found = source.collect(ClassSpec(name="bacterium", synonyms=["rod"]), SILENT).pictures
    table = to_frame(found)
    assert list(table["class"]) == ["bacterium"]
    assert json.loads(table["provenance"][0])["shape"] == "rod"
