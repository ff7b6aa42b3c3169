"""Every way in which a file cannot be used has its code, and none stops a run."""

import errno
import hashlib
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.errors import UserError
from usam_core.images.listing.row import look_at
from usam_core.images.read import PATH_CODES, REASONS, UnusableImage, check_image, read_image

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
FRAMES = [Image.new("RGB", (8, 8), color) for color in ("red", "green", "blue")]


def code_of(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(UnusableImage) as caught:
        call(*arguments, **options)
    assert str(arguments[0]) in caught.value.quarantined.reason
    return caught.value.quarantined.code


def png_header(path: Path, width: int, height: int) -> Path:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (body, data, b"IEND")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_every_code_is_described_and_the_error_is_the_users():
    assert REASONS.keys() >= PATH_CODES
    assert issubclass(UnusableImage, UserError)


@pytest.mark.parametrize("look", [read_image, check_image])
def test_missing(tmp_path, look):
    assert code_of(look, tmp_path / "no.png") == "missing"


@pytest.mark.parametrize("look", [read_image, check_image])
def test_zero_bytes(tmp_path, look):
    path = tmp_path / "x.png"
    path.touch()
    assert code_of(look, path) == "empty"


@pytest.mark.parametrize("look", [read_image, check_image])
@pytest.mark.parametrize(
    "content", [b"x", b"hello, I am a text file\n" * 9, b"%PDF-1.4\n", b"\0" * 99]
)
def test_not_an_image(tmp_path, look, content):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    assert code_of(look, path) == "not_an_image"


def test_formats_that_run_programs_are_not_read(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n")
    assert code_of(read_image, path) == "not_an_image"


def test_a_wrong_ending_does_not_matter(tmp_path):
    path = tmp_path / "x.jpg"
    Image.new("RGB", (2, 2), "red").save(path, format="PNG")
    assert read_image(path).rgb.tolist() == [[[255, 0, 0]] * 2] * 2


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tiff", "x.bmp", "x.webp", "x.gif"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_truncated(tmp_path, name, share):
    path = tmp_path / name
    NOISE.save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert code_of(read_image, path) == "truncated"


def test_a_flipped_byte_in_a_png_is_noticed(tmp_path):
    path = tmp_path / "x.png"
    NOISE.save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert code_of(read_image, path) == "truncated"


@pytest.mark.parametrize("look", [read_image, check_image])
def test_a_bomb_is_refused_from_its_header(tmp_path, look, monkeypatch):
    def no_decoding(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_decoding)
    path = png_header(tmp_path / "bomb.png", 50_000, 40_000)
    assert code_of(look, path) == "too_large"
    with pytest.raises(UnusableImage, match=r"50000 x 40000 pixels are 2000\.0 megapixels"):
        look(path)


def test_the_projects_limit_counts_not_pillows(tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    path = tmp_path / "x.png"
    NOISE.save(path)
    assert read_image(path).rgb.shape == (64, 64, 3)
    assert code_of(read_image, path, max_megapixels=0.004) == "too_large"
    assert read_image(path, max_megapixels=0.004096).rgb.shape == (64, 64, 3)


def test_out_of_memory_is_a_verdict_on_the_image(tmp_path, monkeypatch):
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", exhausted)
    path = png_header(tmp_path / "x.png", 4000, 4000)
    assert code_of(read_image, path) == "too_large"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (struct.error("broken"), "truncated"),
        (SyntaxError("broken"), "truncated"),
        (zlib.error("broken"), "truncated"),
        (OSError("image file is truncated"), "truncated"),
        (OSError(errno.EINVAL, "Invalid argument"), "truncated"),
        (OSError(errno.EIO, "Input/output error"), "unreadable"),
        (RuntimeError("error during blosc decompression: -1"), "truncated"),
        (ValueError("Stored and computed checksum do not match"), "truncated"),
        (imagecodecs.PngError("png_decode", "bad"), "truncated"),
        (ValueError("invalid literal"), "undecodable"),
        (IndexError("list index out of range"), "undecodable"),
        (TypeError("'>' not supported between instances of 'str' and 'int'"), "undecodable"),
        (NotImplementedError("unsupported depth"), "unsupported"),
    ],
    ids=repr,
)
def test_whatever_a_decoder_raises_is_a_verdict(tmp_path, monkeypatch, error, code):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    path = png_header(tmp_path / "x.png", 9, 9)
    assert code_of(read_image, path) == code
    if code == "undecodable":
        with pytest.raises(UnusableImage, match=f"failed with {type(error).__name__}: "):
            read_image(path)


@pytest.mark.parametrize("look", [read_image, check_image])
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("x.gif", "animated"),
        ("x.png", "animated"),
        ("x.webp", "animated"),
        ("x.tiff", "multi_page"),
    ],
)
def test_several_pictures_in_one_file(tmp_path, look, name, code):
    path = tmp_path / name
    FRAMES[0].save(path, save_all=True, append_images=FRAMES[1:], duration=50)
    assert code_of(look, path) == code


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.tiff"])
def test_one_picture_in_a_file_that_could_hold_several(tmp_path, name):
    path = tmp_path / name
    FRAMES[0].save(path, save_all=True)
    assert read_image(path).rgb.shape == (8, 8, 3)


def test_a_preview_page_beside_the_full_one_is_no_second_page(tmp_path):
    path = tmp_path / "x.tiff"
    small = Image.new("RGB", (2, 2), "blue")
    small.encoderinfo = {"tiffinfo": {254: 1}}
    FRAMES[0].save(path, save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_image(path).rgb, np.full((8, 8, 3), (255, 0, 0)))


def test_a_cameras_jpeg_with_a_preview_is_its_first_picture(tmp_path):
    path = tmp_path / "x.jpg"
    first = Image.new("RGB", (16, 16), "white")
    first.save(path, format="MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])
    np.testing.assert_array_equal(read_image(path).rgb, np.full((16, 16, 3), 255))


def test_a_color_mode_that_cannot_be_shown(tmp_path):
    path = tmp_path / "x.tiff"
    Image.new("LAB", (4, 4)).save(path)
    assert code_of(read_image, path) == "unsupported"


def test_a_depth_that_is_not_read(tmp_path):
    path = tmp_path / "x.tiff"
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(path)
    content = path.read_bytes()
    # BitsPerSample (tag 258, SHORT, count 1): 16 becomes 48, which nothing decodes.
    tag = struct.pack("<HHI", 258, 3, 1)
    assert content.count(tag) == 1
    path.write_bytes(content.replace(tag + b"\x10", tag + b"\x30"))
    assert code_of(read_image, path) == "unsupported"


@pytest.mark.skipif(os.geteuid() == 0, reason="needs a user whom permissions stop: this is root")
def test_no_permission(tmp_path):
    path = tmp_path / "x.png"
    NOISE.save(path)
    path.chmod(0)
    assert code_of(read_image, path) == "unreadable"


def test_what_the_system_refuses_is_unreadable(tmp_path, monkeypatch):
    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "x.png"
    NOISE.save(path)
    monkeypatch.setattr("builtins.open", refuse)
    assert code_of(read_image, path) == "unreadable"


@pytest.mark.parametrize("look", [read_image, check_image])
def test_folders_and_pipes_are_unreadable(tmp_path, look):
    folder, pipe = tmp_path / "folder.png", tmp_path / "pipe.png"
    folder.mkdir()
    os.mkfifo(pipe)
    assert code_of(look, folder) == "unreadable"
    assert code_of(look, pipe) == "unreadable"


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "webp"])
def test_a_picture_is_opened_once_to_be_listed_and_once_to_be_read(tmp_path, ending, monkeypatch):
    path = tmp_path / f"x.{ending}"
    NOISE.save(path)
    opened, plain_open = [], open

    def counting(file, *args, **kwargs):
        opened.append(os.fspath(file))
        return plain_open(file, *args, **kwargs)

    monkeypatch.setattr("builtins.open", counting)
    row, _ = look_at(path.name, str(path), None, None, ImagesConfig(path="images"))
    assert (row.status, row.sha256) == ("ok", hashlib.sha256(path.read_bytes()).hexdigest())
    assert opened.count(str(path)) == 1
    read_image(path)
    assert opened.count(str(path)) == 2


def test_a_file_that_changed_since_it_was_listed(tmp_path):
    path = tmp_path / "x.png"
    NOISE.save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_image(path, sha256=digest).rgb.shape == (64, 64, 3)
    FRAMES[0].save(path)
    assert code_of(read_image, path, sha256=digest) == "changed"


def encoded(kind: str) -> bytes:
    buffer = BytesIO()
    NOISE.resize((16, 16)).save(buffer, format=kind)
    return buffer.getvalue()


WHOLE = {kind: encoded(kind) for kind in ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(WHOLE)),
    damage=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1),
)
def test_any_damage_gives_pixels_or_a_known_verdict(tmp_path_factory, kind, damage, cut):
    content = bytearray(WHOLE[kind])
    for place, value in damage:
        content[place % len(content)] = value
    path = tmp_path_factory.mktemp("damaged") / "x"
    path.write_bytes(content[: max(1, int(cut * len(content)))])
    try:
        rgb = read_image(path, max_megapixels=4).rgb
    except UnusableImage as error:
        verdict = error.quarantined.code
    else:
        verdict = "pixels" if rgb.dtype == np.uint8 and rgb.ndim == 3 else "rubbish"
    assert verdict in (*REASONS, "pixels")


def test_a_jpeg_of_a_thousand_scans_is_refused_before_it_is_decoded(tmp_path):
    path = tmp_path / "slow.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path, progressive=True)
    content = path.read_bytes()
    assert 1 < content.count(b"\xff\xda") < 20
    last = content.rindex(b"\xff\xda")
    scan = content[last:-2]
    path.write_bytes(content[:-2] + 1000 * scan + content[-2:])
    with pytest.raises(UnusableImage) as caught:
        read_image(path)
    assert caught.value.quarantined.code == "too_many_scans"
