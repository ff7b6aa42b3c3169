"""Images in S3, against moto's server on 127.0.0.1: keys, marks of content, and their absence."""

import io

import numpy as np
import pytest
import zarr
from PIL import Image

from usam_core.config.images import ImagesConfig
from usam_core.errors import InputError, TransientError
from usam_core.files import fsspec_io as opener
from usam_core.images.listing import row as listing_row
from usam_core.images.listing.scan import list_images, list_names
from usam_core.images.read import UnusableImage, read_image

s3fs = pytest.importorskip("s3fs", reason="needs the extra s3")
moto = pytest.importorskip("moto.server", reason="needs moto's server, of the extra test")


def png(color: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def server(monkeypatch):
    """Return moto's server, with keys in the environment as a person has them."""
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(opener, "_WAITS", (0.0,))
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(server):
    """Return a bucket's file system, with two images in it."""
    system = s3fs.S3FileSystem()
    system.makedirs("lab", exist_ok=True)
    system.pipe_file("lab/plates/a.png", png("red"))
    system.pipe_file("lab/plates/w 1/b.tif.png", png("blue"))
    system.pipe_file("lab/plates/notes.txt", b"x")
    return system


def test_a_bucket_is_listed_once_and_read_from_there(bucket, tmp_path, monkeypatch):
    url, cache = "s3://lab/plates", tmp_path / "cache.parquet"
    first = list_images(ImagesConfig(path=url), url, cache)
    assert first["path"].tolist() == ["a.png", "w 1/b.tif.png"]
    assert first["status"].tolist() == ["ok", "ok"]
    reads = []
    read = listing_row.open_bytes
    monkeypatch.setattr(listing_row, "open_bytes", lambda at: reads.append(at) or read(at))
    assert list_images(ImagesConfig(path=url), url, cache).equals(first)
    assert reads == []
    # The store's own mark tells of a change, be it in the same second.
    bucket.pipe_file("lab/plates/a.png", png("green"))
    again = list_images(ImagesConfig(path=url), url, cache)
    assert reads == ["s3://lab/plates/a.png"]
    sha256 = again.loc[0, "sha256"]
    assert read_image(f"{url}/a.png", sha256=sha256).rgb[0, 0].tolist() == [0, 128, 0]


def test_zarr_in_a_bucket(bucket, tmp_path):
    values = np.arange(2 * 20 * 30, dtype=np.uint16).reshape(2, 20, 30)
    stack = {"chunks": (1, 16, 16), "dimension_names": ["i", "y", "x"]}
    zarr.create_array(tmp_path / "stack.zarr", data=values, **stack)
    zarr.create_array(tmp_path / "slide.zarr", data=values[0], chunks=(8, 8), shards=(16, 16))
    for name in ("stack", "slide"):
        bucket.put(str(tmp_path / f"{name}.zarr"), f"lab/zarr/{name}.zarr", recursive=True)
    url = "s3://lab/zarr"
    found = list_images(ImagesConfig(path=url), url)
    on_disk = list_images(ImagesConfig(path=str(tmp_path)), tmp_path)
    assert found["path"].tolist() == ["slide.zarr", "stack.zarr#i=0", "stack.zarr#i=1"]
    assert found["sha256"].tolist() == on_disk["sha256"].tolist()
    rgb = read_image(f"{url}/slide.zarr", window=(0, 599)).rgb
    np.testing.assert_allclose(rgb[..., 0], values[0] / 599 * 255, atol=1)


def test_what_is_not_there(bucket):
    with pytest.raises(UnusableImage) as error:
        read_image("s3://lab/plates/gone.png")
    assert error.value.quarantined.code == "missing"
    for url in ("s3://lab/nothing", "s3://nobucket/x"):
        with pytest.raises(InputError, match="nothing at this address"):
            list_images(ImagesConfig(path=url), url)


def test_keys_that_are_missing(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID"):
        list_images(ImagesConfig(path="s3://lab/plates"), "s3://lab/plates")
    with pytest.raises(InputError, match="AWS_ACCESS_KEY_ID"):
        list_names(ImagesConfig(path="s3://lab/plates"), "s3://lab/plates", ["a.zarr"])


def test_a_server_that_is_gone(bucket, server, monkeypatch):
    server.stop()
    with pytest.raises(TransientError, match="try again"):
        read_image("s3://lab/plates/a.png")
