"""Clients that hang up: one line at info level each, no error, and nothing that stays open."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from tests.api.world import unique
from tests.harness import BOUNDARY, Wire, chunked, eventually, form
from tests.harness import Api as RawApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from structlog.typing import EventDict

    from tests.api.world import Api, World

MIB = 1 << 20
SSE = {"Accept": "text/event-stream"}
PASSWORD = {"X-Encrypt-Password": "correct horse"}


@pytest.fixture(scope="module")
def big() -> bytes:
    """More than the buffers of two sockets hold."""
    return os.urandom(12 * MIB)


@pytest.fixture(scope="module")
def raw(world: World) -> RawApi:
    return RawApi(int(world.url.rpartition(":")[2]), world.secrets["alice"])


def _plain(live: Api, big: bytes) -> str:
    return f"/api/files/{live.store(big)['id']}"


def _sealed(live: Api, big: bytes) -> str:
    return f"/api/files/{live.store(big, encrypt_password='correct horse')['id']}"


def _zip(live: Api, big: bytes) -> str:
    bundle = live.post("/api/bundles", json={"name": "b"}).json()
    live.store(big, bundle_id=bundle["id"])
    return f"/b/{bundle['slug']}/zip"


DOWNLOADS: dict[str, Callable[[Api, bytes], str]] = {
    "plain": _plain,
    "sealed": _sealed,
    "zip": _zip,
}


@pytest.mark.slow
@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("kind", DOWNLOADS)
def test_a_download_that_is_given_up(
    live: Api,
    raw: RawApi,
    big: bytes,
    kind: str,
    reset: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = DOWNLOADS[kind](live, unique() + big)
    open_files = _open_files()
    with capture_logs() as told:
        with Wire(raw.port, receive_buffer=4096) as wire:
            wire.send(raw.request("GET", path, None, PASSWORD if kind == "sealed" else None))
            assert wire.head()[0] == 200
            if reset:
                wire.reset()
        (line,) = _lines(told, path)
    assert line["aborted"] is True
    assert not caplog.records
    eventually(lambda: _open_files() <= open_files, 20, "the file is closed")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/events", "/api/files/upload/progress/{task}"])
def test_a_stream_that_is_given_up(
    live: Api, raw: RawApi, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = path.format(task=live.create(unique())["task_id"])
    with capture_logs() as told:
        with raw.wire() as wire:
            wire.send(raw.request("GET", path, None, SSE))
            assert wire.head()[0] == 200
        assert len(_lines(told, path)) == 1
    assert not caplog.records


def _create(task: str) -> bytes:
    del task
    body = json.dumps({"file_name": "a", "file_size": 1}).encode()
    return RawApi(0, "").request(
        "POST", "/api/files/upload/create", body, {"Content-Type": "application/json"}
    )


def _raw_chunk(task: str) -> bytes:
    return RawApi(0, "").request("PUT", RawApi.chunk_path(task, 0), bytes(1000))


def _chunked_chunk(task: str) -> bytes:
    te = {"Transfer-Encoding": "chunked"}
    return RawApi(0, "").head("PUT", RawApi.chunk_path(task, 0), te) + chunked(bytes(1000))


def _form(path: str) -> bytes:
    media = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    return RawApi(0, "").request("POST", path, form(bytes(1000)), media)


UPLOADS: dict[str, Callable[[str], bytes]] = {
    "create": _create,
    "raw chunk": _raw_chunk,
    "chunked chunk": _chunked_chunk,
    "form chunk": lambda task: _form(RawApi.chunk_path(task, 0)),
    "direct": lambda _: _form("/api/files/upload/direct"),
    "batch": lambda _: _form("/api/files/upload/batch"),
}


@pytest.mark.parametrize("reset", [True, False], ids=["reset", "closed"])
@pytest.mark.parametrize("kind", UPLOADS)
def test_an_upload_that_is_given_up(
    live: Api, raw: RawApi, kind: str, reset: bool, caplog: pytest.LogCaptureFixture
) -> None:
    task = live.create(unique(1000))["task_id"]
    request = UPLOADS[kind](task).replace(b"Bearer \r\n", f"Bearer {raw.token}\r\n".encode())
    path = request.split(b" ")[1].decode()
    with capture_logs() as told:
        with raw.wire() as wire:
            wire.send(request[:-20])
            if reset:
                wire.reset()
        (line,) = _lines(told, path)
    assert line["status"] in (400, None)
    assert not caplog.records


def _lines(told: list[EventDict], path: str) -> list[Any]:
    """The log's lines about a path, once there are some; none is worse than info."""

    def about() -> Iterator[Any]:
        return (each for each in list(told) if each.get("path") == path)

    eventually(lambda: any(about()), 20, "the request is logged")
    assert [each for each in told if each["log_level"] not in ("debug", "info")] == []
    return list(about())


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
