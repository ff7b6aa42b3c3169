"""The served flows on a real server: scheduled, run, refused, run alone, tried again."""

import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from usam_core.masks.label_png import save_label_png
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene

pytestmark = pytest.mark.server

NAMES = {
    "annotate-dataset",
    "collect",
    "embed",
    "compose",
    "describe",
    "fit",
    "calibrate",
    "annotate",
    "evaluate",
    "export",
    "report",
}


def written(folder: Path) -> dict[str, int]:
    """Return when each file below a folder was last written; hidden ones hold no results."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name[0] != ".")
    return {str(file): file.stat().st_mtime_ns for file in files}


def scheduled(local):
    state = {"state": {"name": {"any_": ["Scheduled"]}}}
    runs = local.ask("/flow_runs/filter", flow_runs=state, sort="EXPECTED_START_TIME_ASC")
    return [run for run in runs if run["auto_scheduled"]]


def test_every_flow_is_served_with_a_form(local):
    found = {d["name"]: d for d in local.ask("/deployments/filter")}
    assert set(found) >= NAMES
    for name in NAMES:
        schema = found[name]["parameter_openapi_schema"]
        assert list(schema["properties"]) == ["settings"]
        (form,) = schema["definitions"].values()
        for key, field in form["properties"].items():
            assert field["description"], f"{name}: {key}"
            assert field["title"] != key


def test_a_second_up_says_that_it_runs(local):
    again = local.usam("up")
    assert (again.returncode, again.stderr) == (0, "")
    assert f"already running: {local.page}" in again.stdout
    other = local.usam("up", str(local.project), "--cron", "5 5 * * *", "--timezone", "UTC")
    assert other.returncode == 2
    assert "usam down" in other.stderr
    elsewhere = local.usam("up", "--port", str(local.port + 1))
    assert elsewhere.returncode == 2
    assert local.page in elsewhere.stderr


def test_the_scheduler_makes_the_runs_of_the_cron_schedule(local):
    deadline = time.monotonic() + 90
    while len(scheduled(local)) < 3 and time.monotonic() < deadline:
        time.sleep(0.5)
    runs = scheduled(local)
    assert len(runs) >= 3, (local.home / "server.log").read_text()[-3000:]
    assert runs[0]["deployment_id"] == local.deployment("annotate-dataset")["id"]
    assert runs[0]["parameters"] == {"settings": {"project_file": str(local.project)}}


def test_the_whole_job_runs_and_its_page_has_summary_metrics_and_pictures(local, whole_run):
    assert whole_run["state"]["type"] == "COMPLETED", whole_run["state"]["message"]
    assert whole_run["name"] == "annotate-dataset project"
    artifacts = local.artifacts(whole_run["id"])
    assert "13 images embedded, 0 reused" in artifacts["annotation-run"]
    assert "data:image/jpeg;base64," in artifacts["annotation-run"]
    assert "background" in artifacts["metrics-per-class"]


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("fit", {"level": ""}, "'' should be non-empty"),
        ("annotate-dataset", {"start": "train"}, "'train' is not one of"),
        ("report", {"pictures": 99}, "99 is greater than the maximum of 12"),
        ("embed", {"levle": "parents"}, "levle"),
        ("collect", {"only": "disc"}, "'disc' is not valid"),
    ],
)
def test_a_wrong_choice_is_refused_before_there_is_a_run(local, name, settings, reason):
    before = local.ask("/flow_runs/count")
    answer = local.create(name, {"project_file": str(local.project)} | settings)
    assert answer.status_code == httpx.codes.CONFLICT
    assert reason in answer.json()["detail"]
    assert local.ask("/flow_runs/count") == before


def test_a_step_alone_touches_nothing_upstream(local, whole_run):
    out = local.project.parent / "out"
    upstream = {name: written(out / name) for name in ("collect", "store")}
    head = written(out / "fit")
    assert all(upstream.values())
    run = local.run("fit", refresh=True)
    assert run["state"]["type"] == "COMPLETED"
    assert "![fit and the steps it was made from" in local.artifacts(run["id"])["lineage"]
    assert local.tasks(run["id"]) == {"fit": "Completed"}
    assert written(out / "fit") != head
    assert {name: written(out / name) for name in upstream} == upstream


def test_a_failed_run_is_tried_again_and_does_only_what_failed(local, whole_run):
    truth = local.project.parent / "truth" / "s0.png"
    save_label_png(truth, np.full((96, 128), 9, np.uint8))  # a value that has no name
    failed = local.run("annotate-dataset", start="fit", refresh=True)
    assert failed["state"]["type"] == "FAILED"
    assert "s0.png" in failed["state"]["message"]
    assert local.tasks(failed["id"]) == {
        "fit": "Completed",
        "calibrate": "Completed",
        "annotate": "Completed",
        "evaluate": "Failed",
    }

    # Mended, but not to what it was: the first run's evaluation would still hold.
    truth.write_bytes(truth.with_name("s1.png").read_bytes())
    labels = written(local.project.parent / "out" / "annotate")
    local.start_again(failed["id"], "AwaitingRetry")
    done = local.wait(failed["id"])
    assert (done["state"]["type"], done["run_count"]) == ("COMPLETED", 2)
    second = local.tasks(failed["id"], attempt=2)
    assert {name: state for name, state in second.items() if "gate" not in name} == {
        "fit": "Cached",
        "calibrate": "Cached",
        "annotate": "Cached",
        "evaluate": "Completed",
        "report": "Completed",
    }
    assert written(local.project.parent / "out" / "annotate") == labels


def test_the_scheduled_run_embeds_only_the_new_images(local, whole_run):
    for number in range(2):
        drawn = scene(generator(77, number), ["disc", "ring"], (96, 128), TRAINING_LOOK, most=2)
        Image.fromarray(drawn.image).save(local.project.parent / "images" / f"new{number}.png")
    run = scheduled(local)[0]
    local.start_again(run["id"], "Scheduled")
    done = local.wait(run["id"])
    assert done["state"]["type"] == "COMPLETED", done["state"]["message"]
    assert (
        "2 images embedded, 13 reused from the store"
        in (local.artifacts(run["id"])["annotation-run"])
    )
