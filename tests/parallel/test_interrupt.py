"""Ctrl-C: noted while work is finished, raised elsewhere, and the second one is at once."""

import os
import signal

import pytest

from usam_core import interrupt
from usam_core.interrupt import ask, finishing, stopping, watched
from usam_core.parallel.workers import InProcess, Piece
from usam_core.progress import SILENT


@pytest.fixture
def calls():
    """Take over Ctrl-C for a test; what was called is in the list."""
    called = []
    before = signal.getsignal(signal.SIGINT)
    with watched(lambda: called.append("noted"), lambda: called.append("at once")):
        yield called
    signal.signal(signal.SIGINT, before)
    interrupt._asked = False


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_work_in_hand_comes_to_its_own_end(calls):
    done = []

    def work():
        ctrl_c()
        assert stopping()
        done.append(1)

    with pytest.raises(KeyboardInterrupt), finishing():
        work()
    assert done == [1]
    assert calls == ["noted"]


def test_elsewhere_the_first_one_ends_the_work_there(calls):
    with pytest.raises(KeyboardInterrupt):
        ctrl_c()
    assert calls == []


def test_the_second_one_is_at_once(calls):
    def work():
        ctrl_c()
        ctrl_c()

    with pytest.raises(KeyboardInterrupt), finishing():
        work()
    assert calls == ["noted", "at once"]


def test_an_inner_block_leaves_it_to_the_outer_one(calls):
    done = []

    def work():
        with finishing():
            ctrl_c()
        done.append("outer")

    with pytest.raises(KeyboardInterrupt), finishing():
        work()
    assert done == ["outer"]


def test_an_error_of_the_work_is_not_hidden(calls):
    def work():
        ctrl_c()
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"), finishing():
        work()


def test_the_piece_in_hand_is_finished_and_no_other_begun(calls):
    done = []

    def work(number, progress):
        if number == 1:
            ctrl_c()
        done.append(number)
        del progress

    with pytest.raises(KeyboardInterrupt), SILENT.bar("", 3) as bar:
        InProcess().run(work, [Piece("", 1, (number,)) for number in range(4)], bar)
    assert done == [0, 1]


def test_without_being_watched_nothing_is_noted():
    assert not stopping()
    with finishing():
        pass
    ask()
    assert stopping()
    interrupt._asked = False
