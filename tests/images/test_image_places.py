"""Which images are meant: patterns, lists, and data sets, each with errors that name the row."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.config.project import Project, load_project
from usam_core.config.template import write_template
from usam_core.errors import ConfigError, InputError
from usam_core.images.listing.scan import list_images
from usam_core.images.listing.walk import Globs
from usam_core.steps.images_to_label import labelled_files, labelled_images


def picture(path: Path, color: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), color).save(path)
    return path


def project(folder: Path, **images: object) -> Project:
    file = folder / "project.yaml"
    settings = {"classes": ["disc", "ring"], "images": images, "training": {"source": "render"}}
    file.write_text(yaml.safe_dump(settings))
    return load_project(file)


def listed(folder: Path, **images: object) -> list[str]:
    return labelled_images(project(folder, **images))["path"].tolist()


@pytest.fixture
def tree(tmp_path) -> Path:
    for name in ("a.png", "a_thumb.png", "old/b.png", "p/x/c.tif", "p/d.tif", "p/e.png"):
        picture(tmp_path / "images" / name)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        ({"include": ["p/**/*.tif"]}, ["p/d.tif", "p/x/c.tif"]),
        ({"include": ["*.tif", "/a.png"]}, ["a.png", "p/d.tif", "p/x/c.tif"]),
        ({"exclude": ["*_thumb.*", "old/"]}, ["a.png", "p/d.tif", "p/e.png", "p/x/c.tif"]),
        ({"include": ["p/"], "exclude": ["*.tif", "!d.tif"]}, ["p/d.tif", "p/e.png"]),
        ({"include": ["*.PNG"]}, None),
    ],
)
def test_patterns_choose_among_the_files_of_a_folder(tree, patterns, found):
    if found is None:
        with pytest.raises(InputError, match="include and exclude"):
            listed(tree, path="images", **patterns)
    else:
        assert listed(tree, path="images", **patterns) == found


def test_an_excluded_folder_is_not_looked_into(tree, monkeypatch):
    seen = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: seen.append(Path(path).name) or scandir(path))
    root = tree / "images"
    list_images(ImagesConfig(path=root), root, globs=Globs(None, ["p/"]))
    assert sorted(seen) == ["images", "old"]


def test_the_order_is_that_of_the_whole_paths(tmp_path):
    names = ["a-b/x.png", "a.png", "a/z.png", "a/b/y.png", "a0.png", "ab/x.png", "é.png"]
    for name in names:
        picture(tmp_path / name)
    found = list_images(ImagesConfig(path=tmp_path), tmp_path)["path"].tolist()
    assert found == sorted(names)


def test_links_in_circles_through_one_another_end(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / name / f"{name}.png")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "up").symlink_to(tmp_path)
    found = list_images(ImagesConfig(path=tmp_path), tmp_path)["path"].tolist()
    # Each folder once, by whichever way comes first.
    assert found == ["a/a.png", "a/to_b/b.png"]


def test_folders_may_lie_deeper_than_python_calls(tmp_path):
    folders = [tmp_path / "/".join("d" * depth) for depth in range(1, 1201)]
    for folder in folders:
        folder.mkdir()
    last = picture(folders[-1] / "a.png")
    assert len(list_images(ImagesConfig(path=tmp_path), tmp_path)) == 1
    # Python removes folders by recursion.
    last.unlink()
    for folder in reversed(folders):
        folder.rmdir()


def write_list(file: Path, column: str, names: list[str]) -> None:
    table = pd.DataFrame({"well": ["w"] * len(names), column: names})
    if file.suffix == ".csv":
        table.to_csv(file, index=False)
    elif file.suffix == ".parquet":
        table.to_parquet(file)
    else:
        file.write_text("# wells\n\n" + "\n".join(names) + "\n")


@pytest.mark.parametrize("column", ["path", "file_name"])
@pytest.mark.parametrize("ending", [".txt", ".csv", ".parquet"])
def test_a_list_names_the_images(tree, ending, column):
    file = tree / f"wells{ending}"
    write_list(file, column, ["p/d.tif", "a.png", "./a.png", "gone.png"])
    for images in (
        {"path": "images", "files": file.name},
        {"path": file.name, "root": "images"},
    ):
        table = labelled_images(project(tree, **images)).set_index("path")
        assert table["code"].to_dict() == {"a.png": "", "gone.png": "missing", "p/d.tif": ""}
    files = labelled_files(project(tree, path="images", files=file.name))
    assert set(files.values()) <= {str(tree / "images" / n) for n in ("a.png", "p/d.tif")}


def test_a_list_in_the_folder_of_its_images_needs_no_root(tree):
    write_list(tree / "images" / "wells.csv", "path", ["p/d.tif"])
    assert listed(tree, path="images/wells.csv") == ["p/d.tif"]


@pytest.mark.parametrize(
    ("ending", "where"), [(".txt", ":4:"), (".csv", ":3:"), (".parquet", ":2:")]
)
@pytest.mark.parametrize("bad", ["../out.png", "/etc/a.png", "s3://lab/a.png"])
def test_a_row_that_leads_elsewhere_is_named(tree, ending, where, bad):
    file = tree / f"wells{ending}"
    write_list(file, "path", ["a.png", bad])
    with pytest.raises(InputError) as error:
        listed(tree, path="images", files=file.name)
    assert f"{file}{where} got {bad!r}" in str(error.value)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_that_a_spreadsheet_wrote_with_other_separators(tree, separator):
    rows = [["well", "path"], ["a, b; c", "p/d.tif"], ["w", "a.png"]]
    rows[1][0] = f'"{rows[1][0]}"'
    (tree / "wells.csv").write_bytes("\r\n".join(map(separator.join, rows)).encode("utf-8-sig"))
    assert listed(tree, path="images", files="wells.csv") == ["a.png", "p/d.tif"]


def test_commas_are_tried_first(tree):
    picture(tree / "images" / "x;y.png")
    (tree / "wells.csv").write_text("path,path;well\nx;y.png,1\n")
    assert listed(tree, path="images", files="wells.csv") == ["x;y.png"]


def test_an_empty_cell_is_a_mistake_with_its_row(tree):
    (tree / "wells.csv").write_text("path,well\na.png,1\n,2\n")
    with pytest.raises(InputError, match=r"wells\.csv:3: got ''"):
        listed(tree, path="images", files="wells.csv")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("l.csv", b"file,well\na.png,1\n", "expected path or file_name"),
        ("l.csv", b"file|path\na.png|1\n", "between commas, semicolons or tabs"),
        ("l.csv", b"", "expected a header"),
        ("l.parquet", b"rubbish", "no parquet"),
        ("l.txt", b"\xff\xfe\x00", "no text"),
        ("l.txt", b"# nothing\n", "names no image"),
        ("l.json", b"[]", "COCO JSON"),
        ("l.json", b'{"images": [{"id": 1}]}', "file_name"),
        ("l.xlsx", b"", "expected one of .txt"),
    ],
)
def test_a_list_that_cannot_be_read_says_what_it_should_be(tree, name, content, said):
    (tree / name).write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        listed(tree, path="images", files=name)
    assert name in str(error.value)


def test_the_images_of_a_coco_data_set(tree):
    annotations = {"images": [{"id": 7, "file_name": "p/d.tif"}, {"id": 9, "file_name": "a.png"}]}
    (tree / "instances.json").write_text(json.dumps(annotations))
    # `images` lies beside it; elsewhere its folder is said.
    assert listed(tree, path="instances.json") == ["a.png", "p/d.tif"]
    (tree / "sets").mkdir()
    (tree / "instances.json").rename(tree / "sets" / "instances.json")
    assert listed(tree, path="sets/instances.json", root="images") == ["a.png", "p/d.tif"]


def test_the_images_of_a_voc_set(tmp_path):
    for name in ("2007_1.jpg", "2007_2.png", "2007_3.jpg"):
        picture(tmp_path / "VOC2012" / "JPEGImages" / name)
    sets = tmp_path / "VOC2012" / "ImageSets" / "Segmentation"
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("2007_3\n2007_2  1\n")
    assert listed(tmp_path, path="VOC2012/ImageSets/Segmentation/val.txt") == [
        "2007_2.png",
        "2007_3.jpg",
    ]
    (sets / "val.txt").write_text("2007_3\n2007_4\n")
    with pytest.raises(InputError, match=r"val\.txt:2: got '2007_4'"):
        listed(tmp_path, path="VOC2012/ImageSets/Segmentation/val.txt")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["my cell", "cell 1"], ["cell 1.jpg", "my cell.jpg"]),
        (["cell 1", "cell 2"], ["cell 1.jpg", "cell 2.jpg"]),
        (["cell 1", "my cell -1"], ["cell.jpg", "my cell.jpg"]),
        (["cell 1 1", "cell 2  0"], ["cell 1.jpg", "cell 2.jpg"]),
        (["cell 1 1 -1", "my cell"], ["cell 1.jpg", "my cell.jpg"]),
        (["my cell", "your cell 1"], None),
    ],
    ids=["spaces", "spaces and numbers", "a class", "a class of both", "an object", "none"],
)
def test_names_with_spaces_in_a_voc_set(tmp_path, lines, found):
    for name in ("cell", "cell 1", "cell 2", "my cell"):
        picture(tmp_path / "VOC2012" / "JPEGImages" / f"{name}.jpg")
    sets = tmp_path / "VOC2012" / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    (sets / "val.txt").write_text("\n".join(lines))
    if found is None:
        with pytest.raises(InputError, match=r"val\.txt:2: got 'your cell 1'"):
            listed(tmp_path, path="VOC2012/ImageSets/Main/val.txt")
    else:
        assert listed(tmp_path, path="VOC2012/ImageSets/Main/val.txt") == found


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"path": "nowhere"}, "images.path: got 'nowhere'; expected a folder that exists"),
        ({"path": "gone.csv"}, "images.path: got 'gone.csv'; expected a file that exists"),
        ({"path": "images", "files": "gone.csv"}, "images.files: got 'gone.csv'"),
        ({"path": "images", "root": "images"}, "images.root: got 'images'; expected none"),
        ({"path": "l.csv", "root": "gone"}, "images.root: got 'gone'; expected a folder"),
        ({"path": "s3://key:secret@lab/x"}, "without keys"),
        ({"path": "https://lab.example/x?sig=1"}, "without keys or a query"),
        ({"path": "zip://a::s3://lab/x.zip"}, "chains"),
        ({"path": "images", "include": ["!"]}, "gitignore"),
        ({"path": "images", "include": []}, "images.include"),
    ],
)
def test_a_place_that_cannot_be_meant_is_a_mistake_of_the_project_file(tree, images, said):
    (tree / "l.csv").touch()
    with pytest.raises(ConfigError) as error:
        project(tree, **images)
    assert said in str(error.value)


@pytest.mark.parametrize("images", ["s3://lab/plates", "https://lab.example/plates/"])
def test_init_takes_a_url_as_it_is(tmp_path, images):
    file = write_template(tmp_path, ["disc", "ring"], images, source="synthetic")
    assert load_project(file).images.root == images


def test_init_takes_a_coco_json(tree):
    coco = tree / "c.json"
    coco.write_text(json.dumps({"images": [{"file_name": "a.png"}]}))
    file = write_template(tree / "new", ["disc", "ring"], coco, source="synthetic")
    assert labelled_images(load_project(file))["path"].tolist() == ["a.png"]


def test_a_url_of_the_local_disk_is_a_path(tree):
    (tree / "images").rename(tree / "my images")
    for start in ("file://", "FILE://localhost"):
        opened = project(tree, path=f"{start}{tree}/my%20images")
        assert opened.images_path == tree / "my images"
