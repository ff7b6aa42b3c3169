"""The secret of a local server is nobody's but its owner's."""

import os
import stat
import subprocess
import tempfile
from pathlib import Path

import httpx
import pytest

from flows import local_server
from usam_core.errors import UserError

PAGE = "http://127.0.0.1:4200"
NOBODY = 65534


def test_each_start_makes_another_secret_and_a_file_that_posts_it(tmp_path):
    made = [local_server.make_secret(tmp_path, PAGE) for _ in range(2)]
    assert made[0] != made[1]
    assert local_server.read_secret(tmp_path) == made[1]
    assert all(len(one) > 40 for one in made)
    form = local_server.opener(tmp_path).read_text()
    assert f'action="{PAGE}/usam/open"' in form
    assert made[1] in form
    assert made[0] not in form
    local_server.forget_secret(tmp_path)
    assert local_server.read_secret(tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_the_files_are_new_ones_of_their_owner_alone(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("")
    home = tmp_path / "home"
    home.mkdir()
    (home / "auth").symlink_to(elsewhere)
    (home / "open.html").write_text("")
    (home / "open.html").chmod(0o666)
    before = os.umask(0)
    try:
        local_server.make_secret(home, PAGE)
    finally:
        os.umask(before)
    assert elsewhere.read_text() == ""
    for file in home.iterdir():
        assert stat.S_IMODE(file.lstat().st_mode) == 0o600


def test_an_open_folder_is_closed(tmp_path):
    folder = tmp_path / "cache" / "server"
    local_server.private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    local_server.private_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_of_ones_own_is_followed(tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "server").symlink_to(tmp_path / "big")
    local_server.private_folder(tmp_path / "server")
    assert stat.S_IMODE((tmp_path / "big").stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["folder", "file", "dangling"])
def test_what_is_not_a_folder_of_ours_is_refused(tmp_path, monkeypatch, kind):
    folder = tmp_path / "server"
    if kind == "folder":
        folder.mkdir(mode=0o755)
        mine = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
    elif kind == "file":
        folder.write_text("")
    else:
        folder.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"server: expected a folder of this user.*USAM_CACHE"):
        local_server.private_folder(folder)


def test_a_link_of_another_user_is_refused_although_it_leads_to_us(tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs root, to give a link to another user")
    (tmp_path / "mine").mkdir()
    (tmp_path / "server").symlink_to(tmp_path / "mine")
    os.chown(tmp_path / "server", NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(UserError, match="this user's own"):
        local_server.private_folder(tmp_path / "server")


def test_another_user_cannot_read_it():
    if os.getuid() != 0:
        pytest.skip("needs root, to be another user for a moment")
    with tempfile.TemporaryDirectory() as top:
        Path(top).chmod(0o755)
        (Path(top) / "open").write_text("open")
        home = Path(top) / "server"
        local_server.private_folder(home)
        local_server.make_secret(home, PAGE)

        def read(file):
            return subprocess.run(["cat", file], user=NOBODY, capture_output=True, text=True)

        assert read(Path(top) / "open").stdout == "open"
        for name in ("auth", "open.html"):
            assert read(home / name).stdout == ""
            assert "Permission denied" in read(home / name).stderr
        home.chmod(0o755)  # the files are closed by themselves
        assert read(home / "auth").stdout == ""


def test_a_request_is_signed_with_the_secret_of_the_moment(tmp_path):
    for _ in range(2):
        user, password = local_server.make_secret(tmp_path, PAGE).split(":")
        request = local_server.signed(httpx.Request("GET", PAGE), tmp_path)
        expected = next(httpx.BasicAuth(user, password).auth_flow(httpx.Request("GET", PAGE)))
        assert request.headers["Authorization"] == expected.headers["Authorization"]
