"""None of these: however few classes there are, what is like no training picture is no class."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from tests.conftest import change
from tests.head.test_train import CONFIG, PROMPTS, WIDTH, Rows, source
from usam_core.config.project import load_project
from usam_core.config.schema import GateConfig, InferenceConfig
from usam_core.head import familiar as familiar_module
from usam_core.head.checkpoint import load_head, save_head
from usam_core.head.familiar import FamiliarHead, learn_familiar, shares_of
from usam_core.head.model import Head
from usam_core.inference.scoring import candidates
from usam_core.metrics.gate import RunStatistics, covers_too_much, judge
from usam_core.steps import fit, run_step
from usam_core.types import MaskSet


def world(classes, pictures=24, seed=0):
    """Return bags whose first 4 masks are like a mean of their name, and all means."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(classes, WIDTH)) * 3
    columns, names = {}, np.arange(pictures * classes) % classes
    for number, name in enumerate(names):
        features = rng.normal(size=(PROMPTS, 4, WIDTH))
        features[:4] += means[name]
        columns[f"{number:03d}"] = {
            "features/encoder": features.astype(np.float16),
            "predicted_iou": rng.random((PROMPTS, 4)).astype(np.float32),
        }
    labels = np.eye(classes, dtype=np.float32)[names]
    objects = np.zeros((len(names), PROMPTS), bool)
    objects[:, :4] = True
    return source(Rows(columns), labels), names, objects, means


def familiar(classes, head=None, share=0.5, **options):
    bags, names, objects, means = world(classes, **options)
    made = FamiliarHead(head or Flat(classes), WIDTH, list(range(classes)), share)
    made.load_state_dict(learn_familiar(bags, names, objects), strict=False)
    return made.eval(), means


class Flat(nn.Module):
    """A head that has learned nothing."""

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def forward(self, rows):
        return torch.zeros(*rows.shape[:-1], self.classes)


def image_of(rows):
    d = len(rows)
    return MaskSet(
        tokens=None,
        packed_masks=np.full((d, 4, 8, 1), 255, np.uint8),
        predicted_iou=np.ones((d, 4), np.float32),
        stability=np.ones((d, 4), np.float32),
        points_xy=np.zeros((d, 2), np.float32),
        size_hw=(8, 8),
        features={"encoder": np.repeat(rows[:, None], 4, axis=1).astype(np.float16)},
    )


@given(st.integers(1, 10), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_what_is_like_no_class_is_no_candidate_of_up_to_ten(classes, seed):
    bags, names, objects, means = world(classes, seed=seed)
    made = FamiliarHead(Oracle(means), WIDTH, list(range(classes)), 0.5)
    made.load_state_dict(learn_familiar(bags, names, objects), strict=False)
    rng = np.random.default_rng(9)
    like = means + rng.normal(size=means.shape) * 0.5
    unlike = rng.normal(size=(30, WIDTH)) - 2 * means.mean(0)
    found = candidates(
        made, image_of(np.concatenate([like, unlike])), ["encoder"], InferenceConfig(), classes
    )
    assert set(range(classes)) <= set(found.prompts.tolist())
    assert (found.prompts >= classes).mean() < 0.5
    assert (found.prompts >= classes).sum() <= 6


class Oracle(nn.Module):
    """A head that knows the means."""

    def __init__(self, means):
        super().__init__()
        self.register_buffer("means", torch.from_numpy(means.astype(np.float32)))

    def forward(self, rows):
        return nn.functional.normalize(rows, dim=-1) @ nn.functional.normalize(self.means, dim=-1).T


def test_one_class_is_not_everything():
    made, means = familiar(1)
    rows = torch.from_numpy(np.stack([means[0], -means[0]]).astype(np.float32))
    sure = made(rows).softmax(-1)[:, 0]
    assert sure[0] > 0.9
    assert sure[1] < 0.1


@pytest.mark.parametrize(("classes", "shares"), [(4, [0.5, 0.5]), (6, [0.5, 0.25]), (15, [0.25])])
def test_at_the_share_the_odds_are_even_and_the_classes_keep_theirs(classes, shares):
    made, _ = familiar(classes, Oracle(world(classes)[3]))
    rows = torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(0)) * 3
    with torch.no_grad():
        logits, inner = made(rows), made.head(rows)
        nearness = made.nearness(rows)
    best = inner.argmax(-1, keepdim=True)
    lacks = [s - near.gather(-1, best) for s, near in zip(shares, nearness, strict=True)]
    assert torch.equal(logits[:, :classes], inner)
    none = logits.softmax(-1)[:, classes]
    assert torch.allclose(none, torch.sigmoid(16 * torch.cat(lacks, -1).amax(-1)), atol=1e-4)


@given(st.floats(0.1, 1), st.lists(st.integers(1, 30), min_size=2, max_size=2, unique=True))
def test_the_more_names_the_fewer_tests_and_the_less_they_ask(share, counts):
    few, many = (shares_of(share, count) for count in sorted(counts))
    assert len(few) >= len(many)
    assert all(more >= less > 0 for more, less in zip(few, many, strict=False))


def test_twenty_names_have_no_such_output(project_file, monkeypatch):
    monkeypatch.setattr(fit, "MIN_EXAMPLES", 3)
    project = change(project_file, head={"familiar": 0.5})
    for step in ("collect", "embed", "compose", "describe", "fit"):
        few = run_step(step, project)
    assert "familiar" in load_head(Path(few.path))[1]
    for limit in ("MANY", "FEW"):
        monkeypatch.setattr(familiar_module, limit, 1)
    head, card = load_head(Path(run_step("fit", project, refresh=True).path))
    assert "familiar" not in card
    assert isinstance(head, Head)
    monkeypatch.undo()
    assert shares_of(0.5, 19)
    assert not shares_of(0.5, 20)


@given(st.integers(1, 4), st.integers(2, 20))
@settings(max_examples=10, deadline=None)
def test_the_cosines_by_products_are_those_of_standardized_rows(classes, pictures):
    made, _ = familiar(classes, pictures=pictures)
    rows = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(pictures)) * 2
    unit = nn.functional.normalize((rows[:, None] - made.centre[1:]) / made.scale[1:], dim=-1)
    expected = (unit * made.means[1]).sum(-1) / made.usual[1]
    assert torch.allclose(made.nearness(rows)[1], expected, atol=1e-4)


def test_names_that_are_labelled_alike_each_count():
    bags, names, objects, means = world(4)
    made = FamiliarHead(Flat(2), WIDTH, [0, 0, 1, 1], 0.5)
    made.load_state_dict(learn_familiar(bags, names, objects), strict=False)
    near, _ = made.nearness(torch.from_numpy(means.astype(np.float32)))
    assert near.argmax(-1).tolist() == [0, 0, 1, 1]


def test_a_lone_picture_and_one_without_an_object_are_no_fault():
    bags, names, objects, _ = world(2, pictures=1)
    objects[:] = False
    made = learn_familiar(bags, names, objects)
    assert all(torch.isfinite(value).all() for value in made.values())
    assert (made["usual"] > 0).all()


@pytest.mark.parametrize("classes", [2, 6])
def test_a_name_with_too_few_pictures_rejects_nothing_and_the_others_as_before(classes):
    bags, names, objects, means = world(classes)
    every = FamiliarHead(Oracle(means), WIDTH, list(range(classes)), 0.5)
    every.load_state_dict(learn_familiar(bags, names, objects), strict=False)
    some = FamiliarHead(Oracle(means), WIDTH, list(range(classes)), 0.5)
    some.load_state_dict(learn_familiar(bags, names, objects, [1]), strict=False)
    rows = torch.randn(300, WIDTH, generator=torch.Generator().manual_seed(3)) * 3
    with torch.no_grad():
        all_asked, asked = every(rows), some(rows)
    few = asked[:, :classes].argmax(-1) == 1
    assert 0 < few.sum() < 300
    assert (all_asked.softmax(-1)[few, -1] > 0.5).any()
    assert (asked.softmax(-1)[few, -1] == 0).all()
    assert torch.isfinite(asked).all()
    assert torch.equal(asked[~few], all_asked[~few])


def test_the_head_file_keeps_it(tmp_path):
    inner = Head(WIDTH, 3, CONFIG.hidden, CONFIG.dropout)
    made, _ = familiar(3, inner)
    card = {
        "classes": ["a", "b", "c"],
        "settings": CONFIG.model_dump(mode="json"),
        "familiar": {"owners": [0, 1, 2], "share": 0.5},
    }
    save_head(tmp_path / "student.safetensors", made, card)
    again, _ = load_head(tmp_path / "student.safetensors")
    rows = torch.randn(4, WIDTH)
    with torch.no_grad():
        assert torch.equal(again(rows), made(rows))


@pytest.mark.parametrize(("count", "told"), [(50, False), (51, True)])
def test_a_class_that_is_nearly_everything_is_told_with_the_setting_to_try(count, told):
    said = covers_too_much({"nucleus": count}, 100)
    assert bool(said) == told
    now = RunStatistics("k", images=100, quarantined=0.0, covered={"nucleus": count})
    objections = judge(now, [], GateConfig())
    assert [o.check for o in objections] == (["max_covered"] if told else [])
    assert judge(now, [], GateConfig(max_covered=None)) == []
    for sentence in [*said, *(o.reason for o in objections)]:
        assert "nucleus" in sentence
        assert "inference.threshold" in sentence
        assert "`negatives:`" in sentence
        assert "helps where there are so many, or two names" in sentence


def test_no_image_is_no_doubt():
    assert covers_too_much({}, 0) == []


def painted(file, **head):
    """Return which share of all pixels the only class takes, and what annotate noted."""
    values = yaml.safe_load(file.read_text())
    values |= {"classes": ["disc"], "head": {**values.get("head", {}), **head}}
    values.pop("evaluation", None)
    file.write_text(yaml.safe_dump(values))
    project = load_project(file)
    for step in ("collect", "embed", "compose", "describe", "fit", "calibrate", "annotate"):
        result = run_step(step, project)
    masks = [np.asarray(Image.open(png)) for png in (file.parent / "out").rglob("masks/*.png")]
    assert masks
    return np.mean([(mask > 0).mean() for mask in masks]), result.summary["notes"]


def test_three_pictures_are_too_few_to_reject_by(project_file, caplog):
    everything, _ = painted(project_file, familiar=0.0)
    assert painted(project_file, familiar=0.5)[0] == everything
    assert "fewer than 5 pictures of a name (disc 3)" in caplog.text
    assert "Collect more of it (at least 5; tens are usual), or add another name" in caplog.text
    assert "raise inference.threshold" not in caplog.text


def test_names_with_enough_pictures_reject_beside_one_without(caplog):
    assert fit.any_has_enough({"disc": 4, "rod": 5})
    assert "(disc 4)" in caplog.text
    assert "or raise inference.threshold" in caplog.text
    assert not fit.any_has_enough({"disc": 4, "rod": 1})
    caplog.clear()
    assert fit.any_has_enough({"disc": 5, "rod": 5})
    assert not caplog.text


def test_the_head_of_a_project_knows_which_names_have_too_few(project_file, monkeypatch):
    project = change(project_file, head={"familiar": 0.5})
    for step in ("collect", "embed", "compose", "describe"):
        run_step(step, project)
    few = {"disc": False, "ring": True, "rod": False}
    taught = fit.lessons

    def some(*args):
        found = taught(*args)
        counts = {name: 4 if few[name] else 5 for name in found.pictures}
        return replace(found, pictures=counts)

    monkeypatch.setattr(fit, "lessons", some)
    head, _ = load_head(Path(run_step("fit", project).path))
    assert (head.usual == 0).tolist() == [list(few.values())] * 2


def test_a_project_of_one_name_does_not_paint_everything(project_file, monkeypatch):
    monkeypatch.setattr(fit, "MIN_EXAMPLES", 3)
    everything, _ = painted(project_file, familiar=0.0)
    share, notes = painted(project_file, familiar=0.5)
    assert share < 0.6 * everything
    assert not any("over 90%" in note for note in notes)


def test_how_alike_pictures_are_is_by_the_others_not_by_themselves():
    bags, names, objects, _ = world(2, pictures=3, seed=4)
    made = {
        k: v.numpy().astype(np.float64) for k, v in learn_familiar(bags, names, objects).items()
    }
    rows = np.concatenate([features for features, _ in bags.in_order()])
    unit = (rows - made["centre"][0]) / made["scale"][0]
    pictures = np.array([one[on].mean(0) for one, on in zip(unit, objects, strict=True)])
    pictures /= np.linalg.norm(pictures, axis=-1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    best = []
    for number in np.flatnonzero(names == 0):
        rest = [n for n in np.flatnonzero(names == 0) if n != number]
        mean = pictures[rest].sum(0)
        best.append((unit[number] @ mean / np.linalg.norm(mean)).max())
    assert made["usual"][0, 0] == pytest.approx(max(np.mean(best), 0.4), abs=1e-4)
    assert np.mean(best) > 0.4


def test_of_names_that_are_labelled_alike_the_nearest_counts():
    bags, names, objects, _ = world(4)
    learned = learn_familiar(bags, names, objects)
    fine, coarse = (
        FamiliarHead(Flat(o), WIDTH, owners, 0.5)
        for o, owners in ((4, [0, 1, 2, 3]), (2, [0, 0, 1, 1]))
    )
    rows = torch.randn(9, WIDTH, generator=torch.Generator().manual_seed(1))
    for head in (fine, coarse):
        head.load_state_dict(learned, strict=False)
    for apart, together in zip(fine.nearness(rows), coarse.nearness(rows), strict=True):
        assert torch.equal(together, apart.unflatten(-1, (2, 2)).amax(-1))
