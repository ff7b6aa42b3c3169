"""`usam bench` with the papers' SAM+CLIP settings, and a toy CLIP beside them."""

from pathlib import Path

import pytest
import yaml

from tests.bench_data import QUICK, write_voc
from tests.feature_models import save_model
from usam_core.bench.plan import Choices, make_plan, run_plan
from usam_core.bench.report import write_report
from usam_core.head.checkpoint import load_head
from usam_core.steps.annotate import head_path

pytestmark = pytest.mark.slow

SAM_CLIP = Path(__file__).parents[2] / "benchmarks" / "sam_clip.yaml"


def test_the_papers_baseline_is_a_row_without_pictures(tmp_path):
    write_voc(tmp_path, images=2)
    save_model(tmp_path / "settings" / "toy", "clip")
    settings = yaml.safe_load(SAM_CLIP.read_text())
    settings["features"]["clip"]["model"] = "toy"  # beside the settings, not the projects
    settings["sam"] = QUICK["sam"]
    file = tmp_path / "settings" / "sam_clip.yaml"
    file.write_text(yaml.safe_dump(settings))
    plan = make_plan(
        Choices("voc21", tmp_path, tmp_path / "out", settings=file, names="raw", seeds=(0, 1))
    )
    measured = run_plan(plan)
    for one in measured:
        assert one.steps["collect"].summary["pictures"] == 0
        assert one.steps["fit"].summary["used"] == "zero_shot"
        head, card = load_head(head_path(one.project))
        assert len(card["text"]["sentences"]["diningtable"]) == 1
        assert head.vectors.shape[0] == 20
    row = write_report(plan, measured)["rows"][0]
    assert (row["method"], row["training"]) == ("usam, names alone (text)", "none")
    assert row["runs"] == 2
    assert row["miou"] is not None
