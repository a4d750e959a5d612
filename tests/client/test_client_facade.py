"""``upwell.Client``: anything that holds bytes goes in, from a token it goes on, and comes out."""

from __future__ import annotations

import io
import mmap
import os
import subprocess
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.fake_server import TOKEN, FakeServer
from upwell import Client
from upwell.client import (
    ApiError,
    Backoff,
    Calls,
    FileChanged,
    Interrupted,
    LocalFileError,
    Progress,
    Retry,
    SettingsError,
    Stop,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 1000
QUICK = Retry(5.0, backoff=Backoff(first=0.01, longest=0.05))


@pytest.fixture
def up(server: FakeServer) -> Iterator[Client]:
    with Client(server.url, TOKEN, retry=QUICK) as client:
        yield client


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives little at a time."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._content.read(min(len(buffer), 700))
        buffer[: len(data)] = data
        return len(data)


class OnlyRead:
    """What many libraries hand out: an object with a ``read`` and nothing else."""

    def __init__(self, content: bytes) -> None:
        self.read = io.BytesIO(content).read


def mapped(content: bytes) -> mmap.mmap:
    """A mapping that stands behind its first byte."""
    area = mmap.mmap(-1, len(content) + 1)
    area.write(b"x" + content)
    area.seek(1)
    return area


def pieces(content: bytes, size: int = 333) -> Iterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]
        yield b""


WAYS: dict[str, Any] = {
    "bytes": lambda content: (content, None),
    "file object": lambda content: (io.BytesIO(content), None),
    "pipe": lambda content: (Pipe(content), None),
    "pipe of a known size": lambda content: (Pipe(content), len(content)),
    "iterator": lambda content: (pieces(content), None),
    "iterator of a known size": lambda content: (pieces(content), len(content)),
    "list": lambda content: ([content], None),
    "only read": lambda content: (OnlyRead(content), None),
    "mmap": lambda content: (mapped(content), None),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [0, 1, CHUNK, 7 * CHUNK + 3])
def test_whatever_holds_bytes_is_uploaded(
    up: Client, server: FakeServer, way: str, size: int
) -> None:
    content = os.urandom(size)
    told, length = WAYS[way](content)
    file = up.upload(told, name="x.txt", size=length, chunk_size=CHUNK)
    assert (file.name, file.size, file.mime_type) == ("x.txt", size, "text/plain")
    assert server.files[file.id].content == content


@pytest.mark.parametrize("path", ["/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"])
def test_a_file_that_does_not_tell_its_size_is_read(
    up: Client, server: FakeServer, path: str
) -> None:
    if not os.access(path, os.R_OK):
        pytest.skip(f"this kernel has no {path}")
    for check_first in (False, True):
        up.upload(path, check_first=check_first, chunk_size=7)
    with open(path, "rb") as file:  # noqa: PTH123 - as callers do
        up.upload(file)
    content = Path(path).read_bytes()
    assert content
    assert {each.content for each in server.files.values()} == {content}


class NotYet(io.RawIOBase):
    """A stream that does not wait: its second part is not there yet."""

    def __init__(self, *, seekable: bool = False) -> None:
        self._parts: list[bytes | None] = [b"first", None, b"second"]
        self._seekable = seekable

    def seekable(self) -> bool:
        return self._seekable

    def seek(self, offset: int, whence: int = 0) -> int:
        return 11 if whence else offset

    def tell(self) -> int:
        return 11 if self._parts else 0

    def read(self, size: int = -1) -> Any:
        del size
        return self._parts.pop(0) if self._parts else b""


@pytest.mark.parametrize("size", [None, 11])
@pytest.mark.parametrize("seekable", [False, True])
def test_a_stream_that_does_not_wait_is_never_cut_short(
    up: Client, server: FakeServer, size: int | None, seekable: bool
) -> None:
    with pytest.raises(LocalFileError, match="does not wait"):
        up.upload(NotYet(seekable=seekable), name="n", size=size)
    assert not server.files


@pytest.mark.slow
@given(
    lengths=st.lists(st.integers(0, 2500), max_size=8),
    chunk=st.integers(1, 3000),
    known=st.booleans(),
)
def test_pieces_need_not_fit_chunks(lengths: list[int], chunk: int, known: bool) -> None:
    content = os.urandom(sum(lengths))
    ends = [sum(lengths[:at]) for at in range(len(lengths) + 1)]
    parts = [content[a:b] for a, b in pairwise(ends)]
    chunk = max(chunk, len(content) // 20 + 1)
    with FakeServer() as server, Client(server.url, TOKEN) as client:
        size = len(content) if known else None
        file = client.upload(iter(parts), size=size, chunk_size=chunk)
        assert server.files[file.id].content == content


def test_a_path_and_an_open_file(up: Client, server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456789")
    assert up.upload(path).name == "a.txt"
    path.write_bytes(b"0123456789!")
    assert up.upload(str(path), name="b").name == "b"
    with path.open("rb") as file:
        file.seek(4)  # the rest alone is another content
        stored = up.upload(file)
        assert (stored.name, server.files[stored.id].content) == ("a.txt", b"456789!")
        assert not file.closed


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK + 1, 4 * CHUNK])
def test_an_iterator_that_is_not_of_its_size(up: Client, server: FakeServer, size: int) -> None:
    with pytest.raises(FileChanged):
        up.upload(pieces(b"x" * 2 * CHUNK), size=size, chunk_size=CHUNK, name="x")
    assert not server.files
    assert all(task.status == "cancelled" for task in server.tasks.values())


def test_what_was_read_once_cannot_be_sent_again(up: Client, server: FakeServer) -> None:
    server.fail("/chunk/", "flip")
    server.fail("/complete/", "answer", status=400, body={"code": "HASH_MISMATCH"})
    with pytest.raises(LocalFileError, match="only"):
        up.upload(pieces(b"x" * 5 * CHUNK), size=5 * CHUNK, chunk_size=CHUNK)


def test_what_is_no_content_is_a_mistake(up: Client) -> None:
    with pytest.raises(TypeError, match="no path"):
        up.upload(7)  # type: ignore[arg-type]


def test_progress_ends_at_its_total(up: Client, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(5 * CHUNK))
    told: list[Progress] = []
    file = up.upload(path, chunk_size=CHUNK, progress=told.append)
    assert (told[0].done, told[-1].done) == (0, 5 * CHUNK)
    assert {each.total for each in told} == {5 * CHUNK}
    received: list[Progress] = []
    up.download(file.id, tmp_path / "b", progress=received.append)
    assert received[-1] == Progress(5 * CHUNK, 5 * CHUNK)


def test_a_stream_gets_the_content(up: Client) -> None:
    file, stream = up.upload(b"x" * 3000), io.BytesIO()
    assert up.download_to(file.id, stream).verified
    assert stream.getvalue() == b"x" * 3000


# from a token


def interrupted(up: Client, server: FakeServer, content: Any, **more: Any) -> str:
    """The token of an upload of which half is there."""
    tokens: list[str] = []
    server.fail(r"/chunk/\w+/5", "answer", status=400, body={"code": "BROKEN"})
    with pytest.raises(ApiError, match="As told"):
        up.upload(content, chunk_size=CHUNK, on_token=tokens.append, **more)
    (token,) = tokens
    return token


def test_an_upload_goes_on_from_a_token_in_another_process(
    up: Client, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(10 * CHUNK))
    token = interrupted(up, server, path)
    (task,) = server.tasks.values()
    there = set(task.chunks)
    assert there
    code = (
        "import sys; from upwell import Client\n"
        "url, secret, path, token = sys.argv[1:]\n"
        "with Client(url, secret) as client: print(client.upload(path, token=token).id)"
    )
    command = [sys.executable, "-c", code, server.url, TOKEN, str(path), token]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert server.files[done.stdout.strip()].content == path.read_bytes()
    assert all(server.chunk_counts[index] == 1 for index in there)
    assert len(server.tasks) == 1


def test_a_token_holds_no_secret(up: Client, server: FakeServer) -> None:
    content = os.urandom(10 * CHUNK)
    token = interrupted(up, server, content, password="diceware")
    assert token.isascii()
    from base64 import urlsafe_b64decode  # noqa: PLC0415 - to look inside

    inside = urlsafe_b64decode(token + "==")
    assert TOKEN.encode() not in inside
    assert b"diceware" not in inside


@pytest.mark.parametrize("way", ["bytes", "iterator of a known size", "pipe"])
def test_streams_go_on_from_a_token_too(up: Client, server: FakeServer, way: str) -> None:
    content = os.urandom(10 * CHUNK)
    token = interrupted(up, server, content, name="x")
    (task,) = server.tasks.values()
    there = set(task.chunks)
    told, size = WAYS[way](content)
    file = up.upload(told, name="x", size=size, chunk_size=CHUNK, token=token)
    assert server.files[file.id].content == content
    assert all(server.chunk_counts[index] == 1 for index in there)


def test_a_token_of_a_file_that_changed_begins_anew(
    up: Client, server: FakeServer, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(os.urandom(10 * CHUNK))
    token = interrupted(up, server, path)
    path.write_bytes(content := os.urandom(10 * CHUNK))
    tokens: list[str] = []
    file = up.upload(path, chunk_size=CHUNK, token=token, on_token=tokens.append)
    assert server.files[file.id].content == content
    assert tokens
    assert tokens != [token]


def test_an_upload_from_a_token_has_the_options_asked_last(up: Client, server: FakeServer) -> None:
    content = os.urandom(10 * CHUNK)
    token = interrupted(up, server, content, name="a", bundle_id="b", expires_in=timedelta(1))
    with pytest.raises(ApiError, match="pool_id cannot change"):
        up.upload(content, name="a", pool_id="p", chunk_size=CHUNK, token=token)
    up.upload(content, name="c", content_type="x/y", chunk_size=CHUNK, token=token)
    (task,) = server.tasks.values()
    size = {"file_size": 10 * CHUNK, "chunk_size": CHUNK}
    assert task.request == {"file_name": "c", "content_type": "x/y"} | size


def test_a_token_of_an_upload_that_is_gone_begins_anew(up: Client, server: FakeServer) -> None:
    content = os.urandom(10 * CHUNK)
    token = interrupted(up, server, content)
    server.tasks.clear()
    tokens: list[str] = []
    file = up.upload(content, chunk_size=CHUNK, token=token, on_token=tokens.append)
    assert server.files[file.id].content == content
    assert len(tokens) == 1


@pytest.mark.parametrize("over", [True, False], ids=["verified", "interrupted"])
def test_a_token_does_not_say_under_which_password(
    up: Client, server: FakeServer, *, over: bool
) -> None:
    content = os.urandom(10 * CHUNK)
    token = interrupted(up, server, content, password="first")
    if over:
        up.upload(content, chunk_size=CHUNK, token=token, password="first")
    file = up.upload(content, chunk_size=CHUNK, token=token, password="second")
    assert server.files[file.id].password == "second"
    assert server.files[file.id].content == content


@given(st.text(max_size=60))
def test_nonsense_is_no_token(token: str) -> None:
    with FakeServer() as server, Client(server.url, TOKEN) as client:
        with pytest.raises(SettingsError, match="no token"):
            client.upload(b"x", token=token)
        assert not server.tasks


def test_a_transfer_ends_when_it_is_told_to(up: Client, server: FakeServer) -> None:
    stop = Stop()
    server.on_chunk = lambda _: stop.set()
    with pytest.raises(Interrupted):
        up.until(stop).upload(os.urandom(50 * CHUNK), chunk_size=CHUNK)
    assert not server.files
    assert up.upload(b"others go on").size == 12


def test_the_calls_beneath_are_there(up: Client) -> None:
    assert isinstance(up.calls, Calls)
