"""The demo's files: two projects over the same scenes, drawn once."""

import numpy as np
from PIL import Image

from usam_core.config.project import load_project
from usam_core.demo import DEMO_CLASSES, prepare_demo
from usam_core.truth import open_truth


def test_two_valid_projects_share_images_truth_and_store(tmp_path):
    demo = prepare_demo(tmp_path, scenes=3, pictures=2)
    default, papers = load_project(demo.default), load_project(demo.papers)
    assert default.store_root == papers.store_root
    assert default.out != papers.out
    assert papers.config.head.features == ["tokens"]
    assert len(default.config.classes) >= 8
    assert len({c.parent for c in default.config.classes}) == 3
    for number in range(3):
        truth = np.asarray(Image.open(tmp_path / "truth" / f"scene_{number:03d}.png"))
        image = Image.open(tmp_path / "images" / f"scene_{number:03d}.png")
        assert truth.shape == image.size[::-1]
        assert 0 < truth.max() <= len(DEMO_CLASSES)
        # The JSON that is measured against, and the PNGs that a person looks at, agree.
        assert np.array_equal(open_truth(default).label_map(f"scene_{number:03d}.png"), truth)


def test_preparing_again_changes_nothing_and_keeps_what_a_person_added(tmp_path):
    prepare_demo(tmp_path, scenes=2)
    (tmp_path / "project.yaml").write_text((tmp_path / "project.yaml").read_text() + "# mine\n")
    (tmp_path / "images" / "mine.png").write_bytes(b"x")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    prepare_demo(tmp_path, scenes=2)
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*") if p.is_file()}
    assert after == before
