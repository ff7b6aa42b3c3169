"""docs/python.md: what it shows runs, block after block, as one notebook would."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)


def python_of(page):
    return BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", ["docs/python.md", "README.md"])
def test_python_of_the_page_runs(page, project_file, monkeypatch):
    folder = project_file.parent
    pictures = sorted((folder / "out" / "collect" / "pictures").glob("*/*.png"))
    for number, name in enumerate(("dog", "cat", "grass")):
        (folder / "pictures" / name).mkdir(parents=True)
        for picture in pictures[3 * number : 3 * number + 3]:
            shutil.copy(picture, folder / "pictures" / name / picture.name)
    shutil.copy(folder / "images" / "s0.png", folder / "street.png")
    monkeypatch.chdir(folder)
    found = python_of(page)
    assert found
    names = {}
    for text in found:
        exec(compile(text, page, "exec"), names)
