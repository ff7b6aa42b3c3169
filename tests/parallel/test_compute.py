"""Dask and this process give the same; dead workers, bad images and big runs behave."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from usam_core.config.project import load_project
from usam_core.config.results import ComputeConfig
from usam_core.errors import InputError, TransientError, WorkerError
from usam_core.parallel import workers as compute
from usam_core.parallel.workers import InProcess, Piece, open_workers, run_pieces, worker_count
from usam_core.progress import SILENT, Advance, Pace
from usam_core.sam import load
from usam_core.steps import run_step
from usam_core.steps.embed import embed_groups
from usam_core.steps.embed import plan as plan_embed
from usam_core.store.index import StoreIndex

TWO = ComputeConfig(workers=2, threads=1)


def run(function, pieces, config=TWO, progress=SILENT):
    return run_pieces(function, pieces, "Working", config, "cpu", progress)


def files_below(folder: Path) -> dict[str, bytes]:
    """Return all files but those that hold times."""
    timed = ("record.json", "lineage.json", "images.parquet", ".checked.json")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in timed and path.parent.name != "lineage"
    }


# What the workers do: functions of this module, which they import by its path.


def where_and_models(name, progress):
    config = load_project(name).config.sam
    model = load.open_embedder(config)
    progress.bar("", 1).__enter__().advance()
    return os.getpid(), id(model), load._open_embedder.cache_info().misses


def double(number, progress):
    return 2 * number


def die_once(marker, number, progress):
    if number == 0 and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die(marker, progress):
    with open(marker, "a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


def refuse(counter, progress):
    with open(counter, "a") as file:
        file.write("x")
    raise InputError("s7.png: no image; give another")


@pytest.fixture(scope="module")
def two_workers():
    """Two workers for the tests that leave them alive."""
    with open_workers(TWO, "cpu", 2) as workers:
        yield workers


@pytest.mark.slow
def test_two_workers_write_the_store_and_the_labels_that_one_process_writes(
    tiny_project, tmp_path, two_workers, monkeypatch
):
    project = load_project(tiny_project, compute={"workers": 0, "threads": 1})
    found = {}
    for name in ("dask", "alone"):
        if name == "alone":
            monkeypatch.setattr(compute, "_open", [])
        advanced = []
        for step in ("collect", "embed", "compose", "fit", "calibrate", "annotate"):
            run_step(step, project, progress=Advance(advanced.append))
        found[name] = files_below(project.out)
        project.out.rename(tmp_path / name)
    shards = [name for name in found["alone"] if name.endswith("index.parquet")]
    assert len(shards) == 5
    assert {"annotate/coco.json", "annotate/masks/s0.png"} < found["alone"].keys()
    assert found["dask"].keys() == found["alone"].keys()
    assert [name for name in shards if found["dask"][name] != found["alone"][name]] == []
    differing = [name for name in found["alone"] if found["dask"][name] != found["alone"][name]]
    assert differing == []


@pytest.mark.slow
def test_a_stranger_on_this_machine_is_refused_by_scheduler_and_workers(two_workers):
    info = two_workers.client.scheduler_info()
    found = [info["address"], *info["workers"], *(w["nanny"] for w in info["workers"].values())]
    assert len(found) == 5
    assert {address.split(":")[0] for address in found} == {"tls"}
    code = (
        "import os, sys\n"
        "from distributed import Client, Security\n"
        "for protocol, security in (('tcp', None), ('tls', Security.temporary())):\n"
        "    try:\n"
        "        with Client(f'{protocol}://{sys.argv[1]}', security=security,\n"
        "                timeout=2) as client:\n"
        "            print(client.submit(os.getpid).result(timeout=20))\n"
        "    except OSError as error:\n"
        "        print('refused')\n"
    )
    words = [sys.executable, "-c", code, info["address"].removeprefix("tls://")]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert ran.stdout.split() == ["refused", "refused"], ran.stderr
    assert run(double, [Piece("piece", 1, (4,))]) == [8]


@pytest.mark.slow
def test_each_worker_process_loads_its_model_once(tiny_project, two_workers):
    pieces = [Piece(f"piece {n}", 1, (str(tiny_project),)) for n in range(8)]
    advanced = []
    results = run(where_and_models, pieces, progress=Advance(advanced.append))
    processes = {pid for pid, _, _ in results}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert len({(pid, model) for pid, model, _ in results}) == 2
    assert {misses for _, _, misses in results} == {1}
    assert sum(advanced) == 8


@pytest.mark.slow
def test_a_killed_workers_piece_is_done_again(tmp_path, two_workers):
    marker = tmp_path / "died"
    pieces = [Piece(f"piece {n}", 1, (str(marker), n)) for n in range(4)]
    advanced = []
    # In the order of the pieces, although the first is done last.
    assert run(die_once, pieces, progress=Advance(advanced.append)) == [0, 1, 2, 3]
    assert marker.exists()
    assert sum(advanced) == 4


@pytest.mark.slow
def test_a_piece_that_kills_every_worker_is_named(tmp_path):
    deaths = tmp_path / "deaths"
    with pytest.raises(WorkerError, match=r"(?s)images of x\.png: 3 worker processes.*memory"):
        run(die, [Piece("images of x.png", 1, (str(deaths),))])
    assert deaths.read_text() == "xxx"


@pytest.mark.slow
def test_a_user_error_comes_through_as_it_is_and_is_not_tried_again(tmp_path, two_workers):
    counter = tmp_path / "tries"
    with pytest.raises(InputError, match=r"^s7\.png: no image; give another$"):
        run(refuse, [Piece("piece", 1, (str(counter),))])
    assert counter.read_text() == "x"


def cluster_pids(cluster) -> list[int]:
    return [worker.pid for worker in cluster.workers.values()]


@pytest.fixture
def none_open(monkeypatch):
    """Let a test open workers of its own while the module's are there."""
    monkeypatch.setattr(compute, "_open", [])


def wait_long(progress):
    del progress
    time.sleep(60)


@pytest.mark.slow
def test_a_scheduler_that_ends_is_the_worlds_failure(tmp_path, none_open):
    address = tmp_path / "address"
    code = (
        "import sys, time, pathlib\n"
        "from distributed import LocalCluster\n"
        "if __name__ == '__main__':\n"
        "    cluster = LocalCluster(n_workers=1, threads_per_worker=1, processes=False,\n"
        "        host='127.0.0.1', protocol='tcp://', dashboard_address=None)\n"
        "    pathlib.Path(sys.argv[1]).write_text(cluster.scheduler_address)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(address)])
    try:
        while not (address.exists() and address.read_text()):
            assert process.poll() is None
            time.sleep(0.1)

        def kill_soon():
            time.sleep(3)
            process.kill()

        threading.Thread(target=kill_soon).start()
        config = ComputeConfig(scheduler=address.read_text())
        with pytest.raises(TransientError, match="piece: the Dask scheduler went away"):
            run(wait_long, [Piece("piece", 1, ())], config)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_scheduler_address_is_used_and_left_running(tiny_project, none_open):
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=3, host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        config = ComputeConfig(scheduler=cluster.scheduler_address)
        pieces = [Piece(f"piece {n}", 1, (str(tiny_project),)) for n in range(3)]
        for _ in range(2):
            results = run(where_and_models, pieces, config)
            assert {misses for _, _, misses in results} == {1}
            assert {pid for pid, _, _ in results} == set(cluster_pids(cluster))


def test_an_address_where_nobody_answers(monkeypatch, none_open):
    monkeypatch.setattr("usam_core.parallel.dask_workers._REACH_SECONDS", 1)
    with pytest.raises(TransientError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9 "):
        run(refuse, [Piece("piece", 1, ())], ComputeConfig(scheduler="tcp://127.0.0.1:9"))


@pytest.mark.parametrize(
    ("gpus", "cores", "device", "expected"),
    [
        (0, 1, "auto", 0),
        (0, 4, "auto", 0),
        (0, 16, "auto", 4),
        (1, 16, "auto", 0),
        (4, 16, "auto", 4),
        (4, 16, "cpu", 4),
        (2, 64, "cpu", 16),
    ],
)
def test_the_default_number_of_workers(monkeypatch, gpus, cores, device, expected):
    monkeypatch.setattr(compute.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(compute.torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(compute, "_cores", lambda: cores)
    assert worker_count(ComputeConfig(), device) == expected


def test_each_gpu_has_its_worker(monkeypatch):
    from usam_core.parallel.dask_workers import _environment

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [_environment(n, 4, 2)["CUDA_VISIBLE_DEVICES"] for n in range(3)]
    assert seen == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert _environment(1, 4, 2)["CUDA_VISIBLE_DEVICES"] == "5"
    assert "CUDA_VISIBLE_DEVICES" not in _environment(0, 4, 0)


def test_nothing_to_do_starts_no_worker(none_open):
    before = threading.active_count()
    with open_workers(TWO, "cpu", 0) as workers:
        assert isinstance(workers, InProcess)
    assert threading.active_count() == before


@pytest.mark.slow
def test_what_another_run_embedded_meanwhile_is_not_done_again(tiny_project):
    project = load_project(tiny_project)
    run_step("collect", project)
    first, second, *_ = plan_embed(project)
    assert embed_groups(project, [first])[0]["embedded"] == 4
    # Cut otherwise than here, as another run's plan may be.
    mixed = dict([*first.items()][2:] + [*second.items()][:2])
    other = "import sys; from usam_core.config.project import load_project as p\n"
    other += "from usam_core.steps.embed import embed_groups\n"
    other += f"print(*embed_groups(p({str(tiny_project)!r}), [{second!r}]))"
    ran = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=True)
    assert "'embedded': 4" in ran.stdout
    assert embed_groups(project, [mixed]) == [{"embedded": 0, "quarantined": 0}]
    assert embed_groups(project, [second]) == [{"embedded": 0, "quarantined": 0}]


def test_shards_that_are_there_are_not_read_for_each_new_one(tiny_project, monkeypatch):
    project = load_project(tiny_project)
    run_step("collect", project)
    groups = plan_embed(project)
    looks = []
    refresh = StoreIndex.refresh
    monkeypatch.setattr(StoreIndex, "refresh", lambda self: looks.append(1) or refresh(self))
    for group in groups:
        embed_groups(project, [group])
    assert len(groups) == 4
    assert len(looks) <= 1


def test_a_bar_says_how_quick_and_how_long():
    now = [0.0]
    pace = Pace(1000, clock=lambda: now[0])
    assert str(pace) == "0 of 1,000"
    now[0] = 10.0
    pace.advance(250)
    assert str(pace) == "250 of 1,000, 25 a second, 30 s left"
    assert pace.percent == 25
