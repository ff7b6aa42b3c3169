"""Names below a folder, what links lead to, and every place that takes files away."""

import ast
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import usam_core.files.paths
from usam_core.errors import StoreError
from usam_core.files.paths import inside, remove

names = st.text(st.sampled_from("ab./\\:C"), max_size=12)


@settings(max_examples=300, deadline=None)
@given(names, st.booleans())
def test_a_name_leads_below_its_folder_or_nowhere(name, linked):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(os.path.realpath(folder)) / "root"
        root.mkdir()
        (root / "a").symlink_to(root.parent)
        try:
            found = inside(root, name, linked=linked)
        except StoreError:
            return
        assert Path(os.path.normpath(found)).is_relative_to(root)
        if not linked:
            assert Path(os.path.realpath(found)).is_relative_to(root)


def test_a_root_may_be_a_link_and_a_link_is_removed_not_what_it_leads_to(tmp_path):
    (tmp_path / "disk" / "kept").mkdir(parents=True)
    (tmp_path / "root").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "link").symlink_to(tmp_path / "disk" / "kept")
    (tmp_path / "disk" / "folder" / "b").mkdir(parents=True)
    root = tmp_path / "root"
    assert inside(root, "kept/new") == root / "kept" / "new"
    for name in ("link", "folder", "never there"):
        remove(root, root / name)
    assert os.listdir(root) == ["kept"]
    with pytest.raises(StoreError, match="stays below"):
        remove(root, tmp_path / "disk2")


DELETIONS = {
    "rmtree": {
        "files/atomic.py",  # a temporary folder of its own
        "files/paths.py",
        "sources/local.py",  # folders named after classes and settings
        "sources/synthetic.py",
        "sources/web/source.py",
        "steps/annotate.py",  # folders of fixed names; `check_links` looks at them
        "steps/collect.py",
        "steps/render.py",
    },
    "unlink": {
        "files/atomic.py",
        "outputs/polygons.py",  # links of YOLO alone
        "files/paths.py",
        "sam/load.py",
        "steps/calibrate.py",  # files of fixed names
        "steps/embed.py",
        "steps/export.py",
        "steps/exporting.py",
        "steps/fit.py",
        "steps/gate.py",
        "steps/collect.py",
        "steps/label_images.py",  # what it has just written
        "steps/read_settings.py",
        "store/reader.py",
    },
    "rename": {
        "files/atomic.py",
        "files/spreadsheet.py",  # of columns
        "steps/export.py",
        "steps/exporting.py",
        "steps/label_images.py",  # of a label, not of a file
        "store/layout.py",
    },
    "move": set(),
    "remove": set(),
}
"""Which modules may take files away, and why: what they take away is not named by a file, or went
through `paths`. A new one stands here after somebody has looked."""


def test_every_place_that_takes_files_away_is_known():
    package = Path(usam_core.files.paths.__file__).parents[1]
    found = {name: set() for name in DELETIONS}
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            if not isinstance(called, ast.Attribute) or called.attr not in found:
                continue
            if called.attr in ("move", "remove") and ast.unparse(called.value) not in (
                "os",
                "shutil",
            ):
                continue
            found[called.attr].add(file.relative_to(package).as_posix())
    assert found == DELETIONS
