"""Work ahead of and behind a loop: order, bounds, errors, and no thread left."""

import threading
import time
from contextlib import closing

import pytest

from usam_core.sam.pipeline import BackgroundWriter, prefetch


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def test_results_come_in_order_however_long_each_takes():
    def slow(number):
        time.sleep(0.02 * (number % 3))
        return number * number

    assert list(prefetch(slow, range(12), threads=4, depth=6)) == [n * n for n in range(12)]


def test_no_more_is_begun_than_the_depth():
    begun = []
    with closing(prefetch(begun.append, range(100), threads=4, depth=5)) as results:
        for _ in range(3):
            next(results)
        time.sleep(0.1)
        assert len(begun) <= 3 + 5


def test_an_error_comes_in_its_items_place():
    def fails(number):
        if number == 2:
            raise ValueError("the third")
        return number

    results = prefetch(fails, range(50), threads=2, depth=4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_jobs_behind_are_all_done_when_the_block_is_left():
    done = []
    with BackgroundWriter(threads=1, depth=3) as behind:
        futures = [behind.put(lambda n: (time.sleep(0.01), done.append(n)), n) for n in range(8)]
    assert done == list(range(8))
    assert all(future.done() for future in futures)


def test_putting_waits_when_the_queue_is_full():
    gate = threading.Event()
    running, most = [], []

    def job():
        running.append(1)
        most.append(len(running))
        gate.wait(5)
        running.pop()

    with BackgroundWriter(threads=4, depth=2) as behind:
        behind.put(job)
        behind.put(job)
        third = threading.Thread(target=behind.put, args=(job,))
        third.start()
        third.join(0.1)
        assert third.is_alive()
        gate.set()
        third.join()
    assert max(most) <= 2


def test_a_jobs_error_stops_the_loop():
    def fails():
        raise OSError("disk full")

    def loop():
        with BackgroundWriter(1, 1) as behind:
            for _ in range(100):
                behind.put(fails)

    with pytest.raises(OSError, match="disk full"):
        loop()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_leaving_by_an_error_drops_what_is_not_begun(error):
    done = []
    begun, gate = threading.Event(), threading.Event()

    def first():
        begun.set()
        gate.wait(5)
        done.append("first")

    def loop():
        with BackgroundWriter(threads=1, depth=9) as behind:
            behind.put(first)
            assert begun.wait(5)
            for _ in range(5):
                behind.put(done.append, "later")
            threading.Timer(0.1, gate.set).start()
            raise error

    with pytest.raises(error):
        loop()
    assert done == ["first"]
