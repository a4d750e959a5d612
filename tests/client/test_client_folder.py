"""Many files at once: small ones share requests, each still succeeds or fails for itself."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.client.fake_server import TOKEN, FakeServer
from upwell import Client
from upwell.client import (
    ApiError,
    Backoff,
    ConnectionFailed,
    ContentMismatch,
    LocalFileError,
    PatienceOver,
    Progress,
    Retry,
)
from upwell.client.folder import BATCH_FILES, SMALL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upwell.client import FileResult

QUICK = Backoff(first=0.01, longest=0.05)


@pytest.fixture
def up(server: FakeServer) -> Iterator[Client]:
    with Client(server.url, TOKEN, retry=Retry(5.0, backoff=QUICK)) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A few hundred small files in folders, an empty one, and one that goes by chunks."""
    folder = tmp_path / "photos"
    for number in range(BATCH_FILES + 50):
        path = folder / f"{number % 3}" / f"ü{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(100 + number))
    (folder / "empty").touch()
    (folder / "large.bin").write_bytes(os.urandom(SMALL + 1))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def stored(server: FakeServer) -> dict[str, bytes]:
    return {file.name: file.content for file in server.files.values()}


def test_a_folder_arrives_under_its_paths(up: Client, server: FakeServer, folder: Path) -> None:
    told: list[Progress] = []
    results = list(up.upload_folder(folder, progress=told.append))
    assert stored(server) == contents(folder)
    assert {result.item.name for result in results} == set(contents(folder))
    assert all(result.file and not result.error and not result.existing for result in results)
    total, files = sum(map(len, contents(folder).values())), len(results)
    assert told[-1] == Progress(total, total, files, files)
    assert server.count("/upload/batch") < 12
    assert server.count("/upload/create") == 1


def test_again_only_what_is_missing_is_sent(up: Client, server: FakeServer, folder: Path) -> None:
    list(up.upload_folder(folder))
    (folder / "new.txt").write_text("new")
    (folder / "large.bin").write_bytes(os.urandom(SMALL + 2))
    before, chunks = dict(server.files), server.count("/chunk/")
    results = list(up.upload_folder(folder))
    new = {result.item.name for result in results if not result.existing}
    assert new == {"new.txt", "large.bin"}
    assert len(server.files) == len(before) + 2
    assert server.count("/chunk/") == chunks + 1


def test_one_that_cannot_be_read_does_not_keep_the_others(
    up: Client, server: FakeServer, folder: Path
) -> None:
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    results = list(up.upload_folder(folder))
    (failed,) = [result for result in results if result.error]
    assert failed.item.name == "gone.txt"
    assert isinstance(failed.error, LocalFileError)
    assert len(stored(server)) == len(results) - 1


def test_nothing_in_a_folder_is_left_out_silently(
    up: Client, server: FakeServer, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links to folders, sockets, pipes and folders that cannot be read are named with a reason;
    a file that does not tell its size is read."""
    (folder / "1" / "album").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe")
    with socket.socket(socket.AF_UNIX) as server_end:
        monkeypatch.chdir(folder)
        server_end.bind("socket")
    (folder / "private").mkdir()
    (folder / "version").symlink_to("/proc/version")
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    results = list(up.upload_folder(folder))
    failed = {each.item.name: str(each.error) for each in results if each.error}
    assert set(failed) == {"1/album", "pipe", "socket", "private"}
    assert "link to a folder" in failed["1/album"]
    assert "Permission denied" in failed["private"]
    assert "not a regular file" in failed["pipe"]
    assert len(stored(server)) == len(results) - 4
    assert stored(server)["version"] == Path("/proc/version").read_bytes()
    with pytest.raises(LocalFileError, match="No such file"):
        list(up.upload_folder(folder / "nowhere"))


def test_one_that_the_server_refuses_does_not_keep_the_others(
    up: Client, server: FakeServer, folder: Path
) -> None:
    server.refuse = {"0/ü3.txt": "TYPE_NOT_ACCEPTED"}
    results = list(up.upload_folder(folder))
    (failed,) = [result for result in results if result.error]
    assert isinstance(failed.error, ApiError)
    assert (failed.item.name, failed.error.code) == ("0/ü3.txt", "TYPE_NOT_ACCEPTED")
    assert len(stored(server)) == len(results) - 1


@pytest.mark.parametrize("kind", ["reset", "lose", "answer"])
def test_a_batch_that_broke_is_sent_again(
    up: Client, server: FakeServer, folder: Path, kind: str
) -> None:
    server.fail("/upload/batch", kind, times=5, status=503)
    assert all(result.file for result in up.upload_folder(folder))
    assert stored(server) == contents(folder)
    assert len(server.files) == len(contents(folder))


@pytest.mark.parametrize("status", [400, 413])
@pytest.mark.parametrize("check_first", [False, True])
def test_what_cannot_share_a_request_goes_alone(
    up: Client, server: FakeServer, folder: Path, status: int, check_first: bool
) -> None:
    server.fail("/upload/batch", "answer", times=1000, status=status)
    results = list(up.upload_folder(folder, check_first=check_first))
    assert all(result.file for result in results)
    assert stored(server) == contents(folder)


def test_a_file_that_arrived_wrong_is_an_error(
    up: Client, server: FakeServer, tmp_path: Path
) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name)
    server.spoil = {"a"}
    results = {result.item.name: result for result in up.upload_folder(tmp_path)}
    assert isinstance(results["a"].error, ContentMismatch)
    assert results["b"].file
    assert stored(server) == {"b": b"b"}


def test_what_meets_all_ends_the_whole(server: FakeServer, folder: Path) -> None:
    with Client(server.url, "wrong", retry=Retry(0)) as client:
        results = list(client.upload_folder(folder))
    assert len(results) == len(contents(folder))
    assert {result.error.code for result in results if result.error} == {"TOKEN_INVALID"}
    assert server.count(".") <= 20


def test_a_server_that_is_gone_ends_the_whole(folder: Path) -> None:
    with FakeServer() as server:
        url = server.url
    with Client(url, TOKEN, retry=Retry(0.1, backoff=QUICK)) as client:
        results = list(client.upload_folder(folder))
    assert len(results) == len(contents(folder))
    assert all(isinstance(r.error, (PatienceOver, ConnectionFailed)) for r in results)


def test_closing_the_iterator_stops_everything(
    up: Client, server: FakeServer, folder: Path
) -> None:
    results = up.upload_folder(folder)
    first: FileResult = next(results)
    assert first.file
    results.close()  # type: ignore[attr-defined] # it is a generator
    left = [each.name for each in threading.enumerate() if each.name.startswith("upwell-many")]
    assert left == []
    assert len(server.files) <= len(contents(folder))


def test_an_empty_folder_is_nothing_to_do(up: Client, server: FakeServer, tmp_path: Path) -> None:
    assert list(up.upload_folder(tmp_path)) == []
    assert server.requests == []
