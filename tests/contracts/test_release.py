"""What a tag needs: one version in three files, the changelog's form."""

import re
import tomllib
from datetime import date
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
VERSIONS = re.findall(r"^## (\d+\.\d+\.\d+) - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.M)


def test_changelog_package_and_citation_name_the_same_version():
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    newest, day = VERSIONS[0]
    assert newest == version == citation["version"]
    assert date.fromisoformat(day) == citation["date-released"]


def test_changelog_has_unreleased_first_then_versions_newest_first():
    headings = re.findall(r"^## (.*)$", CHANGELOG, re.M)
    assert headings == ["Unreleased", *(f"{version} - {day}" for version, day in VERSIONS)]
    assert sorted(VERSIONS, key=lambda one: [*map(int, one[0].split("."))])[::-1] == VERSIONS
    parts = set(re.findall(r"^### (.*)$", CHANGELOG, re.M))
    assert parts <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
