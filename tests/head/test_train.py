"""Bags, training and the head file: does the head find what only bag labels tell it?"""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from usam_core.config.schema import HeadConfig
from usam_core.errors import InputError, StoreError
from usam_core.head import train as training
from usam_core.head.bags import BagSource, assemble, choose_masks
from usam_core.head.checkpoint import card_path, load_head, save_head
from usam_core.head.losses import bad_masks, entropy, image_scores
from usam_core.head.model import Head
from usam_core.head.train import train

CLASSES, PROMPTS, WIDTH = 3, 12, 16


class Rows:
    """Embeddings in memory, with the store's reading methods."""

    def __init__(self, columns):
        self.columns = columns
        self.reads = 0

    def read_rows(self, shas, columns):
        self.reads += len(shas)
        for sha256 in shas:
            yield sha256, {name: self.columns[sha256][name] for name in columns}

    def block_names(self):
        return ["tokens", "encoder"]


def toy(bags=90, seed=0):
    """Every bag of class j holds 3 masks around a mean of j; the rest is common background."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(CLASSES, WIDTH)) * 3
    columns, labels, truth = {}, np.zeros((bags, CLASSES), np.float32), []
    for number in range(bags):
        wanted = number % CLASSES
        labels[number, wanted] = 1
        features = rng.normal(size=(PROMPTS, 4, WIDTH))
        features[:3] += means[wanted]
        columns[f"{number:03d}"] = {
            "tokens": rng.normal(size=(PROMPTS, 8)).astype(np.float16),
            "features/encoder": features.astype(np.float16),
            "predicted_iou": rng.random((PROMPTS, 4)).astype(np.float32),
            "packed_masks": rng.integers(0, 256, (PROMPTS, 4, 8, 1)).astype(np.uint8),
        }
        truth.append(wanted)
    return Rows(columns), labels, np.array(truth)


def source(rows, labels, **settings):
    settings = {"features": ["encoder"], "mask_choice": "best_iou", "cache_mb": 10, **settings}
    return BagSource(rows, sorted(rows.columns), labels, **settings)


CONFIG = HeadConfig(steps=150, batch_size=16, top_k_share=4, dropout=0.3, hidden=(32, 16, 8))


def test_bag_labels_teach_which_masks_hold_the_object():
    rows, labels, truth = toy()
    heads = train(source(rows, labels), CONFIG, seed=0)
    bags, *_ = next(source(rows, labels).batches(np.random.default_rng(0), 90))
    order = np.random.default_rng(0).permutation(90)
    logits = heads.student(torch.from_numpy(bags)).detach()
    found = logits[:, :3].argmax(-1).numpy()
    assert (found == truth[order][:, None]).mean() > 0.9


@pytest.mark.slow
def test_the_student_is_less_sure_of_the_background_than_its_teacher():
    rows, labels, _ = toy()
    longer = CONFIG.model_copy(update={"steps": 480, "dropout": 0.0})
    heads = train(source(rows, labels), longer, seed=0)
    bags, *_ = next(source(rows, labels).batches(np.random.default_rng(0), 90))
    background = torch.from_numpy(bags[:, 3:])
    with torch.no_grad():
        teacher, student = heads.teacher(background), heads.student(background)
    assert entropy(student).mean() > entropy(teacher).mean() + 0.05


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before():
    rows, labels, _ = toy(30)
    config = CONFIG.model_copy(update={"steps": 4})
    first = train(source(rows, labels), config, seed=5).student.state_dict()
    torch.rand(7)
    state = torch.random.get_rng_state()
    second = train(source(rows, labels), config, seed=5).student.state_dict()
    other = train(source(rows, labels), config, seed=6).student.state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["layers.0.weight"], other["layers.0.weight"])


@pytest.mark.parametrize(
    ("setting", "value", "role"),
    [
        ("lambda_mil", 0.5, "teacher"),
        ("learning_rate", 0.002, "teacher"),
        ("dropout", 0.0, "teacher"),
        ("top_k_share", 2.0, "teacher"),
        ("lambda_mil", 0.5, "student"),
        ("lambda_uncertainty", 0.5, "student"),
        ("entropy_threshold", 1.0, "student"),
        ("uncertainty_reduction", "sum", "student"),
    ],
)
def test_every_setting_of_the_loss_reaches_the_weights(setting, value, role):
    rows, labels, _ = toy(30)
    config = CONFIG.model_copy(update={"steps": 4})
    heads = [
        getattr(train(source(rows, labels), changed, seed=5), role).state_dict()
        for changed in (config, config.model_copy(update={setting: value}))
    ]
    assert any(not torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_the_student_begins_from_weights_of_its_own():
    rows, labels, _ = toy(6)
    still = CONFIG.model_copy(update={"steps": 1, "learning_rate": 1e-12})
    heads = train(source(rows, labels), still, seed=0)
    for teacher, student in zip(
        heads.teacher.parameters(), heads.student.parameters(), strict=True
    ):
        assert not torch.allclose(teacher, student, atol=1e-3)


def test_the_teacher_is_asked_and_given_without_dropout(monkeypatch):
    """A teacher that drops most of its units calls other masks bad at each step."""
    rows, labels, _ = toy(6)
    asked = []

    def watched(logits, labels, threshold):
        asked.append(logits.clone())
        return bad_masks(logits, labels, threshold)

    monkeypatch.setattr(training, "bad_masks", watched)
    sleepy = CONFIG.model_copy(update={"steps": 3, "dropout": 0.9})
    heads = train(source(rows, labels), sleepy, seed=0)
    assert not heads.teacher.training
    assert not heads.student.training
    bags, *_ = next(source(rows, labels).batches(np.random.default_rng(0), 6))
    with torch.no_grad():
        expected = heads.teacher(torch.from_numpy(bags)).flatten(0, 1)
    assert len(asked) == 3
    for logits in asked:  # the pictures of a pass come in any order
        found = logits.flatten(0, 1)
        assert torch.allclose(found.sort(0).values, expected.sort(0).values, atol=1e-5)


def test_the_history_adds_up():
    rows, labels, _ = toy(30)
    config = CONFIG.model_copy(update={"steps": 4, "lambda_mil": 0.5, "lambda_uncertainty": 0.3})
    for line in train(source(rows, labels), config, seed=0).history:
        expected = 0.5 * line["mil"] + 0.3 * line["uncertainty"]
        assert line["loss"] == pytest.approx(expected, rel=1e-5)


class Counted:
    """Progress that keeps what was announced and what was done."""

    def bar(self, what, total):
        self.total, self.done = total, 0
        return nullcontext(self)

    def advance(self, count=1):
        self.done += count


@pytest.mark.parametrize("distil", [True, False])
@pytest.mark.parametrize("features", [["encoder"], ["tokens", "encoder"]])
def test_as_many_passes_as_the_steps_need_each_of_them_told(features, distil):
    rows, labels, _ = toy(20)
    config = CONFIG.model_copy(update={"steps": 5, "distil": distil})
    progress = Counted()
    history = train(source(rows, labels, features=features), config, 0, progress).history
    # Two batches of at most 16 pictures a pass: three passes are at least five steps.
    roles = ["teacher", "student"] if distil else ["teacher"]
    passes = [(role, epoch) for role in roles for epoch in (1, 2, 3)]
    assert [(line["role"], line["epoch"]) for line in history] == passes * len(features)
    assert progress.total == progress.done == len(history)


def test_a_head_of_one_block_is_no_head_of_several():
    rows, labels, _ = toy(6)
    config = CONFIG.model_copy(update={"steps": 1})
    heads = train(source(rows, labels), config, 0)
    assert isinstance(heads.teacher, Head)
    assert isinstance(heads.student, Head)
    assert "block" not in heads.history[0]


@pytest.mark.parametrize("standardize", [True, False])
def test_features_are_standardized_by_the_moments_of_the_bags(standardize):
    rows, labels, _ = toy(6)
    for columns in rows.columns.values():
        columns["features/encoder"] = columns["features/encoder"] * 2 + 1
    bags = source(rows, labels)
    config = CONFIG.model_copy(update={"steps": 1, "standardize": standardize})
    heads = train(bags, config, 0)
    expected = bags.moments() if standardize else (np.zeros(WIDTH), np.ones(WIDTH))
    for head in (heads.teacher, heads.student):
        assert head.mean.numpy() == pytest.approx(expected[0])
        assert head.deviation.numpy() == pytest.approx(expected[1])


def test_the_accuracy_is_the_share_of_pictures_whose_best_class_is_theirs():
    rows, labels, _ = toy(30)
    update = {"steps": 1, "learning_rate": 1e-12, "dropout": 0.0, "batch_size": 30}
    heads = train(source(rows, labels), CONFIG.model_copy(update=update), seed=0)
    bags, wanted, *_ = next(source(rows, labels).batches(np.random.default_rng(0), 30))
    with torch.no_grad():
        best = image_scores(heads.teacher(torch.from_numpy(bags)), 4).argmax(1).numpy()
    right = wanted[np.arange(30), best].mean()
    assert 0 < right < 1, "else nothing would be seen"
    assert heads.history[0]["accuracy"] == pytest.approx(right)


def test_without_distillation_there_is_no_student():
    rows, labels, _ = toy(30)
    heads = train(source(rows, labels), CONFIG.model_copy(update={"steps": 2, "distil": False}), 0)
    assert heads.student is None
    assert {line["role"] for line in heads.history} == {"teacher"}


def test_a_small_cache_gives_the_same_batches_and_reads_the_store_again():
    rows, labels, _ = toy(30)
    whole = source(rows, labels)
    none = source(rows, labels, cache_mb=0)
    before = rows.reads
    for one, two in zip(
        whole.batches(np.random.default_rng(1), 7),
        none.batches(np.random.default_rng(1), 7),
        strict=True,
    ):
        assert np.array_equal(one[0], two[0])
        assert np.array_equal(one[1], two[1])
    assert rows.reads - before == 30


def test_moments_are_those_of_all_masks():
    rows, labels, _ = toy(30)
    bags = source(rows, labels)
    stacked, *_ = next(bags.batches(np.random.default_rng(0), 30))
    mean, deviation = bags.moments()
    flat = stacked.reshape(-1, WIDTH)
    assert mean == pytest.approx(flat.mean(0), abs=1e-4)
    assert deviation == pytest.approx(flat.std(0), rel=1e-3)


@pytest.mark.parametrize(("choice", "expected"), [("single", [0, 0]), ("best_iou", [2, 3])])
def test_choice_of_a_prompts_mask(choice, expected):
    # Mask 0 is best, but only `single` may take it; ties go to the lowest.
    predicted_iou = np.array([[0.9, 0.1, 0.8, 0.8], [0.9, 0.1, 0.2, 0.3]], np.float32)
    assert choose_masks(predicted_iou, choice).tolist() == expected


def test_blocks_stand_side_by_side_and_tokens_serve_every_mask():
    columns = {
        "tokens": np.array([[1, 2], [3, 4]], np.float16),
        "features/encoder": np.arange(8, dtype=np.float16).reshape(2, 4, 1),
    }
    rows = assemble(columns, ["tokens", "encoder"], np.arange(2), np.array([0, 3]))
    assert rows.tolist() == [[1, 2, 0], [3, 4, 7]]


@pytest.mark.parametrize("cache_mb", [0, 10])
def test_a_bag_of_picked_masks_shares_its_image_with_the_whole_one(cache_mb):
    rows, _, _ = toy(2)
    picked = np.resize([[3, 0], [1, 2]], (PROMPTS, 2))
    shas = ["000", "001", "000"]
    bags = BagSource(
        rows,
        shas,
        np.array([[1, 0], [0, 1], [0, 1]], np.float32),
        ["encoder"],
        "single",
        cache_mb,
        picked=[None, None, picked],
    )
    ((found, _),) = bags.in_order()
    encoder = rows.columns["000"]["features/encoder"]
    assert np.array_equal(found[0], encoder[:, 0])
    assert np.array_equal(found[2], encoder[picked[:, 0], picked[:, 1]])


def test_a_bag_drawn_twice_is_read_twice_from_the_store():
    rows, labels, _ = toy(3)
    bags = source(rows, labels, cache_mb=0)
    both = bags._bags(np.array([1, 1]))
    assert np.array_equal(both[0], both[1])
    assert both.any()


def test_bags_without_a_name_teach_background_alone():
    rows, labels, _ = toy(30)
    labels[:10] = 0
    targets = np.full((30, PROMPTS), -1)
    targets[:10] = CLASSES
    bags = BagSource(rows, sorted(rows.columns), labels, ["encoder"], targets=targets)
    config = CONFIG.model_copy(update={"background": True, "class_balance": True, "steps": 6})
    heads = train(bags, config, 0)
    assert all(np.isfinite(epoch["loss"]) for epoch in heads.history)
    assert any(epoch["background"] > 0 for epoch in heads.history)


def test_an_unknown_block_is_named_with_those_there_are():
    rows, labels, _ = toy(3)
    with pytest.raises(InputError, match=r"\['clip'\] not in the store.*'tokens', 'encoder'"):
        source(rows, labels, features=["clip"])


def card(classes=3):
    settings = {"hidden": [32, 16, 8], "dropout": 0.5}
    return {"classes": [f"c{i}" for i in range(classes)], "settings": settings}


def test_a_head_comes_back_from_its_file_as_it_went_in(tmp_path):
    head = Head(16, 3, (32, 16, 8), 0.5).eval()
    head.mean.fill_(2)
    files = save_head(tmp_path / "head.safetensors", head, card())
    loaded, read = load_head(tmp_path / "head.safetensors")
    rows = torch.randn(5, 16)
    assert torch.equal(loaded(rows), head(rows))
    assert read["classes"] == ["c0", "c1", "c2"]
    assert all(file.exists() for file in files)


@pytest.mark.parametrize("damage", ["flip", "no card", "other card"])
def test_a_damaged_head_is_refused(tmp_path, damage):
    path = tmp_path / "head.safetensors"
    save_head(path, Head(16, 3, (32, 16, 8), 0.5), card())
    if damage == "flip":
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "no card":
        card_path(path).unlink()
    else:
        card_path(path).write_text("{}")
    with pytest.raises(StoreError, match="fit again"):
        load_head(path)
