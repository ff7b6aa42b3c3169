"""Fixtures that several test files share."""

import hashlib
import logging
import os
import shutil
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from tests.features import described
from tests.web_site import Site
from usam_core.config.project import load_project
from usam_core.masks.label_png import save_label_png
from usam_core.rng import generator
from usam_core.sam import embedder
from usam_core.sources.scenes import TRAINING_LOOK, scene
from usam_core.sources.web import session
from usam_core.steps import STEPS, blocks, run_step

# Before anything imports Prefect: no telemetry, no colour codes, no user settings in tests.
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")


def pytest_configure(config):
    """Give each of pytest's processes one core: more threads than cores wait for each other."""
    if hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Put files with slow tests first: the workers end together on many small ones."""
    marks = {"slow", "server"}
    slow = {item.path for item in items if marks & {mark.name for mark in item.iter_markers()}}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give one worker all files that share a server, so that it is started once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrServer(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            folder = file.rpartition("/")[0]
            return folder if folder in ("tests/server", "tests/flows") else file

    return ByFileOrServer(config, log) if config.getvalue("dist") == "loadfile" else None


SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real photographs and microscopy, or skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the research data, absent here: {SHARED.name} beside the repository")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _sam_remembers():
    """Let SAM remember its last answers: most tests embed the same few drawn pictures.

    Those of a batch are given again for the very same batch; tests/sam/ has the real one.
    """
    known, real = OrderedDict(), embedder.SamEmbedder.submit

    def submit(self, images):
        what = [self.spec, str(self.device), self._prompts.most, self._to_compile]
        key = hashlib.sha256(repr(what).encode())
        for image in images:
            key.update(repr((image.size_hw, tuple(image.pixels.shape))).encode())
            key.update(image.pixels.numpy().tobytes())
        key = key.digest()
        if key in known:
            known.move_to_end(key)
            return lambda: deepcopy(known[key])
        wait = real(self, images)

        def first():
            made = wait()
            known[key] = deepcopy(made)
            if len(known) > 128:
                known.popitem(last=False)
            return made

        return first

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedder.SamEmbedder, "submit", submit)
        yield real


@pytest.fixture(autouse=True)
def _no_traces():
    """Take back what a command that a test runs in this process does to the process."""
    ours = logging.getLogger("usam_core")
    level, handlers = ours.level, list(ours.handlers)
    variables, folder, threads = dict(os.environ), os.getcwd(), torch.get_num_threads()
    yield
    ours.setLevel(level)
    ours.handlers[:] = handlers
    for name in {*os.environ} - {*variables}:
        del os.environ[name]
    os.environ.update({k: v for k, v in variables.items() if os.environ.get(k) != v})
    os.chdir(folder)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def tiny_project(tmp_path) -> Path:
    """Return the project file of three drawn classes and four scenes: seconds from end to end."""
    return write_tiny_project(tmp_path)


@pytest.fixture(scope="session")
def _finished_once(tmp_path_factory) -> Path:
    file = write_tiny_project(tmp_path_factory.mktemp("finished"))
    project = load_project(file)
    for step in STEPS:
        run_step(step, project)
    return file


@pytest.fixture(scope="module")
def finished_project(_finished_once, tmp_path_factory) -> Path:
    """Return a tiny project that has run to its end; tests may read it, not change it."""
    folder = tmp_path_factory.mktemp("copy") / "finished"
    shutil.copytree(_finished_once.parent, folder)
    return folder / _finished_once.name


@pytest.fixture
def site():
    """Return a web site on 127.0.0.1, for the tests of the web source."""
    with Site() as site:
        yield site


def write_tiny_project(folder: Path) -> Path:
    classes = {"disc": "round", "ring": "round", "rod": "long"}
    for number in range(4):
        drawn = scene(generator(9, number), list(classes), (96, 128), TRAINING_LOOK, most=3)
        for name in ("images", "truth"):
            (folder / name).mkdir(exist_ok=True)
        Image.fromarray(drawn.image).save(folder / "images" / f"s{number}.png")
        save_label_png(folder / "truth" / f"s{number}.png", drawn.label_map(list(classes)))
    project = {
        "name": "tiny",
        "classes": [{"name": name, "parent": parent} for name, parent in classes.items()],
        "images": {"path": "images"},
        "training": {"source": "render", "render": {"per_class": 3, "size": 96}},
        "sam": {"points_per_side": 4},
        "compose": {"scenes": 2, "held_out_scenes": 0, "size": 96},
        # Three drawn pictures do not say what a name looks like.
        "head": {"steps": 5, "hidden": [32, 16, 8], "dropout": 0.2, "familiar": 0.0},
        "inference": {"threshold": 0.3},
        "gate": {"max_covered": None},  # after five steps one name may be everything
        "outputs": {"shard_size": 4, "overlays": 2},
        "evaluation": {"format": "voc", "path": "truth"},
    }
    file = folder / "project.yaml"
    file.write_text(yaml.safe_dump(project))
    return file


def change(file: Path, **sections):
    """Change sections of a project file, key by key, and return the project."""
    values = yaml.safe_load(file.read_text())
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    file.write_text(yaml.safe_dump(values))
    return load_project(file)


@pytest.fixture
def project_file(finished_project, tmp_path) -> Path:
    """Return the project file of a finished project that a test may change."""
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project.yaml"


@pytest.fixture
def root(project_file) -> Path:
    """Return the folder of such a project: it has moved, in other words."""
    return project_file.parent


@pytest.fixture
def cheap_encoder(monkeypatch):
    """Put the cheap encoder in the place of those of `transformers`."""
    monkeypatch.setattr(blocks, "encoder_spec", described.encoder_spec)
    monkeypatch.setattr(blocks, "open_encoder", described.open_encoder)
    described.calls.clear()


@pytest.fixture
def no_sam(monkeypatch):
    """Let a test fail that runs SAM, by the method that the pipeline calls."""

    def called(*_):
        raise AssertionError("SAM was run")

    monkeypatch.setattr(embedder.SamEmbedder, "submit", called)


@pytest.fixture
def short_waits(monkeypatch):
    """Let a web session try again almost at once."""
    monkeypatch.setattr(session, "FIRST_WAIT", 0.05)
