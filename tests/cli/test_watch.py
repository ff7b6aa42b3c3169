"""What a person sees of long work: lines when they are due, steps that stay, what was stopped."""

import re
import time

import pytest

from usam_core.cli import watch
from usam_core.cli.watch import Watch
from usam_core.config.project import load_project
from usam_core.errors import MissingStepError
from usam_core.progress import LOADING, Lines, Pace
from usam_core.steps import outlook


class Work:
    """Work of so many items, told of in lines, on a clock of its own."""

    def __init__(self, what, total, **settings):
        self.now, self.said = 0.0, []
        self.pace = Pace(total, clock=lambda: self.now)
        self.lines = Lines(what, self.pace, self.say, **settings)

    def say(self, line):
        self.said.append((self.now, line))

    def do(self, items, seconds):
        for _ in range(items):
            self.now += seconds
            self.pace.advance()
            self.lines.look()


def test_long_work_is_told_of_once_its_first_items_are_measured():
    work = Work("Embedding", 600, outlook=lambda what, pace: [f"{what}: disk"])
    work.now += 9  # a model is loaded
    work.do(5, 2.0)
    at, line = work.said[0]
    assert at == 13  # one is not enough: it waited for the model
    assert line.startswith("Embedding 600 images: 2 s an image, measured on the first 2; done ")
    assert line.endswith(", in 19 min; Embedding: disk")


def test_short_work_is_not_told_of():
    work = Work("Scoring", 40)
    work.do(40, 0.5)
    assert work.said == []


def test_work_without_a_terminal_says_a_line_each_30_seconds_or_5_percent():
    slow, quick = Work("Embedding", 100_000), Work("Embedding", 200)
    slow.do(200, 1.0)
    quick.do(200, 1.0)
    gaps = [b - a for (a, _), (b, _) in zip(slow.said, slow.said[1:], strict=False)]
    assert set(gaps) == {30.0}
    gaps = [b - a for (a, _), (b, _) in zip(quick.said, quick.said[1:], strict=False)]
    assert set(gaps) == {10.0}  # 5 % of 200
    assert quick.said[-1][1].startswith("Embedding: 194 of 200, 1 a second, 6 s left")


def test_lines_are_never_closer_than_5_seconds():
    work = Work("Embedding", 50)
    work.do(50, 0.6)
    assert len(work.said) > 2
    assert min(b - a for (a, _), (b, _) in zip(work.said, work.said[1:], strict=False)) >= 5


def test_downloads_are_told_of_in_bytes():
    work = Work(f"{LOADING} vit_h", 2_564_550_879)
    for _ in range(6):
        work.now += 1
        work.pace.advance(10_000_000)
        work.lines.look()
    assert work.said[0][1].startswith("Downloading vit_h: 2.6 GB, 10 MB a second; done about ")


@pytest.fixture
def seen(monkeypatch):
    lines = []
    monkeypatch.setattr(watch, "tell", lines.append)
    return lines


def test_steps_are_numbered_and_a_line_of_each_stays(seen, finished_project, monkeypatch):
    monkeypatch.setattr(outlook, "seconds_of", lambda *_: 0.0)
    shown = Watch()
    shown.open()
    with shown.run(load_project(finished_project), ["embed", "fit"]):
        shown.finish("12 images")
        shown.finish("a head")
    assert seen == ["step 1 of 2, embed: 12 images (0 s)", "step 2 of 2, fit: a head (0 s)"]


def test_a_step_says_when_the_whole_run_will_be_done(seen, finished_project, monkeypatch):
    monkeypatch.setattr(outlook, "seconds_of", lambda project, now, later, each: 3000.0)
    shown = Watch()
    shown.open()
    with shown.run(load_project(finished_project), ["embed", "fit"]):
        shown.finish("12 images")
    assert re.search(r"\(0 s\); the whole run about (\w{3} \d\d \w{3} )?\d\d:\d\d$", seen[0])


def test_nothing_is_shown_where_no_command_line_is_at_work(seen, finished_project):
    shown = Watch()
    with shown.run(load_project(finished_project), ["embed", "fit"]):
        with shown.on.bar("Embedding", 3) as bar:
            bar.advance()
        assert shown.finish("done").startswith("step 1 of 2, embed: done (0 s)")
    assert seen == []


def test_what_was_stopped_says_where_and_what_is_kept(finished_project):
    shown = Watch()

    def work():
        shown.finish("pictures")
        with shown.bar("Embedding", 7) as bar:
            bar.advance(3)
            raise KeyboardInterrupt

    project = load_project(finished_project)
    with pytest.raises(KeyboardInterrupt), shown.run(project, ["collect", "embed", "fit"]):
        work()
    assert shown.stopped() == (
        "stopped in step 2 of 3, embed at 3 of 7 images (embedding); kept: finished steps "
        "(collect) and every image that went through SAM"
    )


def test_the_first_line_of_embedding_tells_disk_and_the_end_of_the_run(finished_project):
    project = load_project(finished_project)
    course = watch.Course(project, ["embed", "compose", "fit"])
    pace = Pace(100, clock=time.monotonic)
    pace.advance(1)
    pace.advance(1)
    disk, run = course.outlook("Embedding", pace)
    assert re.fullmatch(r"about \d+ [kM]B of disk, [\d.]+ [GT]B free", disk)
    assert run.startswith("the whole run about ")


def test_what_cannot_be_told_stops_no_run(seen, finished_project, monkeypatch):
    def fail(*_):
        raise MissingStepError("no manifest")

    monkeypatch.setattr(outlook, "seconds_of", fail)
    monkeypatch.setattr(outlook, "disk", fail)
    shown = Watch()
    with shown.run(load_project(finished_project), ["embed", "fit"]) as course:
        assert course.outlook("Embedding", Pace(3)) == []
        assert shown.finish("12 images") == "step 1 of 2, embed: 12 images (0 s)"


def test_too_little_disk_is_said_before_the_work(finished_project):
    project = load_project(finished_project)
    assert "TOO LITTLE, free some or set outputs.store" in outlook.disk(project, 10**12)


def test_bytes_of_an_image_are_counted_where_there_are_some(finished_project, tiny_project):
    stored = outlook.bytes_an_image(load_project(finished_project))
    assumed = outlook.bytes_an_image(load_project(tiny_project))
    assert assumed == 16 * 5600
    assert assumed / 3 < stored < 3 * assumed
