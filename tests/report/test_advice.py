"""What to do next: each piece of advice follows from the numbers that call for it, and no other."""

import pytest

from usam_core.report.advice import Facts, next_steps


def facts(**changed):
    rows = [{"name": name, "instances": 40, "threshold": 0.6} for name in ("dog", "cat")]
    plain = {
        "file": "project.yaml",
        "images": 100,
        "classes": rows,
        "coverage": {"notes": [], "empty_count": 2},
        "kept": {"dog": 30, "cat": 30},
        "metrics": {"rows": [{"class": "dog", "iou": 0.8}], "pairs": []},
        "left_out": 0,
        "rejected": [],
        "decisions": 12,
        "formats": ["yolo"],
        "distilled": True,
    }
    return Facts(**{**plain, **changed})


SILENT = [
    {"name": "dog", "instances": 40, "threshold": 0.6},
    {"name": "cat", "instances": 0, "threshold": 0.6},
]
CASES = {
    "could not be used": {"left_out": 3},
    "dog covers": {"coverage": {"notes": ["dog covers all"], "empty_count": 0}},
    "class_thresholds: {cat: 0.3}": {"classes": SILENT, "rejected": ["cat"]},
    "No mask was like cat": {"classes": SILENT},
    "Few training pictures (cat 4)": {"kept": {"dog": 30, "cat": 4}},
    "50% of the images have no label": {"coverage": {"notes": [], "empty_count": 50}},
    "dog is found worst (IoU 0.31)": {
        "metrics": {"rows": [{"class": "dog", "iou": 0.31}], "pairs": []}
    },
    "40% of the pixels of dog are labelled cat": {
        "metrics": {"rows": [], "pairs": [{"truth": "dog", "label": "cat", "share": 0.4}]}
    },
    "Look at the most doubtful": {"decisions": 0},
    "usam review project.yaml --summary": {"metrics": None},
    "usam export project.yaml --format yolo": {"formats": []},
    "usam distill project.yaml": {"distilled": False},
    "Nothing was labelled": {
        "classes": [{"name": "cat", "instances": 0, "threshold": 0.6}],
        "metrics": None,
        "formats": [],
    },
}


def told(of):
    return "\n".join(f"{one.why} {one.do}" for one in next_steps(of))


@pytest.mark.parametrize("words", CASES)
def test_numbers_call_for_their_advice_and_others_do_not(words):
    assert words in told(facts(**CASES[words]))
    assert words not in told(facts())


def test_a_good_run_is_reviewed_further_and_never_left_without_a_word():
    assert "12 decisions of a person so far" in told(facts())
    assert len(next_steps(facts())) == 1


def test_a_run_without_labels_is_not_told_to_review_or_export_them():
    said = told(facts(**CASES["Nothing was labelled"]))
    assert "usam review" not in said
    assert "usam export" not in said
    assert "threshold: 0.3" in said


def test_a_background_that_is_mistaken_is_no_pair_of_classes():
    pairs = [{"truth": "background", "label": "dog", "share": 0.9}]
    assert "background" not in told(facts(metrics={"rows": [], "pairs": pairs}))
