"""The embedding benchmark goes on when one of the systems it compares fails."""

from argparse import Namespace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def measure(monkeypatch):
    """Return the benchmark's `measure`; it finds its parts beside it, as when it is run."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    from embed import measure

    return measure


def test_a_system_that_fails_in_one_round_is_an_error_and_no_times(measure):
    rounds = iter((True, False, True))

    def sometimes() -> None:
        if not next(rounds):
            raise RuntimeError("no memory")

    found = {"whole": {"peak_mib": 1.0}, "broken": {"error": "died"}}
    systems = {"whole": lambda: None, "sometimes": sometimes, "broken": lambda: None}
    measure(systems, found, Namespace(rounds=3, images=2, device="cpu", compile=False))
    assert found["whole"]["peak_mib"] == 1
    assert 0 <= found["whole"]["seconds"] < 1
    assert found["sometimes"] == {"error": "RuntimeError: no memory"}
    assert found["broken"] == {"error": "died"}


def test_a_system_that_fails_first_is_not_given_times_later(measure):
    fails = iter((True, False))

    def once() -> None:
        if next(fails):
            raise RuntimeError("no memory")

    found: dict[str, dict] = {}
    measure({"once": once}, found, Namespace(rounds=2, images=1, device="cpu", compile=False))
    assert found == {"once": {"error": "RuntimeError: no memory"}}
