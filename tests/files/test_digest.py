"""Digests against `hashlib`, and that they tell apart what differs."""

import hashlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usam_core.files.digest import (
    _BLOCK,
    file_digest,
    files_digest,
    listed_digest,
    remembered_digest,
    value_digest,
    values_digest,
)

json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_a_files_digest_is_the_sha256_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"some bytes")
    assert file_digest(tmp_path / "a") == hashlib.sha256(b"some bytes").hexdigest()


def test_a_values_digest_is_that_of_its_canonical_json():
    expected = hashlib.sha256(b'{"a":[1,null],"b":"\\u00e9"}').hexdigest()
    assert value_digest({"b": "é", "a": [1, None]}) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes"])
def test_what_json_does_not_know_has_no_digest(value):
    for digest in (value_digest, lambda v: listed_digest([v]), lambda v: values_digest([v])):
        with pytest.raises((TypeError, ValueError)):
            digest(value)


@given(st.lists(json_like, max_size=5))
def test_a_list_one_by_one_has_the_digest_of_the_whole(values):
    assert listed_digest(iter(values)) == value_digest(values)


def test_many_values_are_digested_in_blocks():
    values = list(range(_BLOCK + 1))
    blocks = [values[:_BLOCK], values[_BLOCK:]]
    expected = hashlib.sha256(b"".join(bytes.fromhex(value_digest(b)) for b in blocks))
    assert values_digest(iter(values)) == expected.hexdigest()
    assert values_digest([]) == hashlib.sha256().hexdigest()


def test_a_folders_digest_follows_names_content_and_pattern(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"1")
    (tmp_path / "b.txt").write_bytes(b"2")
    one, two = (hashlib.sha256(content).hexdigest() for content in (b"1", b"2"))
    assert files_digest(tmp_path) == value_digest([["b.txt", two], ["in/a.png", one]])
    assert files_digest(tmp_path, "*.png") == value_digest([["in/a.png", one]])
    assert files_digest(tmp_path / "b.txt") == two


def test_a_linked_folder_counts_as_what_it_holds_and_a_link_upwards_as_nothing(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "a.png").write_bytes(b"1")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "else")
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path / "in")
    one = hashlib.sha256(b"1").hexdigest()
    assert files_digest(tmp_path / "in") == value_digest([["link/a.png", one]])


def test_a_remembered_digest_is_read_anew_when_size_or_time_changed(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    assert remembered_digest(file) == file_digest(file)
    stamp = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert remembered_digest(file) == hashlib.sha256(b"one").hexdigest(), "not read again"
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert remembered_digest(file) == hashlib.sha256(b"two").hexdigest()
    file.write_bytes(b"three")
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    assert remembered_digest(file) == hashlib.sha256(b"three").hexdigest()
