"""`usam collect` from the web: twenty classes, killed three times; one class anew; the reports."""

import json
import random
import re
import time

import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.usam_process import Started, usam
from tests.web_site import Site, picture, settings
from usam_core.config.project import load_project
from usam_core.files.digest import file_digest
from usam_core.head.checkpoint import load_head
from usam_core.steps import STEPS, run_step, step_folder

CLASSES = [f"thing{number:02d}" for number in range(20)]
MANIFEST = "out/collect/manifest.parquet"


def project_of(folder, site, classes, **web):
    """Write a project whose classes are found on the site, 20 addresses each, some of them bad."""
    folder.mkdir(parents=True)
    (folder / "images").mkdir()
    Image.effect_noise((64, 64), 50).save(folder / "images" / "a.png")
    for number, name in enumerate(classes):
        base = 100 * number
        good = [f"/img/{base + n}.jpg" for n in range(14)]
        bad = [f"/status/404?{base}", f"/half/{base + 90}", f"/moved/{base + 91}"]
        site.results.setdefault("bing", {})[name] = [*good[:2], *bad, *good[2:7]]
        site.results.setdefault("google", {})[name] = good[7:]
    config = settings(site, **{"engines": ["bing", "google"], "per_class": 10, **web})
    project = {
        "classes": classes,
        "images": {"path": "images"},
        "training": {
            "source": "web",
            "web": config.model_dump(mode="json"),
            "filters": {"min_side": 16},
        },
        "sam": {"points_per_side": 3},
        "compose": {"scenes": 2, "held_out_scenes": 0, "size": 96},
        "head": {"steps": 2, "hidden": [16, 8, 8]},
    }
    file = folder / "project.yaml"
    file.write_text(yaml.safe_dump(project))
    return file


def manifest(file):
    """Return the manifest without what may differ: the times."""
    table = pd.read_parquet(file.parent / MANIFEST)
    provenance = [json.loads(text) for text in table["provenance"]]
    assert all(entry.pop("fetched") for entry in provenance)
    return table.assign(provenance=[json.dumps(entry) for entry in provenance])


@pytest.mark.slow
def test_twenty_classes_killed_three_times_end_with_the_same_manifest(tmp_path):
    rng = random.Random()
    with Site() as site:
        site.delay = 0.01
        calm = project_of(tmp_path / "calm", site, CLASSES)
        killed = project_of(tmp_path / "killed", site, CLASSES)
        usam("--help")  # nothing is left to be imported
        began = time.monotonic()
        assert usam("collect", calm).returncode == 0
        seconds = time.monotonic() - began
        visits = site.counts
        with site.lock:
            site.visits.clear()
        for _ in range(3):
            collecting = Started("collect", killed)
            time.sleep(rng.uniform(0.2, 0.6) * seconds)
            collecting.kill()
        assert usam("collect", killed).returncode == 0
        after = site.counts
    pd.testing.assert_frame_equal(manifest(killed), manifest(calm))
    assert len(manifest(calm)) == 200
    assert set(after) == set(visits)
    # Only what was in flight when a kill came is asked for twice.
    assert sum((after - visits).values()) <= 3 * 8


@pytest.mark.slow
def test_a_web_project_from_names_to_labels_and_one_class_anew(tmp_path):
    with Site() as site:
        file = project_of(tmp_path / "p", site, ["dog", "cat"])
        project = load_project(file)
        results = {
            step: run_step(step, project) for step in list(STEPS)[: list(STEPS).index("evaluate")]
        }
        before = site.counts
        assert run_step("collect", project).reused
        assert site.counts == before, "a second run asks nothing"

        found = usam("collect", file, "--class", "dog", "--refresh", "--json")
        assert found.returncode == 0, found.stderr
        again = site.counts - before
    assert results["collect"].summary["per_class"] == {"dog": 10, "cat": 10}
    assert results["collect"].summary["rejected"] == {"http_404": 2, "truncated": 2}
    assert json.loads(found.stdout)["summary"]["per_class"] == {"dog": 10, "cat": 10}
    asked = {int(re.search(r"(\d+)\.jpg$", path)[1]) for path in again if path.endswith(".jpg")}
    assert asked
    assert max(asked) < 100, "only the dog's addresses are asked again"
    provenance = results["collect"].summary["provenance"]
    assert provenance["engine"] == {"bing": 16, "google": 4}
    _, card = load_head(step_folder(project, "fit") / "student.safetensors")
    assert card["training_provenance"] == provenance
    first = json.loads(pd.read_parquet(file.parent / MANIFEST)["provenance"][0])
    assert {
        "engine",
        "query",
        "image_url",
        "page_url",
        "fetched",
        "content_type",
        "licence",
    } <= set(first)


def test_one_class_before_the_others_leaves_no_manifest(tmp_path):
    with Site() as site:
        file = project_of(tmp_path / "p", site, ["dog", "cat"])
        found = usam("collect", file, "--class", "cat", "--json")
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout) == {"cat": {"pictures": 10, "rejected": 2}}
        assert not (file.parent / MANIFEST).exists()
        assert not [path for path in site.counts if "q=dog" in path]


def test_what_the_filters_drop_is_made_up_for_by_the_next_results_and_engines(tmp_path):
    with Site() as site:
        file = project_of(tmp_path / "p", site, ["dog"])
        # The first engine knows best what is to be labelled.
        for number in range(6):
            (file.parent / "images" / f"{number}.jpg").write_bytes(picture(number))
        site.results["bing"]["dog"] = [f"/img/{n}.jpg" for n in range(12)]
        site.results["google"]["dog"] = [f"/img/{n}.jpg" for n in range(20, 40)]
        result = run_step("collect", load_project(file))
    assert result.summary["per_class"] == {"dog": 10}
    assert result.summary["rejected"] == {"leak": 6}
    assert result.summary["provenance"]["engine"] == {"bing": 6, "google": 4}


def test_a_class_that_a_broken_engine_left_short_is_asked_for_again(tmp_path):
    with Site() as site:
        file = project_of(tmp_path / "p", site, ["dog"], retries=0)
        site.down = {"bing"}
        project = load_project(file)
        first = run_step("collect", project)
        assert first.summary["per_class"]["dog"] < 10
        assert first.summary["incomplete"] == ["dog"]
        site.down = set()
        second = run_step("collect", project)
        assert not second.reused
        assert second.summary["per_class"] == {"dog": 10}
        before = site.counts
        assert run_step("collect", project).reused
        assert site.counts == before


def test_a_cap_on_time_holds_for_the_whole_command(tmp_path):
    with Site() as site:
        site.delay = 0.4
        caps = {"max_minutes": 0.02, "concurrency": 1, "per_class": 14}
        file = project_of(tmp_path / "p", site, ["dog"], **caps)
        began = time.monotonic()
        found = usam("collect", file, "--json")
        visits = [when for when, *_ in site.visits]
    assert time.monotonic() - began < 60
    assert max(visits) - min(visits) < 2.5, "one budget of 1.2 s, not one a pass"
    assert "minutes (training.web.max_minutes) are over" in found.stdout + found.stderr


@pytest.mark.slow
def test_a_run_killed_in_a_crawl_blocks_no_later_one(tmp_path):
    with Site() as site:
        site.delay = 0.2
        file = project_of(tmp_path / "p", site, ["dog"], concurrency=1)
        running = Started("run", file)
        deadline = time.monotonic() + 100
        while time.monotonic() < deadline and sum(site.counts.values()) < 4:
            time.sleep(0.05)
        running.kill()
        site.delay = 0.0
        found = usam("run", file)
    assert found.returncode == 0, found.stderr
    assert len(pd.read_parquet(file.parent / MANIFEST)) == 10


def test_other_provenance_reaches_the_head_and_the_lineage(tmp_path):
    with Site() as site:
        file = project_of(tmp_path / "p", site, ["dog"], engines=["urls"], urls="list.csv")
        rows = [f"dog,{site.url}/img/{n}.jpg" for n in range(10)]
        (file.parent / "list.csv").write_text("\n".join(["class,url", *rows]))
        project = load_project(file)
        for step in list(STEPS)[: list(STEPS).index("evaluate")]:
            run_step(step, project)
        licensed = [f"{row},CC0" for row in rows]
        (file.parent / "list.csv").write_text("\n".join(["class,url,licence", *licensed]))
        results = {
            step: run_step(step, project) for step in list(STEPS)[: list(STEPS).index("evaluate")]
        }
    provenance = results["collect"].summary["provenance"]
    assert provenance["licence"] == {"CC0": 10}
    _, card = load_head(step_folder(project, "fit") / "student.safetensors")
    assert card["training_provenance"] == provenance
    lineage = json.loads((step_folder(project, "fit") / "lineage.json").read_text())
    assert lineage["inputs"]["pictures"]["provenance"] == provenance
    assert results["annotate"].summary["labelled"] == 0, "the labels themselves hold"
    manifest = step_folder(project, "collect") / "manifest.parquet"
    assert file_digest(manifest) == provenance["manifest_sha256"]
    copy = step_folder(project, "fit") / "training.parquet"
    assert file_digest(copy) == lineage["outputs"]["training.parquet"]
    table = pd.read_parquet(copy)
    assert {"dog": table["learned"].sum()} == card["training_pictures"]
    pd.testing.assert_frame_equal(table.drop(columns="learned"), pd.read_parquet(manifest))
