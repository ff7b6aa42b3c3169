"""Politeness and limits of single fetches, from a real server."""

import threading
import time

import pytest

from tests.web_site import picture, settings
from usam_core.sources.web import session as session_module
from usam_core.sources.web.guard import Budget, CapReached, FetchFailed
from usam_core.sources.web.session import PoliteSession


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(session_module, "FIRST_WAIT", 0.1)


def fetch(site, path, seconds=20, max_bytes=10**8, **changes):
    return PoliteSession(settings(site, **changes)).fetch(
        site.address(path), Budget(seconds, max_bytes)
    )


def failure(site, path, **changes):
    with pytest.raises(FetchFailed) as failed:
        fetch(site, path, **changes)
    assert path in failed.value.reason or "redirect" in failed.value.reason
    return failed.value.code


def test_redirects_are_followed(site):
    answer = fetch(site, "/moved/4")
    assert answer.body == picture(4)
    assert answer.url == f"{site.url}/img/moved/4.jpg"
    assert answer.content_type == "image/jpeg"


def test_redirects_in_a_circle_end(site):
    assert failure(site, "/loop/a") == "redirect_loop"
    assert sum(site.counts.values()) == 2


@pytest.mark.parametrize("status", [400, 403, 404, 410])
def test_what_the_server_refuses_is_asked_for_once(site, status):
    assert failure(site, f"/status/{status}") == f"http_{status}"
    assert len(site.visits) == 1


@pytest.mark.parametrize("kind", ["heals", "hangs_up"])
def test_trouble_that_heals_is_waited_for(site, kind):
    assert fetch(site, f"/{kind}/2/7").body == picture(7)
    first, second, third = (when for when, _, _ in site.visits)
    assert 0.05 <= second - first <= 3
    # The second wait is of twice the length, give or take the jitter.
    assert 0.1 <= third - second <= 3


def test_trouble_that_does_not_heal_is_given_up(site):
    assert failure(site, "/heals/9/7", retries=2) == "http_500"
    assert failure(site, "/hangs_up/9/7", retries=1) == "broken"
    assert sorted(site.counts.values()) == [2, 3]


@pytest.mark.parametrize(("path", "least"), [("/busy/3", 1.0), ("/busy-until/3", 1.0)])
def test_a_server_that_asks_to_wait_is_heard(site, path, least):
    session, budget = PoliteSession(settings(site)), Budget(20, 10**8)
    assert session.fetch(site.address(path), budget).body == picture(3)
    first, second = (when for when, _, _ in site.visits)
    assert least <= second - first <= 8


def test_the_whole_host_is_left_alone_while_it_asks_for_it(site):
    session, budget = PoliteSession(settings(site)), Budget(20, 10**8)
    busy = threading.Thread(target=session.fetch, args=(site.address("/busy/3"), budget))
    busy.start()
    time.sleep(0.3)
    session.fetch(site.address("/img/1.jpg"), budget)
    busy.join()
    begin = site.visits[0][0]
    assert all(when - begin >= 1 for when, _, _ in site.visits[1:])


@pytest.mark.parametrize("path", ["/drip/1", "/drip-headers/1", "/drip-unending/1"])
def test_a_server_that_drips_is_cut_off(site, path):
    begin = time.monotonic()
    assert failure(site, path, timeout=0.5) == "timeout"
    assert time.monotonic() - begin < 8
    assert len(site.visits) == 1


def test_a_connection_that_is_used_again_is_cut_off_too(site):
    session, budget = PoliteSession(settings(site, timeout=0.5)), Budget(20, 10**8)
    session.fetch(site.address("/img/1.jpg"), budget)
    begin = time.monotonic()
    with pytest.raises(FetchFailed) as failed:
        session.fetch(site.address("/drip/1"), budget)
    assert failed.value.code == "timeout"
    assert time.monotonic() - begin < 8


def test_a_silent_server_is_cut_off(site):
    site.delay = 2
    assert failure(site, "/img/1.jpg", timeout=0.3) == "timeout"


@pytest.mark.parametrize(("path", "most"), [("/large/1", 300_000), ("/large-said", 0)])
def test_a_large_file_is_given_up_at_once(site, path, most):
    budget = Budget(20, 10**9)
    with pytest.raises(FetchFailed, match="max_file_mb") as failed:
        PoliteSession(settings(site, max_file_mb=0.2)).fetch(site.address(path), budget)
    assert failed.value.code == "too_many_bytes"
    assert budget._received <= most


def test_requests_to_one_host_keep_their_distance(site):
    session = PoliteSession(settings(site, requests_per_second=10))
    budget = Budget(20, 10**8)
    threads = [
        threading.Thread(target=session.fetch, args=(f"{site.url}/img/{n}.jpg", budget))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = sorted(when for when, _, _ in site.visits)
    assert len(times) == 8
    assert times[-1] - times[0] >= 0.65


def test_the_caps_of_a_class(site):
    with pytest.raises(CapReached, match="max_total_mb"):
        fetch(site, "/padded/1", max_bytes=50_000)
    with pytest.raises(CapReached, match="max_minutes"):
        fetch(site, "/drip/1", seconds=0.3)
    with pytest.raises(CapReached, match="max_minutes"):
        fetch(site, "/heals/9/1", seconds=0.3, retries=9)


def test_a_closed_port_is_named(site):
    with pytest.raises(FetchFailed, match="cannot be reached") as failed:
        fetch(site, "http://127.0.0.1:1/x", retries=0)
    assert failed.value.code == "unreachable"
    assert failed.value.again


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(None, None), ("7", 7), ("soon", None), ("-3", None), ("Thu, 01 Jan 2015 00:00:00 GMT", 0)],
)
def test_what_a_retry_after_says(value, seconds):
    assert session_module._asked_wait(value) == seconds
