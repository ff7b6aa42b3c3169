"""Progress and Ctrl-C on a real pseudo terminal, and lines where there is none."""

import re
import sys

import pexpect
import pytest

from tests.conftest import change
from tests.usam_process import usam
from usam_core.config.project import load_project
from usam_core.steps.embed import open_store

pytestmark = pytest.mark.slow


@pytest.fixture
def slow_project(tiny_project):
    """A project whose images take a while: SAM is asked at many points."""
    change(tiny_project, sam={"points_per_side": 10}, outputs={"shard_size": 64})
    return tiny_project


def spawn(*words, folder):
    return pexpect.spawn(
        sys.executable,
        ["-m", "flows", *map(str, words)],
        cwd=folder,
        encoding="utf-8",
        timeout=240,
        dimensions=(40, 120),
    )


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_ctrl_c_keeps_a_partial_shard_and_the_next_run_goes_on(slow_project):
    child = spawn("run", slow_project.parent, folder=slow_project.parent.parent)
    child.expect(r"step 2 of 8: Embedding[^\r\n]* 3/")
    child.sendintr()
    child.expect("stopping: what is in hand is finished and kept; Ctrl-C again stops at once")
    child.expect(r"stopped in step 2 of 8, embed at (\d+) of 13 images")
    done = int(child.match.group(1))
    child.expect("kept: finished steps \\(collect\\) and every image that went through SAM")
    child.expect(f"go on: usam run {slow_project.parent}")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    store = open_store(load_project(slow_project))
    assert 3 <= done < 13
    assert len(store.index(refresh=True)) == done

    child = spawn("run", slow_project.parent, folder=slow_project.parent.parent)
    child.expect(pexpect.EOF)
    child.close()
    told = plain(child.before)
    assert child.exitstatus == 0, told
    assert f"{13 - done} images embedded, {done} reused" in told
    for number, step in enumerate(
        ("collect", "embed", "compose", "fit", "calibrate", "annotate", "evaluate", "report"), 1
    ):
        assert re.search(rf"step {number} of 8, {step}: .+ \(\d+ (s|min)\)", told), step


def test_a_second_ctrl_c_stops_at_once(slow_project):
    assert usam("collect", slow_project).returncode == 0
    child = spawn("embed", slow_project.parent, folder=slow_project.parent.parent)
    child.expect(r"Embedding[^\r\n]* 2/")
    child.sendintr()
    child.expect("stopping: what is in hand")
    child.sendintr()
    child.expect("stopped at once; what was finished before is kept")
    child.expect(f"go on: usam embed {slow_project.parent}")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    done = usam("embed", slow_project)  # nothing is locked, nothing is half
    assert done.returncode == 0, done.stderr


def test_ctrl_c_is_told_to_workers_who_seal_what_they_have(slow_project):
    change(slow_project, compute={"workers": 2}, outputs={"shard_size": 6})
    assert usam("collect", slow_project).returncode == 0
    child = spawn("embed", slow_project.parent, folder=slow_project.parent)
    child.expect(r"Embedding[^\r\n]* [34]/")
    child.sendintr()
    child.expect(r"stopped in embed at (\d+) of 13 images")
    told = int(child.match.group(1))
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130
    assert "Traceback" not in child.before
    stored = len(open_store(load_project(slow_project)).index(refresh=True))
    assert 3 <= told <= stored < 13


def test_without_a_terminal_steps_are_lines_on_stderr_and_the_table_stays_on_stdout(tiny_project):
    done = usam("run", tiny_project.parent)
    assert done.returncode == 0, done.stderr
    steps = [line for line in done.stderr.splitlines() if line.startswith("step ")]
    assert [line.split(":")[0] for line in steps if ", " in line.split(":")[0]] == [
        f"step {number} of 8, {name}"
        for number, name in enumerate(
            ("collect", "embed", "compose", "fit", "calibrate", "annotate", "evaluate", "report"), 1
        )
    ]
    assert "outcome" in done.stdout
    assert "\x1b" not in done.stderr
