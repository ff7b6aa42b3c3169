"""From a composed scene back to the pictures that its objects were cut out of."""

import shutil

import pandas as pd
import pytest

from tests.lineage.tampered import broken, lose, sentences
from usam_core.config.project import load_project
from usam_core.lineage.chain import read_chain
from usam_core.lineage.show import tree
from usam_core.steps.embed import open_store
from usam_core.steps.lineage_checks import check_chain

SCENE = "out/compose/scenes/train-00001.png"


def test_a_composed_scene_leads_back_to_the_pictures_of_its_cutouts(root):
    scenes = pd.read_parquet(root / "out/compose/scenes.parquet").set_index("path")
    scene = scenes.loc["scenes/train-00001.png"]
    chain = read_chain(root / SCENE)
    findings = check_chain(chain)
    text = "\n".join(tree(chain, findings))
    assert f"{SCENE}: composed scene" in text
    assert "the chain is whole" in text
    assert f"train: {', '.join(scene['labels'])} on {scene['background']}" in text
    manifest = pd.read_parquet(root / "out/collect/manifest.parquet").set_index("sha256")
    for name, sha256 in zip(scene["labels"], scene["sources"], strict=True):
        assert f"{name} {manifest.loc[sha256, 'path']} {sha256[:12]}" in text
    index = open_store(load_project(root / "project.yaml")).index().set_index("sha256")
    assert index.loc[scene["sha256"], "shard"] in text
    assert {link.step for link in chain.links.values()} == {"compose", "collect", "embed"}


def replace_source(root):
    scenes = pd.read_parquet(root / "out/compose/scenes.parquet").set_index("path")
    source = scenes.loc["scenes/train-00001.png", "sources"][0]
    file = root / "out/collect/manifest.parquet"
    table = pd.read_parquet(file)
    table[table["sha256"] != source].to_parquet(file, index=False)


def add_scene(root):
    shutil.copy(root / "out/compose/scenes/train-00000.png", root / SCENE)


@pytest.mark.parametrize(
    ("tamper", "name", "sentence"),
    [
        (add_scene, "file", "train-00001.png: expected SHA-256"),
        (replace_source, "cut-outs", "the manifest does not name any more"),
        (lose("out/compose/scenes.parquet"), "file", "scenes.parquet: expected SHA-256"),
    ],
    ids=["scene replaced", "picture gone", "table gone"],
)
def test_what_a_composed_scene_lost_is_named(root, tamper, name, sentence):
    tamper(root)
    assert (None, name) in broken(root / SCENE)
    assert sentence in sentences(root / SCENE)


def test_a_scene_that_was_not_composed_is_told(root):
    stray = root / "out/compose/scenes/stray.png"
    shutil.copy(root / SCENE, stray)
    assert "stray.png: compose did not make it" in sentences(stray)
