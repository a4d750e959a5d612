from __future__ import annotations

import fcntl
import hashlib
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.client import (
    ApiError,
    ContentMismatch,
    LocalFileError,
    TargetExists,
    Watcher,
    download_file,
    download_to,
    plain_name,
)

if TYPE_CHECKING:
    from tests.client.fake_server import FakeServer
    from upwell.client import Calls

CONTENT = os.urandom(1_000_003)


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_003])
@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
def test_any_size_and_digest(
    size: int, algorithm: str, client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    content = CONTENT[:size]
    file = server.add(content, "a.bin", hash=hashlib.new(algorithm, content).hexdigest())
    got = download_file(client, file.id, tmp_path)
    assert got.path == tmp_path / "a.bin"
    assert got.path.read_bytes() == content
    assert got.verified
    assert list(tmp_path.iterdir()) == [got.path]


def test_without_a_digest_the_size_still_counts(
    client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(b"12345", hash="")
    assert not download_file(client, file.id, tmp_path / "x").verified


def test_an_explicit_target_is_taken_as_it_is(
    client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(b"12345")
    assert download_file(client, file.id, tmp_path / ".hidden").path == tmp_path / ".hidden"


@pytest.mark.parametrize("after", [0, 1, 400_000, 1_000_002])
def test_a_download_that_breaks_goes_on(
    after: int, client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(CONTENT)
    server.fail(rf"GET /{file.id}$", "cut", after=after, times=2)
    got = download_file(client, file.id, tmp_path)
    assert got.path.read_bytes() == CONTENT


def test_a_later_run_continues(client: Calls, server: FakeServer, tmp_path: Path) -> None:
    file = server.add(CONTENT, "a")
    (tmp_path / "a.part").write_bytes(CONTENT[:700_000])
    download_file(client, file.id, tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.headers[-1]["Range"] == "bytes=700000-"


@pytest.mark.parametrize(
    "part", [b"other" * 1000, CONTENT + b"more", CONTENT[:-1] + b"\0", CONTENT], ids=len
)
def test_a_part_of_another_file_is_dropped(
    part: bytes, client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(CONTENT, "a")
    (tmp_path / "a.part").write_bytes(part)
    download_file(client, file.id, tmp_path)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert not (tmp_path / "a.part").exists()


def test_a_corrupted_download_never_gets_the_name(
    client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(CONTENT)
    server.fail(rf"GET /{file.id}$", "corrupt")
    with pytest.raises(ContentMismatch):
        download_file(client, file.id, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [-1, 1])
def test_another_size_than_told_is_refused(
    change: int, client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(CONTENT, size=len(CONTENT) + change)
    with pytest.raises((ContentMismatch, ApiError)):
        download_file(client, file.id, tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_nothing_is_overwritten(client: Calls, server: FakeServer, tmp_path: Path) -> None:
    file = server.add(CONTENT, "a")
    (tmp_path / "a").write_bytes(b"mine")
    with pytest.raises(TargetExists, match="--force"):
        download_file(client, file.id, tmp_path)
    assert (tmp_path / "a").read_bytes() == b"mine"
    download_file(client, file.id, tmp_path, force=True)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_file_that_appears_meanwhile_is_not_overwritten(
    client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(CONTENT, "a")

    class Appear(Watcher):
        def advance(self, count: int) -> None:
            (tmp_path / "a").write_bytes(b"mine")

    with pytest.raises(TargetExists):
        download_file(client, file.id, tmp_path, watcher=Appear())
    assert (tmp_path / "a").read_bytes() == b"mine"


def test_a_dangling_link_is_not_written_through(
    client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(CONTENT, "a")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TargetExists):
        download_file(client, file.id, tmp_path)
    (tmp_path / "b.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalFileError):
        download_file(client, file.id, tmp_path / "b")
    assert not (tmp_path / "elsewhere").exists()


def test_two_downloads_do_not_mix(client: Calls, server: FakeServer, tmp_path: Path) -> None:
    file = server.add(CONTENT, "a")
    with (tmp_path / "a.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(LocalFileError, match="Another download"):
            download_file(client, file.id, tmp_path)
    download_file(client, file.id, tmp_path)


def test_a_folder_that_is_absent_is_told(client: Calls, server: FakeServer, tmp_path: Path) -> None:
    file = server.add(CONTENT)
    with pytest.raises(LocalFileError, match="absent"):
        download_file(client, file.id, tmp_path / "absent" / "a")


@pytest.mark.parametrize("identifier", ["../me", "a/b", "", "..", "%2e%2e", "a?b", "ü"])
def test_an_identifier_cannot_reach_another_resource(
    identifier: str, client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match="identifier"):
        download_file(client, identifier, tmp_path)
    assert not server.requests


def test_a_stream_goes_on_too(client: Calls, server: FakeServer) -> None:
    file = server.add(CONTENT)
    server.fail(rf"GET /{file.id}$", "cut", after=400_000)
    stream = io.BytesIO()
    assert download_to(client, file.id, stream).verified
    assert stream.getvalue() == CONTENT
    assert server.headers[-1]["If-Range"] == f'"{file.hash}"'


def test_a_stream_cannot_start_again(client: Calls, server: FakeServer) -> None:
    file = server.add(CONTENT)
    server.fail(rf"GET /{file.id}$", "cut", after=400_000)

    class Change(Watcher):
        def advance(self, count: int) -> None:
            file.hash = "0" * 64

    with pytest.raises(ContentMismatch):
        download_to(client, file.id, io.BytesIO(), watcher=Change())


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "passwd"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("folder/", "id7"),
        ("..", "id7"),
        (".", "id7"),
        (".env", ".env"),
        ("a/.env", ".env"),
        (". . ", "id7"),
        ("👩\u200d💻.txt", "👩\u200d💻.txt"),
        (
            "\U0001fae8\U0001faea \u0645\u200c\u06cc.txt",
            "\U0001fae8\U0001faea \u0645\u200c\u06cc.txt",
        ),
        ("🏴\U000e0067\U000e0062\U000e007f", "🏴\U000e0067\U000e0062\U000e007f"),
        ("", "id7"),
        ("a\0b\x1b[31m\nc", "ab[31mc"),
        ("gpj.\u202eexe.txt", "gpj.exe.txt"),
        ("\ud800x", "x"),
        ("x" * 300 + ".tar", "x" * 251 + ".tar"),
        ("ü" * 200, "ü" * 127),
    ],
)
def test_hostile_names(name: str, plain: str) -> None:
    assert plain_name(name, "id7") == plain


@given(st.text(st.characters(), max_size=400), st.text(st.characters(), max_size=400))
def test_a_plain_name_is_one_in_its_folder(name: str, fallback: str) -> None:
    plain = plain_name(name, fallback)
    assert plain
    assert Path(plain).name == plain
    assert plain.strip(". "), "something is left"
    assert not set(plain) & set("\0\x1b\r\n\x85\u2028\u202e\u2066\u200b\ufeff")
    assert len(plain.encode()) <= 255
    assert plain_name(plain, fallback) == plain


def test_a_name_of_full_length_can_be_downloaded(
    client: Calls, server: FakeServer, tmp_path: Path
) -> None:
    file = server.add(CONTENT, "ü" * 400 + ".bin")
    got = download_file(client, file.id, tmp_path)
    assert got.path.read_bytes() == CONTENT
