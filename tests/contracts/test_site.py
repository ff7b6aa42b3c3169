"""The documentation site: builds with no broken link, fetches nothing, shows the public names."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import usam_core

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow
pytest.importorskip("mkdocs", reason="needs the extra docs")


def build(root, out):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=root,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    built = build(ROOT, out)
    assert built.returncode == 0, built.stderr
    return out


def test_pages_from_outside_docs_are_there_and_links_lead_to_them(site):
    assert 'href="deployments/"' not in (site / "prefect/index.html").read_text("utf-8")
    assert 'href="../deployments/"' in (site / "prefect/index.html").read_text("utf-8")
    for page in ("index.html", "architecture/index.html", "decisions/index.html"):
        assert (site / page).is_file()


def test_pages_load_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*"', text)
        loaded += re.findall(r'<link[^>]*rel="(?:stylesheet|preload)"[^>]*href="http[^"]*"', text)
        assert loaded == [], page.relative_to(site)


def test_the_api_page_has_every_public_name(site):
    page = (site / "api/index.html").read_text("utf-8")
    shown = set(re.findall(r'id="usam_core\.([^".]+)"', page))
    assert set(getattr(usam_core, "__all__", ())) - {"__version__"} <= shown


def test_broken_links_fail_the_build_and_each_is_named(tmp_path):
    for name in ("docs", "scripts", "deployments", "usam_core"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for file in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml"]:
        shutil.copy(file, tmp_path)
    with (tmp_path / "docs/scale.md").open("a", encoding="utf-8") as page:
        page.write("\n[x](no-such-page.md) and [x](review.md#no-such-part)\n")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    for link in ("no-such-page.md", "no-such-part"):
        assert any("scale.md" in line and link in line for line in built.stderr.splitlines())
