"""What differs between two sets of labels, counted on label maps that are known."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.labelled_run import write_run
from tests.usam_process import usam
from usam_core.errors import InputError
from usam_core.masks.label_png import save_label_png
from usam_core.report import difference, runs
from usam_core.report.difference import changed_settings, changes_part, compare_runs, unmatched
from usam_core.report.page import Album
from usam_core.report.runs import keep_run, open_run, reduced


def label_map(rows, columns, *boxes):
    """Return a label map; a box is label, top, bottom, left, right."""
    labels = np.zeros((rows, columns), np.uint8)
    for label, top, bottom, left, right in boxes:
        labels[top:bottom, left:right] = label
    return labels


BEFORE = {
    "same.png": label_map(20, 30, (1, 2, 12, 2, 12)),
    "moved.png": label_map(20, 30, (1, 0, 10, 0, 10)),
    "lost.png": label_map(40, 50, (1, 0, 10, 0, 10), (2, 20, 30, 20, 30)),
    "gone.png": label_map(20, 30),
}
AFTER = {
    "same.png": BEFORE["same.png"],
    # One column on: 10 pixels lose the label and 10 get it, and it is the same instance.
    "moved.png": label_map(20, 30, (1, 0, 10, 1, 11)),
    "lost.png": label_map(40, 50, (1, 0, 10, 0, 10)),
    "new.png": label_map(20, 30),
}
NAMES = ["cat", "dog"]


@pytest.fixture
def two_runs(tmp_path):
    before = write_run(tmp_path / "a", BEFORE, NAMES)
    after = write_run(tmp_path / "b", AFTER, NAMES, inference={"threshold": 0.4})
    return before, after


def test_what_a_person_painted_void_is_no_label(two_runs):
    png = two_runs[1] / "masks" / "moved.png.png"
    save_label_png(png, np.where(AFTER["moved.png"] == 0, 255, AFTER["moved.png"]).astype(np.uint8))
    found = compare_runs(*map(open_run, two_runs)).images.set_index("file_name")
    assert found.loc["moved.png", "changed"] == 20 / 600


def test_the_page_counts_what_it_leaves_out(two_runs, monkeypatch):
    monkeypatch.setattr(difference, "_MAX_ROWS", 0)
    before, after = map(open_run, two_runs)
    part = changes_part(compare_runs(before, after), before, after, Album(0))
    assert [part[name] for name in ("rows", "added", "removed", "replaced")] == [[]] * 4
    assert [part[f"{name}_count"] for name in ("added", "removed", "replaced")] == [1, 1, 0]
    assert (part["changed"], part["more"], part["same"]) == (2, 2, 1)


def test_pixels_instances_and_settings_are_counted(two_runs):
    found = compare_runs(*map(open_run, two_runs))
    assert found.images.to_dict("records") == [
        {"file_name": "lost.png", "changed": 0.05, "measured": "pixels", "gained": 0, "lost": 1},
        {"file_name": "moved.png", "changed": 20 / 600, "measured": "pixels", "gained": 0}
        | {"lost": 0},
    ]
    assert (found.same, found.added, found.removed) == (1, ["new.png"], ["gone.png"])
    assert found.settings == [("inference.threshold", 0.3, 0.4)]
    dog, cat = found.classes.to_dict("records")
    assert (dog["class"], dog["instances_before"], dog["instances_after"]) == ("dog", 1, 0)
    assert (dog["gained"], dog["lost"]) == (0, 1)
    assert dog["share_before"] == pytest.approx(100 / 3800)
    assert (cat["gained"], cat["lost"], cat["share_after"]) == (0, 0, pytest.approx(300 / 3800))


def test_classes_are_the_same_by_name_and_not_by_number(tmp_path):
    before = write_run(tmp_path / "a", {"x.png": label_map(20, 20, (1, 0, 9, 0, 9))}, NAMES)
    swapped = {"x.png": label_map(20, 20, (2, 0, 9, 0, 9))}
    after = write_run(tmp_path / "b", swapped, ["dog", "cat", "owl"])
    found = compare_runs(open_run(before), open_run(after))
    assert found.images.empty
    # And the same file means something else where the names are others.
    other = write_run(tmp_path / "c", {"x.png": label_map(20, 20, (1, 0, 9, 0, 9))}, ["owl"])
    found = compare_runs(open_run(before), open_run(other))
    assert found.images["changed"].tolist() == [81 / 400]
    assert found.images[["gained", "lost"]].values.tolist() == [[1, 1]]


def test_a_kept_run_says_the_same_on_reduced_copies(two_runs, tmp_path):
    before, after = map(open_run, two_runs)
    keep_run(before, tmp_path / "kept")
    kept = open_run(tmp_path / "kept")
    exact, found = compare_runs(before, after), compare_runs(kept, after)
    assert found.images["measured"].tolist() == ["copy", "copy"]
    # These images are small enough to be kept as they are.
    assert found.images["changed"].tolist() == exact.images["changed"].tolist()
    assert found.classes.equals(exact.classes)
    assert kept.picture("moved.png").shape == (20, 30, 3)


def test_without_copies_the_pixels_are_bounded_from_below(two_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MAX_COPIES", 0)
    before, after = map(open_run, two_runs)
    keep_run(before, tmp_path / "kept")
    found = compare_runs(open_run(tmp_path / "kept"), after)
    rows = found.images.set_index("file_name")
    # What moved within a class cannot be seen in its number of pixels.
    assert rows.to_dict("index") == {
        "lost.png": {"changed": 0.05, "measured": "least", "gained": 0, "lost": 1}
    }


def test_another_image_under_the_same_name_is_said_and_not_compared(two_runs, tmp_path):
    after = open_run(two_runs[1])
    labels = {**BEFORE, "moved.png": label_map(7, 9)}
    found = compare_runs(open_run(write_run(tmp_path / "c", labels, NAMES)), after)
    assert found.replaced == ["moved.png"]
    assert found.images["file_name"].tolist() == ["lost.png"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (256, 256), (257, 100), (1000, 3001)])
def test_a_reduced_map_is_small_and_has_no_other_labels(shape):
    labels = (np.arange(np.prod(shape)) % 7).reshape(shape).astype(np.uint8)
    small = reduced(labels)
    assert max(small.shape) <= 256
    assert min(small.shape) >= 1
    assert set(np.unique(small)) <= set(np.unique(labels))
    if max(shape) <= 256:
        assert (small == labels).all()


@pytest.mark.parametrize("name", ["", "run.json", "lineage.json", ".."])
def test_a_run_is_named_by_its_folder_or_a_file_in_it(two_runs, name):
    assert open_run(two_runs[0] / name).path == two_runs[0]


def test_what_is_no_run_is_refused_with_what_was_expected(tmp_path, two_runs):
    for path in (tmp_path, tmp_path / "none", two_runs[0] / "masks"):
        with pytest.raises(InputError, match=r"expected a finished folder of `annotate`"):
            open_run(path)


BOXES = st.lists(
    st.tuples(st.integers(1, 3), *[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2), max_size=8
).map(lambda rows: np.array(rows, np.float64).reshape(-1, 5))


@settings(max_examples=200, deadline=None)
@given(BOXES, BOXES)
def test_gained_and_lost_balance_for_each_class(one, other):
    gained, lost = unmatched(other, one), unmatched(one, other)
    for label in (1, 2, 3):
        grown = (other[:, 0] == label).sum() - (one[:, 0] == label).sum()
        assert (gained == label).sum() - (lost == label).sum() == grown
    assert len(unmatched(one, one)) == 0


def test_a_setting_that_is_new_counts_as_changed():
    assert changed_settings({"a": {"b": 1}}, {"a": {"b": 1, "c": [2]}}) == [("a.c", None, [2])]


def test_the_command_prints_tables_or_json_and_writes_a_page(two_runs, tmp_path):
    page = tmp_path / "diff.html"
    found = usam("diff", *two_runs, "--html", page)
    assert found.returncode == 0, found.stderr
    assert "2 images have other labels, 1 the same" in found.stdout
    assert "lost.png" in found.stdout
    assert page.read_text(encoding="utf-8").count("<img ") == 4
    found = usam("diff", *two_runs, "--json")
    assert json.loads(found.stdout)["images"][0]["file_name"] == "lost.png"
    found = usam("diff", two_runs[0], "nowhere")
    assert found.returncode == 2
    assert found.stderr.startswith("usam: nowhere: no such file")
