"""A disk that is full or may not be written: a sentence, and no damage."""

import json
import resource
from pathlib import Path

import pytest

from tests.conftest import change, write_tiny_project
from tests.usam_process import python
from usam_core.errors import StoreError
from usam_core.files.atomic import whole_file
from usam_core.steps import run_step

FULL = """
import contextlib, io, json, resource, sys
from flows.cli import main
from usam_core.config.project import load_project
from usam_core.steps import STEPS, run_step
_, file, *tried = sys.argv
ends = {}
for step in STEPS:
    if step in tried:
        # Files larger than this are refused, as a full disk refuses them.
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
        sys.argv, said = ["usam", step, file], io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                main()
        except SystemExit as end:
            ends[step] = [end.code, said.getvalue()]
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    ends.setdefault(step, []).append(run_step(step, load_project(file)).reused)
print(json.dumps(ends))
"""
TRIED = ["collect", "embed", "fit", "annotate", "evaluate", "report"]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Return how steps ended on a full disk, what they said, and if the next run had no work."""
    file = write_tiny_project(tmp_path_factory.mktemp("full"))
    done = python(FULL, file, *TRIED)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("step", TRIED)
def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(ends, step):
    code, said, reused = ends[step]
    assert code == 1
    assert "Traceback" not in said, said
    assert "File too large" in said
    assert not reused


def test_what_was_there_stays_and_nothing_is_left_behind(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with (
            pytest.raises(StoreError, match=r"a\.txt: cannot be written: File too large"),
            whole_file(file) as temporary,
        ):
            temporary.write_text(100 * "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert file.read_text() == "before"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_outputs_where_no_folder_can_be_made_are_a_sentence(tiny_project):
    project = change(tiny_project, outputs={"path": "/proc/nowhere"})
    with pytest.raises(StoreError, match=r"/proc/nowhere.* cannot be written"):
        run_step("collect", project)
