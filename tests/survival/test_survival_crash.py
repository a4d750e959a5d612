"""kill -9 at chosen points and at random ones: I1 and I2, on the real process."""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.harness import Api, Server
from tests.survival import fsck

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

K = 64 << 10
COUNT = 4
HOURS = timedelta(hours=2)
WEEKS = timedelta(days=15)


def _chunks(content: bytes) -> list[bytes]:
    return [content[at : at + K] for at in range(0, len(content), K)]


def _assert_clean(data: Path, kept: set[str]) -> None:
    """After everything has run out, only what files name is left."""
    fsck.sweep(data, WEEKS)
    assert fsck.keys(data) == kept
    assert not {path for path in fsck.staged(data) if path.is_file()}


@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
@pytest.mark.parametrize("point", ["commit:before", "commit:after", "record:after"])
def test_i1_i2_killed_while_a_chunk_is_stored(data: Path, point: str, again: bool) -> None:
    """With the bytes written; synced, and no row yet; after the row and before the answer."""
    content = os.urandom(COUNT * K - 11)
    parts = _chunks(content)
    acknowledged = COUNT if again else COUNT - 1
    with Server(data, point=f"{point}:{acknowledged + 1}") as server:
        api = server.api()
        task = api.create(len(content), K)
        for index in range(acknowledged):
            assert api.put(task, index, parts[index]).status == 200
        other = bytes([7]) * len(parts[-1])
        with pytest.raises(OSError):  # noqa: PT011 - closed or reset: there is no answer
            api.put(task, COUNT - 1, other)
        assert server.wait(10) == -9
        assert not fsck.problems(data)  # at this very instant: no row without its bytes
        before = fsck.chunks(data)
        server.restart()
        api = server.api()
        uploaded = api.uploaded(task)
        for index in range(COUNT - 1):
            assert before[task, index][0] == parts[index]
        if point == "record:after":  # durable, though the client was never told
            assert before[task, COUNT - 1][0] == other
        elif again:  # what was acknowledged survived
            assert before[task, COUNT - 1][0] == parts[-1]
        told = again or point == "record:after"
        assert uploaded == list(range(COUNT if told else COUNT - 1))
        assert api.put(task, COUNT - 1, parts[-1]).status == 200
        file = api.finish(task, content, K)
        assert file["hash"] == hashlib.sha256(content).hexdigest()
        assert not server.bugs()
        server.kill()
        assert not fsck.problems(data)
        kept = fsck.keys(data)
        assert len(kept) == 1
        _assert_clean(data, kept)


@pytest.mark.parametrize(
    "point",
    ["publish:before", "settle:after", "publish:after", "complete:before", "complete:after"],
)
def test_i2_i4_killed_in_the_middle_of_complete(data: Path, point: str) -> None:
    content = os.urandom(COUNT * K)
    parts = _chunks(content)
    digest = hashlib.sha256(content).hexdigest()
    with Server(data, point=point) as server:
        api = server.api()
        task = api.create(len(content), K, hash=digest)
        for index, part in enumerate(parts):
            assert api.put(task, index, bytes(len(part))).status == 200
            assert api.put(task, index, part).status == 200  # now each has a side object
        with pytest.raises(OSError):  # noqa: PT011
            api.complete(task)
        assert server.wait(10) == -9
        assert not fsck.problems(data)
        server.restart()
        api = server.api()
        files = api.files()
        assert len(files) == (1 if point == "complete:after" else 0)
        assert api.uploaded(task) == list(range(COUNT))
        file = api.finish(task, content, K)
        assert not files or files[0]["id"] == file["id"]
        assert api.complete(task).json()["id"] == file["id"]
        assert [each["id"] for each in api.files()] == [file["id"]]
        assert not server.bugs()
        server.kill()
        assert not fsck.problems(data)
        _assert_clean(data, fsck.keys(data))


@pytest.mark.parametrize("point", ["reserve:after", "add_task:before", "add_task:after"])
def test_i2_killed_in_create(data: Path, point: str) -> None:
    """Bytes without a row are reclaimed; a task whose answer was lost is found again."""
    content = os.urandom(2 * K)
    digest = hashlib.sha256(content).hexdigest()
    with Server(data, point=point) as server:
        with pytest.raises(OSError):  # noqa: PT011
            server.api().create(len(content), K, hash=digest)
        assert server.wait(10) == -9
        made = point == "add_task:after"
        assert len(fsck.strays(data)) == (0 if made else 1)
        fsck.sweep(data, timedelta(0))
        assert len(fsck.strays(data)) == (0 if made else 1)  # it may be a request under way
        swept = fsck.sweep(data, HOURS)
        assert swept.strays == (0 if made else 1)
        assert not fsck.strays(data)
        server.restart()
        api = server.api()
        found = [each["task_id"] for each in api.tasks()]
        task = api.create(len(content), K, hash=digest)
        assert found == ([task] if made else [])
        api.finish(task, content, K)


def test_i8_killed_between_a_cancelled_row_and_its_bytes(data: Path) -> None:
    with Server(data, point="cancel:after") as server:
        api = server.api()
        task = api.create(2 * K, K)
        assert api.put(task, 0, bytes(K)).status == 200
        assert api.put(task, 0, bytes([1]) * K).status == 200
        with pytest.raises(OSError):  # noqa: PT011
            api.call("DELETE", f"/api/files/upload/{task}")
        assert server.wait(10) == -9
        assert len(fsck.keys(data)) == 1
        assert fsck.sweep(data, timedelta(0)).freed == 1
        assert not fsck.keys(data)
        assert not fsck.staged(data)
        server.restart()
        assert server.api().put(task, 1, bytes(K)).status in (404, 409)


def test_i2_killed_in_a_direct_upload(data: Path) -> None:
    with Server(data, point="put_many:after") as server:
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhello'
            b"\r\n--b--\r\n"
        )
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        with pytest.raises(OSError):  # noqa: PT011
            server.api().call("POST", "/api/files/upload/direct", body, kind)
        assert server.wait(10) == -9
        assert len(fsck.strays(data)) == 1
        assert fsck.sweep(data, HOURS).strays == 1
        server.restart()
        assert server.api().files() == []
        answer = server.api().call("POST", "/api/files/upload/direct", body, kind)
        assert server.api().download(answer.json()["id"]) == b"hello"


@pytest.mark.parametrize(("point", "kept"), [("put_many:after", 0), ("add_files:after", 2)])
def test_i2_killed_in_a_batch(data: Path, point: str, kept: int) -> None:
    """Before the rows, there are bytes to be swept; after them, files whose answer was lost: sent
    again, they are found."""
    items = json.dumps(
        [
            {
                "file_name": name,
                "file_size": 5,
                "hash": hashlib.sha256(name.encode() * 5).hexdigest(),
            }
            for name in "ab"
        ]
    )
    head = 'Content-Disposition: form-data; name="{}"{}'
    parts = [head.format("items", ""), "", items, "--b"]
    parts += [head.format("content", '; filename="c"'), "", "aaaaabbbbb", "--b--", ""]
    body = "\r\n".join(["--b", *parts]).encode()
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    with Server(data, point=point) as server:
        with pytest.raises(OSError):  # noqa: PT011
            server.api().call("POST", "/api/files/upload/batch", body, kind)
        assert server.wait(10) == -9
        assert len(fsck.strays(data)) == 2 - kept
        assert fsck.sweep(data, HOURS).strays == 2 - kept
        server.restart()
        assert len(server.api().files()) == kept
        answer = server.api().call("POST", "/api/files/upload/batch", body, kind)
        results = answer.json()["results"]
        assert [each["file_exists"] for each in results] == [kept == 2] * 2
        assert server.api().download(results[1]["file"]["id"]) == b"bbbbb"


def test_a_side_objects_folder_does_not_stay_for_ever(data: Path) -> None:
    """A stray side object of a file that lives on leaves no empty folder either."""
    with Server(data, point="complete:after") as server:
        api = server.api()
        task = api.create(K, K)
        assert api.put(task, 0, bytes(K)).status == 200
        assert api.put(task, 0, bytes([1]) * K).status == 200
        with pytest.raises(OSError):  # noqa: PT011
            api.complete(task)
        assert server.wait(10) == -9
    assert len(fsck.staged(data)) == 2
    fsck.sweep(data, HOURS)
    assert not {path for path in fsck.staged(data) if path.is_file()}
    assert not fsck.staged(data)


class _Sender(threading.Thread):
    """Sends chunks of one task, again and again with other bytes, until the server dies."""

    def __init__(self, api: Api, task: str, count: int, seed: int) -> None:
        super().__init__(daemon=True)
        self._api, self._task, self._count = api, task, count
        self._random = random.Random(seed)
        self.acknowledged: dict[int, bytes] = {}
        self.in_flight: dict[int, list[bytes]] = {}

    def run(self) -> None:
        while True:
            index = self._random.randrange(self._count)
            data = self._random.randbytes(64) * (K // 64)
            self.in_flight.setdefault(index, []).append(data)
            send = self._random.choice([self._api.put, self._api.form])
            try:
                answer = send(self._task, index, data)
            except OSError:
                return
            assert answer.status == 200, answer
            self.acknowledged[index] = data
            self.in_flight[index] = []

    def possible(self, index: int) -> list[bytes]:
        """What may lie there: what was acknowledged last, or anything sent after it."""
        last = [self.acknowledged[index]] if index in self.acknowledged else []
        return last + self.in_flight.get(index, [])


@pytest.mark.parametrize("workers", [1, 2])
def test_i1_i2_killed_at_random_while_many_send(data: Path, workers: int) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    dice = random.Random(seed)
    count = 8
    senders: list[_Sender] = []
    server = Server(data, workers=workers)
    try:
        for _ in range(4):
            server.start()
            api = server.api()
            tasks = [api.create(count * K, K) for _ in range(4)]
            here = [_Sender(api, task, count, dice.getrandbits(32)) for task in tasks]
            for each in here:
                each.start()
            time.sleep(dice.uniform(0.05, 0.7))
            server.kill()
            for each in here:
                each.join(20)
                assert not each.is_alive()
            senders += here
            assert not fsck.problems(data), f"seed {seed}"
            stored = fsck.chunks(data)
            for each in senders:
                _assert_kept(each, stored, f"seed {seed}")
        assert sum(len(each.acknowledged) for each in senders) > 20
        server.start()
        for each in senders:
            _finish(server.api(), each, count, f"seed {seed}")
        assert not server.bugs()
    finally:
        server.kill()
    assert not fsck.problems(data)
    kept = fsck.keys(data) - fsck.strays(data)
    assert len(kept) == len(senders)
    _assert_clean(data, kept)


def _assert_kept(
    sender: _Sender, stored: dict[tuple[str, int], tuple[bytes, str]], note: str
) -> None:
    task = sender._task
    for index in sender.acknowledged:
        assert (task, index) in stored, f"{note}: acknowledged chunk {index} is lost"
    for (owner, index), (content, _) in stored.items():
        if owner == task:
            assert content in sender.possible(index), f"{note}: chunk {index} is not what was sent"


def _finish(api: Api, sender: _Sender, count: int, note: str) -> None:
    task = sender._task
    for index in api.resume(task)["missing_chunks"]:
        data = bytes([index]) * K
        sender.in_flight.setdefault(index, []).append(data)
        assert api.put(task, index, data).status == 200
        sender.acknowledged[index], sender.in_flight[index] = data, []
    answer = api.complete(task)
    assert answer.status == 200, answer
    content = api.download(answer.json()["id"])
    assert hashlib.sha256(content).hexdigest() == answer.json()["hash"]
    for index in range(count):
        part = content[index * K : (index + 1) * K]
        assert part in sender.possible(index), f"{note}: chunk {index} of the file"
