"""A disk that is full or may not be written: a sentence, and no damage."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import change
from usam_core.errors import StoreError
from usam_core.files.atomic import whole_file
from usam_core.steps import run_step

FULL = """
import resource, sys
from usam_core.cli import terminal
from usam_core.config.project import load_project
from usam_core.steps import STEPS, run_step
project = load_project(sys.argv[1])
for step in list(STEPS)[:list(STEPS).index(sys.argv[2])]:
    run_step(step, project)
# Files larger than this are refused, as a full disk refuses them.
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
sys.argv = ["usam", sys.argv[2], str(project.file)]
from flows.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["collect", "embed", "fit", "annotate", "evaluate", "report"])
def test_a_full_disk_is_a_sentence_and_the_next_run_goes_on(tiny_project, step):
    words = [sys.executable, "-c", FULL, str(tiny_project), step]
    found = subprocess.run(words, capture_output=True, text=True, timeout=200)
    assert found.returncode == 1
    assert "Traceback" not in found.stderr, found.stderr
    assert "File too large" in found.stderr
    command = [sys.executable, "-m", "flows", "run", str(tiny_project)]
    assert subprocess.run(command, timeout=300).returncode == 0


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
