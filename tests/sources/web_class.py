"""A class's pictures from the test's own web site, for the tests of the web source."""

from pathlib import Path

from tests.web_site import settings
from usam_core.config.schema import ClassSpec
from usam_core.progress import SILENT
from usam_core.sources.web.source import WebSource

DOG = ClassSpec(name="dog")


def source(site, folder, **changes):
    return WebSource(folder / "web", settings(site, **changes), folder)


def collect(site, folder, spec=DOG, **changes):
    return source(site, folder, **changes).collect(spec, SILENT)


def paths(site, collected):
    return [p.provenance["image_url"].removeprefix(site.url) for p in collected.pictures]


def codes(site, collected):
    return {r.origin.removeprefix(site.url): r.code for r in collected.rejected}


def jpegs(*numbers):
    return [f"/img/{number}.jpg" for number in numbers]


def write_list(folder, site, *found):
    rows = "".join(f"dog,{site.address(path)}\n" for path in found)
    (folder / "list.csv").write_text("class,url\n" + rows)
    return {"engines": ["urls"], "urls": Path("list.csv")}
