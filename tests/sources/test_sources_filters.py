"""Which pictures teach: every reason, at its threshold, and what pictures look like."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from usam_core.config.images import ImagesConfig
from usam_core.config.training import FilterConfig
from usam_core.files.digest import file_digest
from usam_core.progress import SILENT
from usam_core.sources.base import TrainingPicture
from usam_core.sources.filters import (
    filter_pictures,
    nearest_bits,
    picture_looks,
    similarity_to_neighbors,
)

NONE = np.empty(0, np.uint64)


def pictures(count):
    return [TrainingPicture("dog", f"/p/{i}.png", f"{i:064d}", 1, "web") for i in range(count)]


def looks(count, **columns):
    base = {
        "sha256": [f"{i:064d}" for i in range(count)],
        "width": 100,
        "height": 100,
        "contrast": 50.0,
        # Far from each other: 16 bits or more.
        "phash": np.array([0xFFFF << (16 * (i % 4)) for i in range(count)], np.uint64),
        "features": [np.eye(8, dtype=np.float32)[0]] * count,
        "code": "",
        "reason": "",
    }
    return pd.DataFrame({**base, **columns})


def verdicts(table, config=None, labelled=NONE):
    kept, rejected = filter_pictures(
        pictures(len(table)), table, config or FilterConfig(), labelled
    )
    assert len(kept) + len(rejected) == len(table)
    return [p.path for p in kept], {line.origin: line.code for line in rejected}


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"width": [64, 63]}, "too_small"),
        ({"width": [400, 401]}, "extreme_aspect"),
        ({"height": [400, 401]}, "extreme_aspect"),
        ({"contrast": [4.0, 3.9]}, "near_uniform"),
        ({"code": ["", "truncated"]}, "truncated"),
        ({"phash": np.array([0, 0b1111], np.uint64)}, "near_duplicate"),
    ],
)
def test_the_second_picture_is_just_over_the_line(columns, code):
    kept, rejected = verdicts(looks(2, **columns))
    assert kept == ["/p/0.png"]
    assert rejected == {"/p/1.png": code}


def test_a_near_duplicate_is_told_which_picture_it_repeats():
    table = looks(3, width=[10, 100, 100], phash=np.zeros(3, np.uint64))
    _, (_, repeated) = filter_pictures(pictures(3), table, FilterConfig(), NONE)
    assert "differs in 0 of 64 hash bits from /p/1.png;" in repeated.reason


def test_five_bits_apart_are_two_pictures():
    kept, _ = verdicts(looks(2, phash=np.array([0, 0b11111], np.uint64)))
    assert len(kept) == 2


def test_a_filter_that_is_null_lets_all_pass():
    config = FilterConfig(
        min_side=None, max_aspect=None, min_contrast=None, duplicate_bits=None, leak_bits=None
    )
    table = looks(3, width=[1, 10_000, 100], contrast=0.0, phash=np.zeros(3, np.uint64))
    kept, rejected = verdicts(table, config, np.zeros(1, np.uint64))
    assert len(kept) == 3
    assert rejected == {}


def test_a_picture_that_is_to_be_labelled_does_not_teach():
    table = looks(3)
    near = np.array([int(table["phash"][1]) ^ 0b11], np.uint64)
    _, rejected = verdicts(table, labelled=near)
    assert rejected == {"/p/1.png": "leak"}


def test_a_dropped_picture_makes_no_other_a_duplicate():
    table = looks(2, width=[10, 100], phash=np.zeros(2, np.uint64))
    kept, rejected = verdicts(table)
    assert kept == ["/p/1.png"]
    assert rejected == {"/p/0.png": "too_small"}


def test_a_picture_like_none_of_the_others_is_an_outlier():
    rng = np.random.default_rng(0)
    features = rng.normal([5, 0, 0, 0], 0.3, (20, 4)).astype(np.float32)
    features[7] = [0, 5, 0, 0]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    table = looks(
        20, features=list(features), phash=np.arange(20, dtype=np.uint64) << np.uint64(40)
    )
    config = FilterConfig(duplicate_bits=None, outlier_deviations=4.0)
    _, rejected = verdicts(table, config)
    assert rejected == {"/p/7.png": "outlier"}
    _, few = verdicts(table[4:13].reset_index(drop=True), config)
    assert few == {}, "nine pictures say too little of what is usual"


def test_similarity_is_the_mean_of_the_five_most_similar_others():
    features = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    expected = [
        np.mean(sorted(float(features[i] @ features[j]) for j in range(9) if j != i)[-5:])
        for i in range(9)
    ]
    assert similarity_to_neighbors(features) == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
def test_nearest_bits_counts_as_strings_of_bits_do(value, others):
    def bits(number):
        return f"{number:064b}"

    expected = min(
        sum(a != b for a, b in zip(bits(value), bits(other), strict=True)) for other in others
    )
    assert nearest_bits(np.uint64(value), np.array(others, np.uint64)) == expected


@pytest.fixture
def photo(tmp_path):
    image = Image.effect_noise((160, 120), 40).convert("RGB")
    draw = ImageDraw.Draw(image)
    draw.ellipse((30, 20, 90, 80), fill="red")
    draw.rectangle((100, 60, 150, 110), fill="blue")
    image.save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def looked_at(tmp_path, *paths, features=False):
    files = {file_digest(path): str(path) for path in paths}
    config = ImagesConfig(path=tmp_path)
    return picture_looks(files, config, tmp_path / "looks.parquet", SILENT, features=features)


def test_another_size_and_compression_look_the_same_and_another_picture_does_not(tmp_path, photo):
    image = Image.open(photo)
    image.resize((320, 240)).save(tmp_path / "large.jpg", quality=70)
    image.convert("L").save(tmp_path / "grey.png")
    image.rotate(90).save(tmp_path / "turned.png")
    table = looked_at(
        tmp_path, photo, tmp_path / "large.jpg", tmp_path / "grey.png", tmp_path / "turned.png"
    )
    distance = np.bitwise_count(table["phash"].to_numpy() ^ table["phash"][0])
    assert distance[1] <= 4
    assert distance[2] <= 4
    assert distance[3] > 10
    assert list(table["width"]) == [160, 320, 160, 160]
    assert table["contrast"][0] == pytest.approx(np.asarray(image.convert("L")).std())


def test_damage_has_its_reason_and_a_second_look_reads_nothing(tmp_path, photo):
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:300])
    first = looked_at(tmp_path, photo, broken)
    assert list(first["code"]) == ["", "truncated"]
    digests = {file_digest(path): str(path) for path in (photo, broken)}
    photo.unlink()
    broken.unlink()
    again = picture_looks(
        digests, ImagesConfig(path=tmp_path), tmp_path / "looks.parquet", SILENT, features=False
    )
    pd.testing.assert_frame_equal(first, again, check_dtype=False)


def test_features_are_made_when_they_are_asked_for_later(tmp_path, photo):
    assert looked_at(tmp_path, photo)["features"][0] is None
    features = looked_at(tmp_path, photo, features=True)["features"][0]
    assert np.linalg.norm(features) == pytest.approx(1, abs=1e-4)
    assert looked_at(tmp_path, photo)["phash"][0] == looked_at(tmp_path, photo)["phash"][0]


def test_a_damaged_memory_is_made_anew(tmp_path, photo):
    first = looked_at(tmp_path, photo)
    (tmp_path / "looks.parquet").write_bytes(b"PAR1 nonsense")
    pd.testing.assert_frame_equal(looked_at(tmp_path, photo), first, check_dtype=False)
