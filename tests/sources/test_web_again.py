"""The web source asked again: what is kept, what is fetched anew, and what ends a run early."""

import hashlib
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.sources.web_class import DOG, codes, collect, jpegs, paths, source, write_list
from tests.web_site import Site
from usam_core.errors import StoreError, TransientError
from usam_core.sources.web.source import JOURNAL

pytestmark = pytest.mark.usefixtures("short_waits")


def test_a_second_time_nothing_is_asked(site, tmp_path):
    site.results["bing"] = {"dog": [*jpegs(*range(8)), "/status/404", "/half/1"]}
    first = collect(site, tmp_path)
    visits = len(site.visits)
    assert collect(site, tmp_path) == first
    assert len(site.visits) == visits


def test_more_pictures_later_keep_the_first(site, tmp_path):
    site.results["bing"] = {"dog": jpegs(*range(60))}
    few = collect(site, tmp_path, per_class=5)
    more = collect(site, tmp_path, per_class=30)
    assert more.pictures[:5] == few.pictures
    assert max(site.counts.values()) == 1
    assert collect(site, tmp_path, per_class=5).pictures == few.pictures


def test_a_picture_that_was_lost_or_changed_is_fetched_again(site, tmp_path):
    site.results["bing"] = {"dog": jpegs(*range(20))}
    first = collect(site, tmp_path)
    Path(first.pictures[2].path).unlink()
    Path(first.pictures[4].path).write_bytes(b"x")
    again = collect(site, tmp_path)
    assert [p.sha256 for p in again.pictures] == [p.sha256 for p in first.pictures]
    assert {path for path, times in site.counts.items() if times > 1} == set(jpegs(2, 4))
    assert all(
        hashlib.sha256(Path(p.path).read_bytes()).hexdigest() == p.sha256 for p in again.pictures
    )


def test_other_limits_judge_anew(site, tmp_path):
    site.results["bing"] = {"dog": ["/padded/1"]}
    assert codes(site, collect(site, tmp_path, max_file_mb=0.05)) == {"/padded/1": "too_many_bytes"}
    assert len(collect(site, tmp_path, max_file_mb=0.5).pictures) == 1


def test_the_cap_on_bytes_ends_the_class_and_a_later_run_goes_on(site, tmp_path):
    site.results["bing"] = {"dog": [f"/padded/{n}" for n in range(20)]}
    first = collect(site, tmp_path, per_class=20, max_total_mb=0.75, concurrency=1)
    assert len(first.pictures) == 7
    assert first.rejected == []
    assert "max_total_mb" in first.notes[-1]
    assert "7 of 20" in first.notes[-1]
    assert len(site.visits) == 9
    second = collect(site, tmp_path, per_class=20, max_total_mb=2.5)
    assert paths(site, second) == [f"/padded/{n}" for n in range(20)]


def test_the_cap_on_time_ends_the_class(site, tmp_path):
    site.results["bing"] = {"dog": [*jpegs(1, 2), "/drip/3"]}
    collected = collect(site, tmp_path, max_minutes=1.5 / 60)
    assert paths(site, collected) == jpegs(1, 2)
    assert collected.rejected == []
    assert "max_minutes" in collected.notes[-1]
    assert codes(site, collect(site, tmp_path, timeout=0.5)) == {"/drip/3": "timeout"}


def test_no_engine_can_be_reached(tmp_path, site):
    site.results["bing"] = {"dog": jpegs(*range(3))}
    dead = dict.fromkeys(("bing", "google", "baidu"), "http://127.0.0.1:1")
    with pytest.raises(TransientError, match=r"bing: .* cannot be reached.*baidu"):
        collect(site, tmp_path, engine_urls=dead, retries=0)
    assert len(collect(site, tmp_path, per_class=3).pictures) == 3


def test_engines_in_trouble_are_worth_another_try(site, tmp_path):
    site.down = {"bing", "google", "baidu"}
    with pytest.raises(TransientError, match="503"):
        collect(site, tmp_path, retries=0)


def test_addresses_without_a_network_are_not_given_up_at_once(site, tmp_path, monkeypatch):
    listed = write_list(tmp_path, site, "/img/1.jpg", "http://gone.example/2.jpg")
    resolve = socket.getaddrinfo

    def no_server(host, *args, **kwargs):
        if host == "gone.example":
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", no_server)
    for _ in range(2):
        with pytest.raises(TransientError, match=r"gone\.example"):
            collect(site, tmp_path, retries=0, **listed)
    collected = collect(site, tmp_path, retries=0, **listed)
    assert codes(site, collected) == {"http://gone.example/2.jpg": "unreachable"}
    assert paths(site, collected) == ["/img/1.jpg"]


def test_a_damaged_journal_is_named(site, tmp_path):
    site.results["bing"] = {"dog": jpegs(*range(20))}
    collect(site, tmp_path)
    file = tmp_path / "web" / "dog" / JOURNAL
    content = file.read_bytes()
    for damaged in (b"x" * 5000, content[:2000] + bytes(9000) + content[11000:], content[:5000]):
        file.write_bytes(damaged)
        with pytest.raises(StoreError, match="delete the folder"):
            collect(site, tmp_path)
    with closing(sqlite3.connect(tmp_path / "other")) as other:
        other.execute("PRAGMA user_version = 7")
    file.write_bytes((tmp_path / "other").read_bytes())
    with pytest.raises(StoreError, match="version 7"):
        collect(site, tmp_path)


def test_two_processes_do_not_share_a_journal(site, tmp_path):
    site.results["bing"] = {"dog": jpegs(1)}
    collect(site, tmp_path)
    with closing(sqlite3.connect(tmp_path / "web" / "dog" / JOURNAL)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="another process"):
            collect(site, tmp_path, per_class=1)


def test_forgetting_begins_anew(site, tmp_path):
    site.results["bing"] = {"dog": jpegs(*range(3))}
    first = collect(site, tmp_path, per_class=3)
    source(site, tmp_path).forget(DOG)
    assert not Path(first.pictures[0].path).exists()
    source(site, tmp_path).forget(DOG)
    collect(site, tmp_path, per_class=3)
    assert site.counts["/img/0.jpg"] == 2


def test_the_site_is_gone(tmp_path):
    with Site() as site:
        site.results["bing"] = {"dog": jpegs(1, 2)}
        first = collect(site, tmp_path, per_class=2)
    assert collect(site, tmp_path, per_class=2) == first
