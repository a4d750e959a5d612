"""A data folder copied while its server runs, in the worst orders, is made sound again."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import UPWELL, Api, Server, eventually
from tests.survival import fsck

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

K = 1024
ROUNDS = 4
FIRST_MAIN = ("snapshot", "sqlite", "pools", "sqlite-wal", "sqlite-shm", "journal")
FIRST_WAL = ("sqlite-wal", "snapshot", "pools", "sqlite", "journal")
FIRST_BYTES = ("pools", "sqlite", "sqlite-wal", "snapshot", "journal")
LAST_BYTES = ("snapshot", "sqlite", "sqlite-wal", "journal", "pools")


class _Busy(threading.Thread):
    """Uploads files, one after the other; knows what was answered, and when."""

    def __init__(self, api: Api) -> None:
        super().__init__(daemon=True)
        self._api = api
        self.stop = threading.Event()
        self.contents: dict[str, bytes] = {}  # by task
        self.files: dict[str, bytes] = {}

    def run(self) -> None:
        while not self.stop.is_set():
            content = os.urandom(6 * K)
            digest = hashlib.sha256(content).hexdigest()
            task = self._api.create(len(content), K, hash=digest)
            self.contents[task] = content
            for index in (0, 2, 1, 4, 3, 5):
                assert self._api.put(task, index, _piece(content, index)).status == 200
                if self.stop.is_set():
                    return
            # Another content under an acknowledged index, and back: a side object each.
            self._api.put(task, 3, bytes(K))
            self._api.put(task, 3, _piece(content, 3))
            self.files[self._api.complete(task).json()["id"]] = content


class _Slow(_Busy):
    """One large upload that is under way all the time."""

    def run(self) -> None:
        content = os.urandom(400 * K)
        task = self._api.create(len(content), K, hash=hashlib.sha256(content).hexdigest())
        self.contents[task] = content
        self.files[""] = b""  # it has begun
        for index in range(390):
            assert self._api.put(task, index, _piece(content, index)).status == 200
            if index % 5 == 0:
                self._api.put(task, index, bytes(K))
                self._api.put(task, index, _piece(content, index))
            if self.stop.wait(0.01):
                return


def _piece(content: bytes, index: int) -> bytes:
    return content[index * K : (index + 1) * K]


def _checkpoint(data: Path) -> None:
    """The WAL goes into the main file, and begins anew with the next write."""
    with closing(sqlite3.connect(data / "catalog.sqlite", timeout=30)) as connection:
        connection.execute("PRAGMA wal_checkpoint(RESTART)")


def _copy(data: Path, copy: Path, order: Sequence[str], between: Callable[[], None]) -> None:
    copy.mkdir()
    for name in order:
        source = data / (name if name == "pools" else f"catalog.{name}")
        subprocess.run(
            ["cp", "-a", str(source), str(copy)], check=False
        )  # files may vanish meanwhile
        between()


def _recover(copy: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [UPWELL, "recover", "--json", "--data", str(copy), *flags],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout, done
    return done.returncode, json.loads(done.stdout)


def _check(copy: Path, files: dict[str, bytes], contents: dict[str, bytes]) -> None:
    """What was complete before is there, and every upload goes on from what it has."""
    assert fsck.problems(copy) == []
    with Server(copy) as server:
        api = server.api()
        for file in files.keys() - {""}:
            assert api.download(file) == files[file]
        for task in [each["task_id"] for each in api.tasks()]:
            _finish(api, task, contents[task])
        assert not server.bugs()


def _finish(api: Api, task: str, content: bytes) -> None:
    """The copy may hold one of the chunks that was for a moment another content."""
    for index in api.uploaded(task):
        if index == 3 or index % 5 == 0:
            assert api.put(task, index, _piece(content, index)).status == 200
    api.finish(task, content, K)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("order", [FIRST_MAIN, FIRST_WAL, FIRST_BYTES, LAST_BYTES])
@pytest.mark.parametrize("interval", [1, 600])
def test_a_copy_made_under_load_is_recoverable(
    data: Path, tmp_path: Path, order: Sequence[str], interval: int
) -> None:
    settings = f"[server]\nsweep_interval = 1\nsnapshot_interval = {interval}\n"
    copies = [tmp_path / f"copy{number}" for number in range(ROUNDS)]
    pause = threading.Event()
    with Server(data, config=settings) as server:
        busy = [*(_Busy(server.api()) for _ in range(2)), _Slow(server.api())]
        for each in busy:
            each.start()
        eventually(lambda: all(each.files for each in busy), 60, "files are uploaded")
        before: list[dict[str, bytes]] = []

        def between() -> None:
            pause.wait(0.1)
            _checkpoint(data)
            pause.wait(0.1)

        for copy in copies:
            pause.wait(0.4)
            before.append({id_: content for each in busy for id_, content in each.files.items()})
            _copy(data, copy, order, between)
        for each in busy:
            each.stop.set()
            each.join(20)
        assert not server.bugs()
    contents = {task: content for each in busy for task, content in each.contents.items()}
    uploads = 0
    for copy, files in zip(copies, before, strict=True):
        code, found = _recover(copy, "--drop-damaged")
        assert (code, found["well"]) == (0, True), found
        assert not {each["id"] for each in found["dropped"]} & files.keys()
        uploads += found["uploads"]
        _check(copy, files, contents)
    assert uploads or interval > 1
