"""Killed three times at points that nobody chose, a class ends as if nothing had happened."""

import json
import random
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.usam_process import Started
from tests.web_site import Site, settings
from usam_core.sources.web.source import JOURNAL

WORKER = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from usam_core.config.schema import ClassSpec
from usam_core.config.training import WebConfig
from usam_core.progress import SILENT
from usam_core.sources.web.source import WebSource

folder = Path(sys.argv[1])
config = WebConfig.model_validate_json((folder / "config.json").read_text())
print("ready", flush=True)
collected = WebSource(folder / "web", config, folder).collect(ClassSpec(name="dog"), SILENT)
(folder / "result.json").write_text(json.dumps(asdict(collected)))
"""


def fill(site):
    """Give the site two engines with good and bad addresses, and a tree of pages."""
    for engine, base in (("bing", 0), ("google", 100)):
        site.results[engine] = {
            "dog": [
                path
                for n in range(base, base + 22)
                for path in (f"/img/{n}.jpg", f"/half/{n}", f"/img/{n}.png", f"/moved/{n}")
            ][: 45 if engine == "bing" else 20]
        }
    site.pages["/"] = "".join(f'<a href="/p/{n}">x</a>' for n in range(12))
    for n in range(12):
        images = f'<img src="/img/{300 + 2 * n}.jpg"><img src="/img/{301 + 2 * n}.jpg">'
        site.pages[f"/p/{n}"] = f'{images}<a href="/p/{n}/more">x</a>'
        site.pages[f"/p/{n}/more"] = f'<img src="/img/{400 + n}.jpg">'


def start(folder):
    collecting = Started(folder, code=WORKER)
    deadline = time.monotonic() + 100
    while collecting.printed() != "ready\n":
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return collecting


def settled(folder):
    """Return the addresses that the journal calls done, and the pages."""
    file = folder / "web" / "dog" / JOURNAL
    if not file.exists():
        return set(), set()
    with closing(sqlite3.connect(file)) as db:
        if not db.execute("SELECT name FROM sqlite_master").fetchall():
            return set(), set()
        answers = {url for (url,) in db.execute("SELECT url FROM answers")}
        return answers, set(db.execute("SELECT engine, page FROM pages"))


def pictures_of(counts):
    return {path for path in counts if not path.startswith("/p/")}


def without_times(folder):
    result = json.loads((folder / "result.json").read_text())
    for got in result["pictures"]:
        assert got["provenance"].pop("fetched")
        got["path"] = Path(got["path"]).name
    return result["pictures"], result["rejected"]


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path):
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    rng = random.Random()
    with Site() as site:
        fill(site)
        site.delay = 0.03
        sites = {"engines": ["bing", "google", "sites"], "sites": {"dog": [site.url]}}
        config = settings(site, per_class=60, concurrency=6, retries=0, **sites)
        for folder in (calm, killed):
            folder.mkdir()
            (folder / "config.json").write_text(config.model_dump_json())
        collecting, began = start(calm), time.monotonic()
        assert collecting.wait(60).returncode == 0
        seconds = time.monotonic() - began
        calm_visits = site.counts
        with site.lock:
            site.visits.clear()

        progressed = []
        for part in range(3):
            collecting = start(killed)
            # In the first run also before there is anything.
            time.sleep(rng.uniform(0.02 if part == 0 else 0.15, seconds * 0.25))
            collecting.kill()
            assert collecting.process.exitcode < 0
            before = site.counts
            answers, pages = settled(killed)
            progressed.append((before, answers, pages))
        assert start(killed).wait(60).returncode == 0
        after = site.counts

    assert not list((killed / "web" / "dog").glob(".partial-*"))
    assert len(json.loads((calm / "result.json").read_text())["pictures"]) == 60
    assert without_times(killed) == without_times(calm)
    assert len(progressed[-1][1]) > 5
    for before, answers, pages in progressed:
        for url in answers:
            path = url.removeprefix(site.url)
            assert after[path] == before[path], f"{path} was done and fetched again"
        for engine, page in pages:
            if engine == "sites":
                path = page.removeprefix(site.url)
                assert after[path] == before[path], f"{path} was read and fetched again"
    # At most what was in flight at a kill is asked for again.
    again = sum((after - calm_visits).values())
    assert again <= 3 * (6 + 6)
    # Which pages are read ahead may differ, which pictures are fetched may not.
    assert pictures_of(after) == pictures_of(calm_visits)
