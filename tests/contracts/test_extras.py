"""The base install does the main job; each extra is asked for by one sentence, before any work."""

import ast
import json
import subprocess
import sys
import tomllib
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical

from tests.conftest import change, write_tiny_project
from usam_core import errors
from usam_core.config.project import check_extras, needed_extras
from usam_core.config.results import ComputeConfig
from usam_core.errors import EXTRAS, MissingExtraError, StoreAccessError, install
from usam_core.features.model import find_model
from usam_core.files.fsspec_io import file_system
from usam_core.parallel import workers
from usam_core.sources.local import choose_source

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
OWNERS = {
    "usam_core.sam.hub_models": {"features"},
    "usam_core.sources.web": {"web"},
    "usam_core.sources.diffusion": {"synthetic"},
    "usam_core.features": {"features"},
    "usam_core.files.hub": {"features", "synthetic"},
    "usam_core.parallel.dask_workers": {"dask"},
    "usam_core.distill.model": {"distill"},
}
"""Modules that may import what the base does not bring, and every extra that has to bring it."""
BY_ITSELF = {"pillow_heif", "supervision"}  # read where it is, not missed where it is not
PARTS = {"pydantic_core"}  # of pydantic, and installed by it
HIDE = """
import sys
class Hidden:  # finds nothing, as where it is not installed: torch asks whether there is an onnx
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in HIDDEN:
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = [Hidden(finder) for finder in sys.meta_path]
"""
IMPORT_ALL = """
import importlib, pkgutil
for top in ("usam_core", "tasks", "flows"):
    package = importlib.import_module(top)
    for module in pkgutil.walk_packages(package.__path__, top + "."):
        if not module.name.startswith(OWN) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


DISTRIBUTIONS = packages_distributions()


def distributions(lines):
    return {canonical(Requirement(line).name) for line in lines}


def of_module(module):
    return {canonical(name) for name in DISTRIBUTIONS.get(module, [module])}


def brought(lines):
    """Return the distributions that requirements bring, with all that these require."""
    found, left = set(), [Requirement(line) for line in lines]
    while left:
        wanted = left.pop()
        key = (canonical(wanted.name), frozenset(wanted.extras))
        if key in found:
            continue
        found.add(key)
        try:
            texts = requires(wanted.name) or []
        except PackageNotFoundError:
            continue
        for inner in map(Requirement, texts):
            asked = ["", *wanted.extras]
            if not inner.marker or any(inner.marker.evaluate({"extra": e}) for e in asked):
                left.append(inner)
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def hidden():
    """Return the modules of each extra that a base install does not have."""
    base = brought(PROJECT["dependencies"])
    return {
        extra: {module for module in modules if not of_module(module) & base}
        for extra, modules in EXTRAS.items()
    }


def python(hide, code, *words, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-c", f"HIDDEN = {set(hide)!r}\n{HIDE}\n{code}", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=400,
        cwd=cwd,
    )


def imports():
    """Yield each module of ours and what it imports of others, inside functions too."""
    for top in ("usam_core", "tasks", "flows"):
        for file in sorted((ROOT / top).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Import):
                    found = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    found = [node.module]
                else:
                    continue
                for module in {one.partition(".")[0] for one in found}:
                    if module not in sys.stdlib_module_names | {"usam_core", "tasks", "flows"}:
                        yield name, module


def test_every_import_is_of_the_base_or_of_the_extra_that_its_module_belongs_to():
    base = distributions(PROJECT["dependencies"])
    seen = defaultdict(set)
    for name, module in imports():
        if of_module(module) & base or module in BY_ITSELF | PARTS:
            continue
        owners = [extra for start, extra in OWNERS.items() if name.startswith(start)]
        assert owners, f"{name} imports {module}, which a base install may not have"
        for extra in owners[0]:
            assert module in EXTRAS[extra], f"{name} imports {module}: not in {extra}"
            seen[extra].add(module)
    assert {"synthetic", "features", "web", "dask", "distill"} == set(seen)


def test_every_package_of_the_base_is_imported_or_has_its_reason():
    """Those that are not imported: ranges that Prefect needs."""
    imported = {name for _, module in imports() for name in of_module(module)}
    unused = distributions(PROJECT["dependencies"]) - imported
    assert unused == {"sqlalchemy"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_brings_what_is_looked_for_and_nothing_else(extra):
    modules = EXTRAS[extra]
    wanted = set().union(*(of_module(module) - {"bs4"} for module in modules))
    assert distributions(PROJECT["optional-dependencies"][extra]) == wanted


def test_all_is_every_extra_and_the_tests_have_it():
    (everything,) = map(Requirement, PROJECT["optional-dependencies"]["all"])
    assert (everything.name, everything.extras) == ("usam", set(EXTRAS))
    assert "usam[all]" in PROJECT["optional-dependencies"]["test"]


def test_a_package_has_one_range_wherever_it_stands():
    ranges = defaultdict(set)
    for lines in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]:
        for wanted in map(Requirement, lines):
            ranges[canonical(wanted.name)].add(str(wanted.specifier))
    assert [name for name, found in ranges.items() if len(found) > 1] == []


@pytest.mark.slow
@pytest.mark.parametrize("own", [tuple(OWNERS), ("usam_core.sources.web",)])
def test_only_an_extras_own_modules_import_it(hidden, own):
    assert [extra for extra, modules in hidden.items() if not modules] == ["review"]
    found = python(set().union(*hidden.values()), f"OWN = {own!r}\n{IMPORT_ALL}")
    if own == tuple(OWNERS):
        assert found.returncode == 0, found.stderr
    else:
        assert "No module named 'dask'" in found.stderr  # the test can fail


@pytest.fixture(scope="module")
def bare(hidden):
    """Return what runs `usam` with the packages of a base install alone."""
    everything = set().union(*hidden.values())
    start = "from flows.cli import main\nsys.argv[0] = 'usam'\nmain()"
    return lambda *words, cwd: python(everything, start, *words, cwd=cwd)


@pytest.mark.slow
def test_help_and_the_main_job_need_no_extra(bare, tmp_path):
    assert bare("--help", cwd=tmp_path).returncode == 0
    file = write_tiny_project(tmp_path)
    done = bare("run", file, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    steps = {one["step"] for one in json.loads(done.stdout)["steps"]}
    assert {"collect", "embed", "fit", "annotate", "evaluate", "report"} <= steps
    assert len(list((tmp_path / "out" / "annotate" / "masks").glob("*.png"))) == 4


NEEDING = {
    "web": {"training": {"source": "web", "web": {"contact": "me@lab.example"}}},
    "synthetic": {"training": {"source": "synthetic"}},
    "features": {"features": {"d": {"model": "facebook/dinov2-base"}}},
    "dask": {"compute": {"workers": 2}},
    "s3": {"images": {"path": "s3://lab/plates"}},
    "gs": {"images": {"path": "gs://lab/plates"}},
    "http": {"images": {"path": "https://lab.example/list.csv"}},
}


@pytest.mark.slow
def test_a_run_says_all_that_is_missing_before_any_work(bare, tmp_path):
    file = write_tiny_project(tmp_path)
    change(file, **NEEDING["web"], **NEEDING["features"], **NEEDING["dask"], **NEEDING["s3"])
    done = bare("run", file, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    lines = "".join(done.stderr.split())
    for extra in ("web", "features", "dask", "s3"):
        assert install(extra).replace(" ", "") in lines
    assert not (tmp_path / "out").exists()
    looked = bare("doctor", file, "--json", cwd=tmp_path)
    checks = {one["name"]: one for one in json.loads(looked.stdout)}
    assert looked.returncode == 1
    assert checks["extra web"]["verdict"] == "bad"
    assert checks["extra web"]["advice"].startswith("training.source: web needs icrawler")
    assert checks["extra gs"]["verdict"] == "note"


@pytest.mark.slow
def test_a_machine_without_extras_is_well(bare, tmp_path):
    looked = bare("doctor", "--json", cwd=tmp_path)
    assert looked.returncode == 0, looked.stdout


@pytest.fixture
def none_installed(monkeypatch):
    for module in {module for modules in EXTRAS.values() for module in modules}:
        monkeypatch.setitem(sys.modules, module, None)


@pytest.mark.parametrize("extra", NEEDING)
def test_a_setting_names_its_extra(extra, tiny_project, none_installed):
    project = change(tiny_project, **NEEDING[extra])
    assert [found for found, _ in needed_extras(project)] == [extra]
    with pytest.raises(MissingExtraError) as error:
        check_extras(project)
    assert str(error.value).startswith("project.yaml: ")
    assert str(error.value).endswith(f"installed here; run: {install(extra)}")
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 2


def test_settings_of_the_main_job_name_none(tiny_project, none_installed):
    check_extras(change(tiny_project))


def test_each_place_that_imports_an_extra_asks_first(tiny_project, none_installed, tmp_path):
    for source in ("web", "synthetic"):
        with pytest.raises(MissingExtraError, match=rf"source: {source} .*\[{source}\]"):
            choose_source(change(tiny_project, **NEEDING[source]), tmp_path)
    block = change(tiny_project, **NEEDING["features"]).config.features["d"]
    with pytest.raises(MissingExtraError, match=r"dinov2-base needs transformers.*\[features\]"):
        find_model(block, tmp_path)
    for config in (ComputeConfig(workers=2), ComputeConfig(scheduler="tcp://10.0.0.5:8786")):
        with (
            pytest.raises(MissingExtraError, match=r"compute: .* needs dask.*\[dask\]"),
            workers.open_workers(config, "cpu", 2),
        ):
            pass
    for url, extra in {"s3a://b/x": "s3", "gcs://b/x": "gs", "http://h/x": "http"}.items():
        with pytest.raises(StoreAccessError, match=rf"^{url} needs .*\[{extra}\]"):
            file_system(url)


def test_review_asks_too(finished_project, none_installed):
    from typer.testing import CliRunner

    from usam_core.cli.app import app

    found = CliRunner().invoke(app, ["review", str(finished_project)])
    assert isinstance(found.exception, MissingExtraError)
    assert "usam review needs fastapi, uvicorn, which are not" in str(found.exception)


def test_the_default_works_in_one_process_and_says_what_more_could(none_installed, caplog, request):
    workers._warn_of_one_process.cache_clear()
    request.addfinalizer(workers._warn_of_one_process.cache_clear)
    for _ in range(2):
        with (
            pytest.MonkeyPatch.context() as patch,
            caplog.at_level("WARNING"),
        ):
            patch.setattr(workers, "_cores", lambda: 16)
            with workers.open_workers(ComputeConfig(), "cpu", 9) as opened:
                assert isinstance(opened, workers.InProcess)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "one process works where 4 could"
    ]


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'usam[web]'"),
        ('{"url": "https://lab.example/usam.whl", "archive_info": {}}', "pip install 'usam[web]'"),
        (
            '{"url": "file:///home/me/us%20am", "dir_info": {"editable": true}}',
            "pip install -e '/home/me/us am[web]'",
        ),
    ],
)
def test_an_extra_is_installed_from_where_usam_came_from(origin, command, monkeypatch):
    class Distribution:
        def read_text(self, name):
            return origin if name == "direct_url.json" else None

    monkeypatch.setattr(errors, "distribution", lambda name: Distribution())
    assert install.__wrapped__("web") == command
