"""`usam.fit`: a head in memory, the same as a project's of the same pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import usam_core as usam
from usam_core.errors import ConfigError, InputError, StoreError
from usam_core.head.checkpoint import card_path, load_head
from usam_core.head.familiar import FamiliarHead
from usam_core.rng import generator
from usam_core.sources.scenes import TRAINING_LOOK, scene

SAM = usam.SamConfig(points_per_side=2)
QUICK = usam.HeadConfig(steps=3, hidden=(16, 8, 8), dropout=0.2)


def drawn(name, count=5):
    return [scene(generator(n, name), [name], (48, 64), TRAINING_LOOK).image for n in range(count)]


@pytest.fixture(scope="module")
def pictures():
    return {"disc": drawn("disc"), "rod": drawn("rod")}


@pytest.fixture(scope="module")
def head(pictures):
    return usam.fit(pictures, sam=SAM, head=QUICK, seed=3)


def test_the_head_is_that_of_a_project_with_the_same_pictures(finished_project):
    project = usam.open(finished_project)
    own = finished_project.parent / "out" / "collect" / "pictures"
    pictures = {name: own.glob(f"{name}-*/*.png") for name in project.head.names}
    config = project.config
    head = usam.fit(
        pictures, sam=config.sam, head=config.head, inference=config.inference, seed=config.seed
    )
    wanted, card = load_head(finished_project.parent / "out" / "fit" / "student.safetensors")
    found = head._module.state_dict()
    assert all(torch.equal(value, found[name]) for name, value in wanted.state_dict().items())
    same = ("classes", "training_pictures", "training_digest", "block_widths", "history")
    assert {name: head.card[name] for name in same} == {name: card[name] for name in same}


def test_a_saved_head_labels_the_same(head, pictures, tmp_path):
    file = head.save(tmp_path / "new" / "pets.safetensors")
    again = usam.Head.load(file)
    assert again.names == head.names == ("disc", "rod")
    assert again.inference == head.inference
    for image in (pictures["disc"][0], drawn("rod", 7)[-1]):
        one, other = head.predict(image), again.predict(image)
        assert one.instances == other.instances
        assert np.array_equal(one.labels, other.labels)
        assert one.plot().size == other.plot().size
    masks = head.embeddings(image)
    assert again.predict(masks).instances == one.instances


def test_a_projects_head_labels_without_its_project(finished_project):
    project = usam.open(finished_project)
    file = finished_project.parent / "out" / "fit" / "student.safetensors"
    head = usam.Head.load(file, inference=project.config.inference)
    one = next(iter(project.labels()))
    assert head.predict(one.file).instances == one.instances


def test_from_twenty_names_on_the_softmax_says_enough(pictures):
    many = {f"{name} {n}": pictures[name] for n in range(10) for name in pictures}
    module = usam.fit(many, sam=SAM, head=QUICK)._module
    assert not isinstance(module, FamiliarHead)


def test_the_head_may_say_none_of_these(head, pictures):
    assert isinstance(head._module, FamiliarHead)
    few = usam.fit({name: some[:4] for name, some in pictures.items()}, sam=SAM, head=QUICK)
    assert not isinstance(few._module, FamiliarHead)
    assert "familiar" not in few.card
    one = usam.fit({**pictures, "rod": pictures["rod"][:4]}, sam=SAM, head=QUICK)
    assert (one._module.usual > 0).tolist() == [[True, False]] * 2


def test_negatives_are_learned_and_never_named(pictures):
    head = usam.fit(
        {"disc": pictures["disc"]}, negatives={"rod": pictures["rod"]}, sam=SAM, head=QUICK
    )
    assert head.names == ("disc",)
    assert head.card["familiar"]["owners"] == [0, 1]
    assert set(head.predict(pictures["rod"][0]).class_names) <= {"disc"}


def test_paths_arrays_and_pillow_images_teach_alike_and_doubles_once(pictures, tmp_path):
    given = []
    for number, array in enumerate(pictures["disc"]):
        file = tmp_path / f"{number}.png"
        Image.fromarray(array).save(file)
        given.append([array, Image.fromarray(array), file][number % 3])
    heads = [
        usam.fit({"disc": disc, "rod": pictures["rod"]}, sam=SAM, head=QUICK)
        for disc in ([*given, given[0]], pictures["disc"])
    ]
    assert heads[0].card["training_pictures"] == {"disc": 5, "rod": 5}
    means = [head._module.state_dict()["head.mean"] for head in heads]
    assert torch.allclose(*means, atol=1e-6)


def test_a_picture_of_two_names_has_both(pictures):
    both = pictures["disc"][0]
    head = usam.fit(
        {"disc": pictures["disc"], "round": [both], "rod": pictures["rod"]}, sam=SAM, head=QUICK
    )
    assert head.card["training_pictures"] == {"disc": 5, "round": 1, "rod": 5}


def test_the_same_seed_gives_the_same_head(head, pictures):
    again = usam.fit(pictures, sam=SAM, head=QUICK, seed=3)
    other = usam.fit(pictures, sam=SAM, head=QUICK, seed=4)
    weights = [one._module.state_dict()["head.layers.0.weight"] for one in (head, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ({}, "expected a mapping of each to its pictures"),
        ({"dog": "dog.png"}, "'dog': got one str; expected a list"),
        ({"dog": Path("dogs")}, "got one PosixPath"),
        ({"dog": np.zeros((5, 9, 9), np.uint8)}, "got one ndarray"),
        ({"dog": []}, "'dog': no picture"),
        ({"dog": [3]}, "got int; expected a path"),
        ({"dog": ["nothing.png"]}, "nothing.png: no such file"),
        ({"a/b": []}, "'a/b': expected a name without slashes"),
        ({"background": []}, "'background': expected another name"),
        ({7: []}, "name 7"),
    ],
)
def test_pictures_that_cannot_be_meant_are_told(pictures, words):
    with pytest.raises((ConfigError, InputError)) as told:
        usam.fit(pictures, sam=SAM)
    assert words in str(told.value)


def test_settings_that_need_a_project_are_told(pictures):
    with pytest.raises(ConfigError, match="got composed, dinov2, which needs"):
        usam.fit(pictures, head=usam.HeadConfig(composed="bags", features=["encoder", "dinov2"]))
    with pytest.raises(ConfigError, match="sam: got 'vit_x'; expected one of nano, vit_b"):
        usam.fit(pictures, sam="vit_x")
    with pytest.raises(ConfigError, match="each once"):
        usam.fit(pictures, negatives={"rod": []}, sam=SAM)


def test_heads_that_cannot_be_read_or_used_are_told(head, pictures, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        head.save(tmp_path / "pets.pt")
    with pytest.raises(InputError, match="no such file; expected a head"):
        usam.Head.load(tmp_path / "none.safetensors")
    file = head.save(tmp_path / "pets.safetensors")
    other = usam.Head.load(file, sam=usam.SamConfig(points_per_side=3))
    with pytest.raises(InputError, match="points_per_side: 2, here 3"):
        other.predict(pictures["disc"][0])
    card = json.loads(card_path(file).read_text())
    card["settings"]["features"] = ["dinov2"]
    card_path(file).write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"\['dinov2'\], which the masks lack"):
        usam.Head.load(file).predict(pictures["disc"][0])
    file.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="expected weights with SHA-256"):
        usam.Head.load(file)
