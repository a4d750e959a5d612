"""Encrypted uploads on the real process: killed at every step, and nothing told to the disk."""

from __future__ import annotations

import os
import random
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pyrage
import pytest

from tests.harness import Answer, Api, Server, servers, together

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

K = 64 << 10
COUNT = 4
SECRET = "never-on-the-disk-7c1f"  # ASCII: it is looked for byte by byte
MARK = b"PLAINTEXT-MARK-"
PASSWORD = {"X-Encrypt-Password": SECRET}


def _content(size: int = COUNT * K - 11) -> bytes:
    """Has a mark in every block, and is otherwise random."""
    pieces = [MARK + os.urandom(1000) for _ in range(size // 1000 + 1)]
    return b"".join(pieces)[:size]


def _chunks(content: bytes) -> list[bytes]:
    return [content[at : at + K] for at in range(0, len(content), K)]


def _create(api: Api, content: bytes, **more: Any) -> str:
    return api.create(len(content), K, encrypt_password=SECRET, **more)


def _read(api: Api, file_id: str, **headers: str) -> Answer:
    return api.call("GET", f"/api/files/{file_id}", headers=PASSWORD | headers)


def _raw(api: Api, file_id: str) -> bytes:
    answer = api.call("GET", f"/api/files/{file_id}?raw=true")
    assert answer.status == 200, answer
    return answer.body


def _finish(api: Api, task: str, content: bytes) -> str:
    parts = _chunks(content)
    for index in api.resume(task)["missing_chunks"]:
        assert api.put(task, index, parts[index]).status == 200
    answer = api.complete(task)
    assert answer.status == 200, answer
    file_id = str(answer.json()["id"])
    assert _read(api, file_id).body == content
    assert pyrage.passphrase.decrypt(_raw(api, file_id), SECRET) == content
    return file_id


def _leaks(server: Server, data: Path) -> list[str]:
    """Files of the data folder, and the log, in which a secret can be read."""
    found = [
        str(path)
        for path in data.rglob("*")
        if path.is_file() and any(s in path.read_bytes() for s in (MARK, SECRET.encode()))
    ]
    return found + ["log"] * (SECRET in server.log())


def _send_until_it_dies(api: Api, task: str, parts: list[bytes]) -> int:
    """Which chunk was under way then, the last one also in complete."""
    for index, part in enumerate(parts):
        try:
            answer = api.put(task, index, part)
        except OSError:
            return index
        assert answer.status == 200, answer
    with pytest.raises(OSError):  # noqa: PT011 - closed or reset: there is no answer
        api.complete(task)
    return len(parts) - 1


@pytest.mark.parametrize(
    "point",
    [
        "write:before:3",
        "write:after:3",
        "commit:before:3",
        "commit:after:3",
        "record:before:3",
        "record:after:3",
        "publish:before",
        "publish:after",
        "complete:before",
        "complete:after",
    ],
)
def test_killed_at_every_step(data: Path, point: str) -> None:
    """What may have been sealed binds its nonces; with the same bytes all goes on."""
    content = _content()
    parts = _chunks(content)
    with Server(data, point=point) as server:
        api = server.api()
        task = _create(api, content)
        last = _send_until_it_dies(api, task, parts)
        assert server.wait(10) == -9
        assert not _leaks(server, data)
        server.restart()
        api = server.api()
        other = api.put(task, last, bytes(len(parts[last])))
        assert other.code == ("TASK_CLOSED" if point == "complete:after" else "CHUNK_CONFLICT")
        _finish(api, task, content)
        assert not _leaks(server, data)
        assert not server.bugs()


def _try_to_put(api: Api, task: str, index: int, part: bytes) -> None:
    with suppress(OSError):
        api.put(task, index, part)


def test_killed_at_random_while_others_send_other_bytes(data: Path) -> None:
    """Two contents for one chunk: at most one of them is ever sealed, whatever dies."""
    mine, theirs = _chunks(_content()), _chunks(_content())
    draw = random.Random(5)
    seen: dict[int, set[bytes]] = {}
    with Server(data) as server:
        task = _create(server.api(), b"".join(mine))
        for wait in (0.005, 0.01, 0.02, 0.04, 0.08, 0.2, 0.5, 0.8):
            index = draw.randrange(COUNT)
            sends = [
                partial(_try_to_put, server.api(), task, index, parts[index])
                for parts in (mine, theirs)
            ]
            together([*sends, partial(_kill_soon, server, wait)])
            for at, block in _stored(data).items():
                seen.setdefault(at, set()).add(block)
            server.restart()
        assert len(seen) == COUNT
        assert all(len(blocks - {bytes(32)}) <= 1 for blocks in seen.values())
        assert any(blocks - {bytes(32)} for blocks in seen.values())
        assert not _leaks(server, data)


def _kill_soon(server: Server, seconds: float) -> None:
    time.sleep(seconds)
    server.kill()


def _stored(data: Path) -> dict[int, bytes]:
    """The first sealed bytes of every chunk of the only upload there is; zeros where nothing
    was written yet."""
    (path,) = (data / "pools" / "default" / "blobs").glob("*/*")
    raw = path.read_bytes()
    head = len(raw) - (COUNT * K - 11) - COUNT * 16
    return {at: raw[at : at + 32] for at in range(head, len(raw), K + 16)}


@pytest.fixture
def two(data: Path) -> Iterator[list[Server]]:
    with servers(data, 2) as pair:
        yield pair


def test_two_processes_share_an_encrypted_upload(two: list[Server]) -> None:
    content = _content(20 * K + 5)
    parts = _chunks(content)
    apis = [server.api() for server in two]
    task = _create(apis[0], content)

    def send(number: int) -> None:
        for index in range(number, len(parts), 2):
            assert apis[number].put(task, index, parts[index]).status == 200

    together([lambda: send(0), lambda: send(1)])
    file_id = _finish(apis[1], task, content)
    part = _read(apis[0], file_id, Range=f"bytes={3 * K - 5}-{7 * K + 5}")
    assert part.status == 206
    assert part.body == content[3 * K - 5 : 7 * K + 6]


def test_guesses_are_limited_over_both_processes(two: list[Server]) -> None:
    content = _content()
    apis = [server.api() for server in two]
    file_id = _finish(apis[0], _create(apis[0], content), content)
    path = f"/api/files/{file_id}"
    codes = [
        apis[number % 2].call("GET", path, headers={"X-Encrypt-Password": f"no {number}"}).code
        for number in range(14)
    ]
    assert codes == ["PASSWORD_WRONG"] * 10 + ["TOO_MANY_GUESSES"] * 4
    limited = apis[1].call("GET", path, headers=PASSWORD)
    assert limited.status == 429
    assert 0 < int(limited.headers["retry-after"]) <= 30
    assert not any(SECRET in server.log() for server in two)
