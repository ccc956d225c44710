"""Files of somebody else: what is no regular file, too large or elsewhere is refused before it is read."""

import os
import socket

import pytest

from lethe.system.foreign_files import (
    check_inside,
    foreign_text,
    open_foreign,
    read_foreign,
    size_text,
    warn_if_others_write,
)


def pipe(path):
    os.mkfifo(path)


def link_to_zero(path):
    path.symlink_to("/dev/zero")


def link_to_a_pipe(path):
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def listening(path):
    with socket.socket(socket.AF_UNIX) as found:
        found.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (pipe, "a named pipe"),
        (link_to_zero, "a device"),
        (link_to_a_pipe, "a named pipe"),
        (os.mkdir, "a folder"),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(make, kind, tmp_path):
    make(tmp_path / "x")

    with pytest.raises(ValueError, match=f"x: expected a regular file, got {kind}"):
        read_foreign(tmp_path / "x")


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path has at most 108 letters
    listening(tmp_path / "x") if len(str(tmp_path)) < 90 else pytest.fail(
        "expected a shorter folder for temporary files"
    )

    with pytest.raises(ValueError, match="x: expected a file that can be read, got one that can't"):
        read_foreign(tmp_path / "x")


def test_a_file_of_no_content_but_a_terabyte_is_refused_by_its_size(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(10**12)

    with pytest.raises(ValueError, match="x: expected at most 16 MB, got 1 TB"):
        open_foreign(tmp_path / "x")


def test_a_file_that_has_more_than_its_size_says_is_refused(tmp_path):
    (tmp_path / "x").symlink_to("/proc/self/status")  # of size 0

    with pytest.raises(ValueError, match="x: expected at most 3 bytes, got more than 3 bytes"):
        read_foreign(tmp_path / "x", most=3)


def test_a_file_of_just_the_size_is_read(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")

    assert read_foreign(tmp_path / "x", most=3) == b"abc"


@pytest.mark.parametrize("path", ["own/link", "own/../other/secret", "own/folder/secret"])
def test_what_leads_out_of_its_folder_is_refused(path, tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "secret").write_text("secret")
    (tmp_path / "own" / "link").symlink_to("../other/secret")
    (tmp_path / "own" / "folder").symlink_to("../other")

    reason = "inside .*own, got one that leads to .*other/secret. Copy it there; or"
    with pytest.raises(ValueError, match=reason):
        read_foreign(tmp_path / path, inside=tmp_path / "own")


def test_a_person_may_trust_all_links(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "own" / "link").symlink_to("../secret")
    monkeypatch.setenv("LETHE_FOLLOW_LINKS", "1")

    assert foreign_text(tmp_path / "own" / "link", inside=tmp_path / "own") == "secret"


def test_links_within_the_folder_and_to_the_folder_are_followed(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "x").write_text("ä", encoding="utf-8")
    (tmp_path / "own" / "y").symlink_to("x")
    (tmp_path / "link").symlink_to("own")

    assert foreign_text(tmp_path / "link" / "y", inside=tmp_path / "link") == "ä"


def test_a_folder_whose_name_begins_alike_is_another_one(tmp_path):
    with pytest.raises(ValueError, match="got one that leads to"):
        check_inside(tmp_path / "own-too" / "x", tmp_path / "own")


def test_a_file_that_is_not_there(tmp_path):
    reason = "expected a file, and there is no file .*gone. Check the path"
    with pytest.raises(FileNotFoundError, match=reason):
        read_foreign(tmp_path / "gone")


def test_what_is_no_utf8_is_refused_with_the_place(tmp_path):
    (tmp_path / "x").write_bytes(b"ab\xff")

    reason = "x: expected text in UTF-8, got invalid start byte at byte 2. Save it in UTF-8"
    with pytest.raises(ValueError, match=reason):
        foreign_text(tmp_path / "x")


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbfa")

    assert foreign_text(tmp_path / "x") == "a"


@pytest.mark.parametrize(
    ("size", "words"), [(3, "3 bytes"), (1500, "1.5 kB"), (256 * 10**6, "256 MB"), (2 * 10**15, "2000 TB")]
)
def test_sizes_in_words(size, words):
    assert size_text(size) == words


@pytest.mark.parametrize(
    ("mode", "owner", "warns"),
    [(0o666, 1, True), (0o644, 1, False), (0o666, 0, False)],
    ids=["another's, anybody writes", "another's", "own"],
)
def test_code_that_anybody_can_change_is_worth_a_warning(mode, owner, warns, tmp_path, monkeypatch, recwarn):
    (tmp_path / "own.py").write_text("")
    (tmp_path / "own.py").chmod(mode)
    user = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: user + owner)

    warn_if_others_write(tmp_path / "own.py")

    assert [str(warning.message).count("anybody can change it") for warning in recwarn] == [1] * warns
