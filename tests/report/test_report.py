"""The report of a run: what it says, what it keeps, and that names stay names."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labelled_run import write_project, write_run
from usam_core.config.project import load_project
from usam_core.files.text import escape_control
from usam_core.labels import Instance, LabelledImage, LabelMap
from usam_core.lineage.chain import read_chain
from usam_core.lineage.show import broken_links
from usam_core.report.found import KINDS, SampleKeeper
from usam_core.report.page import Album, render
from usam_core.steps import STEPS, run_step, step_folder
from usam_core.steps.lineage_checks import check_chain

SECTIONS = ["next", "classes", "coverage", "samples", "probabilities", "metrics", "difference"]
SECTIONS += ["training", "quarantine", "ran"]
ODD = [
    "<script>alert(1)<",
    '"><img src=x onerror=alert(1)>',
    'it\'s & "so"',
    "קוף",
    "{{ 7 * 7 }}",
    "a\u202egnp.exe",
]


class Page(HTMLParser):
    """Collects what a browser would see of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(project):
    return Page((step_folder(project, "report") / "report.html").read_text(encoding="utf-8"))


def run_all(project):
    return {step: run_step(step, project) for step in STEPS}


@pytest.fixture
def copied(finished_project, tmp_path):
    shutil.copytree(finished_project.parent, tmp_path / "copy")
    return tmp_path / "copy" / "project.yaml"


def change(file, **sections):
    values = yaml.safe_load(file.read_text())
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    file.write_text(yaml.safe_dump(values))
    return load_project(file)


def test_every_part_is_there_and_says_what_the_steps_said(finished_project):
    project = load_project(finished_project)
    page = page_of(project)
    assert [a["id"] for tag, a in page.attributes if tag == "h2"] == SECTIONS
    links = [a["href"] for tag, a in page.attributes if tag == "a"]
    assert links == ["#main", *(f"#{name}" for name in SECTIONS)]
    summary = json.loads((step_folder(project, "annotate") / "record.json").read_text())["summary"]
    for name, count in summary["per_class"].items():
        assert re.search(rf"{name} \d+ {count} ", page.text), name
    metrics = json.loads((step_folder(project, "evaluate") / "record.json").read_text())["summary"]
    assert f"mIoU {metrics['miou']:.3f} on 4 images" in page.text
    assert "head. steps 5 150" in page.text
    assert "SAM nano, bundled with usam" in page.text
    assert "disc : 3 kept, 0 dropped" in page.text
    assert "There is no earlier run" in page.text


def test_the_page_needs_nothing_else(finished_project):
    page = page_of(load_project(finished_project))
    assert not {"script", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    for tag, attributes in page.attributes:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), (tag, attributes[name][:80])
    pictures = [a for tag, a in page.attributes if tag == "img"]
    assert len(pictures) > 15
    assert all(a["alt"] and int(a["width"]) and int(a["height"]) for a in pictures)
    assert all(a["aria-label"] for tag, a in page.attributes if tag == "svg")


def test_the_report_is_kept_until_something_changes(copied):
    project = load_project(copied)
    before = (step_folder(project, "report") / "report.html").read_bytes()
    assert run_step("report", project).reused
    again = run_step("report", project, refresh=True)
    assert not again.reused
    assert (step_folder(project, "report") / "report.html").read_bytes() == before
    (step_folder(project, "report") / "report.html").write_text("torn")
    assert not run_step("report", project).reused
    assert not run_step("report", change(copied, report={"samples": 0})).reused
    assert "No mask was kept, and none was near" in page_of(project).text


def test_images_left_out_are_named_as_they_are_listed(copied):
    (copied.parent / "images" / "plate").mkdir()
    (copied.parent / "images" / "plate" / "cut.png").write_bytes(b"no image")
    (copied.parent / "images" / "none.png").write_bytes(b"")
    project = load_project(copied)
    run_all(project)
    page = page_of(project)
    assert "plate/cut.png not_an_image plate/cut.png: the first bytes" in page.text
    assert "none.png empty none.png: the file is empty" in page.text
    assert str(copied.parent) not in page.text.partition("Left out")[2]


def test_what_changed_since_the_run_before_is_shown(copied):
    project = change(copied, inference={"threshold": 0.4})
    results = run_all(project)
    changed = results["report"].summary["changed"]
    assert changed == 4
    page = page_of(project)
    assert "inference. threshold 0.3 0.4" in page.text
    assert f"{changed} images have other labels, 0 the same" in page.text
    alts = [a["alt"] for tag, a in page.attributes if tag == "img"]
    assert "s0.png: without a label" in alts
    assert run_step("report", project).reused
    # Back to what it was: the run before is now the one with the higher threshold.
    project = change(copied, inference={"threshold": 0.3})
    assert run_all(project)["report"].summary["changed"] == changed
    assert "inference. threshold 0.4 0.3" in page_of(project).text
    assert run_step("report", project).reused


def test_so_many_runs_are_kept_and_no_more(copied):
    for threshold in (0.31, 0.32, 0.33):
        project = change(copied, inference={"threshold": threshold}, report={"runs_kept": 2})
        run_step("annotate", project)
        run_step("report", project)
    folder = step_folder(project, "report")
    names = json.loads((folder / "history.json").read_text())
    assert len(names) == 3, "this run, and the two before it"
    assert sorted(path.name for path in (folder / "runs").iterdir()) == sorted(names)


def test_metrics_of_other_labels_are_not_shown(copied):
    project = change(copied, inference={"threshold": 0.4})
    run_step("annotate", project)
    run_step("report", project)
    assert "metrics" not in [a.get("id") for tag, a in page_of(project).attributes if tag == "h2"]


def test_dropped_masks_are_shown_with_what_they_lacked(copied):
    project = change(copied, inference={"threshold": 0.4})
    run_step("annotate", project)
    run_step("report", project)
    shown = re.findall(r"(0\.\d\d) < 0\.40, entropy", page_of(project).text)
    assert shown
    assert all(float(value) <= 0.4 for value in shown)


def test_odd_names_of_classes_and_files_are_text(tmp_path):
    labels = {f"{n}{name}.png": np.full((20, 30), n + 1, np.uint8) for n, name in enumerate(ODD)}
    write_run(tmp_path, labels, ODD)
    project = load_project(write_project(tmp_path, ODD))
    run_step("report", project)
    page = page_of(project)
    assert "script" not in page.tags
    assert all(a["src"].startswith("data:") for tag, a in page.attributes if tag == "img")
    for number, name in enumerate(ODD):
        assert re.search(rf"{re.escape(escape_control(name))} 1 1 ", page.text), name
        assert f"{number}{escape_control(name)}.png" in page.text, name
    assert "\u202e" not in page.text
    assert "\\u202e" in page.text
    assert page.tags.count("bdi") > 2 * len(ODD)


SAID = {"name": "x", "finished": "now", "images": 1, "instances": 1, "coverage": 0.5}


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1), st.text(min_size=1))
def test_no_text_becomes_anything_but_text(name, value):
    def shown(name, value):
        row = {"class": name, "share_before": 0.1, "share_after": 0.2, "gained": 1, "lost": 0}
        row |= {"instances_before": 1, "instances_after": 2}
        image = {"file_name": name, "changed": 0.5, "measured": "pixels", "gained": 1, "lost": 0}
        difference = {
            **{"before": {**SAID, "name": name}, "after": SAID, "classes": [row]},
            **{"settings": [{"key": "a", "before": value, "after": name}], "rows": [image]},
            **{"more": 0, "changed": 1, "same": 0, "added": [name], "added_count": 1},
            **{"removed": [], "removed_count": 0, "replaced": [], "replaced_count": 0},
            "pairs": [],
        }
        page = render(
            "diff.html.j2", title=name, paths=(name, value), parts=[], difference=difference
        )
        page.encode("utf-8")
        return Page(page)

    found, usual = shown(name, value), shown("n", "v")
    assert found.tags == usual.tags
    assert found.attributes == usual.attributes
    for text in (name, value):
        assert " ".join(escape_control(text).split()) in found.text


def labelled(name, *scores, missed=()):
    box = {"class_index": 0, "rle": {}, "area": 1, "bbox": (0, 0, 1, 1), "entropy": 0.5}
    found = [Instance(**box, score=score, predicted_iou=0.5) for score in scores]
    lost = [Instance(**box, score=score, predicted_iou=0.5, threshold=0.4) for score in missed]
    names = LabelMap.of_names(["a"])
    return LabelledImage(name, "", (1, 1), names, tuple(found), tuple(lost))


def test_samples_are_the_best_the_nearest_and_the_nearly_kept():
    keeper = SampleKeeper([0.4], times_iou=True, most=2)
    keeper.add(labelled("a", 0.45, 0.21, missed=[0.39]))
    keeper.add(labelled("b", 0.40, 0.30, missed=[0.20, 0.35]))
    keeper.add(labelled("c", 0.25, missed=[0.30]))
    found = {
        kind: [(s.file_name, round(s.confidence, 2)) for s in keeper.samples() if s.kind == kind]
        for kind in KINDS
    }
    assert found == {
        # Scores are confidence times predicted IoU, thresholds speak of the confidence.
        "best": [("a", 0.9), ("b", 0.8)],
        "doubtful": [("a", 0.42), ("c", 0.5)],
        "rejected": [("a", 0.39), ("b", 0.35)],
    }


def test_an_album_ends_when_it_weighs_enough():
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    album = Album(40_000)
    made = [album.add(noise, 150, "noise") for _ in range(20)]
    kept = [picture for picture in made if picture is not None]
    assert 0 < len(kept) < 20
    assert album.left_out == 20 - len(kept)
    assert sum(len(picture.uri) for picture in kept) <= 40_000
    assert {(picture.width, picture.height) for picture in kept} == {(150, 100)}


def test_the_report_knows_what_it_was_made_of(finished_project):
    folder = step_folder(load_project(finished_project), "report")
    chain = read_chain(folder / "report.html")
    assert {link.step for link in chain.links.values()} >= {"report", "annotate", "evaluate"}
    assert not broken_links(check_chain(chain))
