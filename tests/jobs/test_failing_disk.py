"""A disk that does not answer: nothing is forgotten, dropped or given up because of that (I1)."""

from __future__ import annotations

import errno
import os
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import CHUNK, Core, World, content, new_upload
from tests.stores import put
from upwell.core.ports import Noted
from upwell.jobs.recover import Recovered, Recovery
from upwell.jobs.verify import Verified, Verifier
from upwell.model import CloudFile, UploadTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DATA = content(3 * CHUNK)


@pytest.fixture
def world(tmp_path: Path, cheap_passwords: None) -> Iterator[World]:
    made = World(tmp_path, "local")
    yield made
    made.close()


class Disk:
    """The pool's disk. ``failing`` makes so many of its reads, or openings, fail."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = str(folder)
        self._left = 0
        self._code = 0
        for name in ("open", "pread", "preadv"):
            monkeypatch.setattr(os, name, self._maybe(name, getattr(os, name)))

    @contextmanager
    def failing(self, code: int, times: int) -> Iterator[None]:
        self._code, self._left = code, times
        yield
        assert self._left < times, "nothing was read"
        self._left = 0

    def _maybe(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            opens = name == "open"
            ours = str(target).startswith(self._folder) if opens else True
            if self._left and ours and opens == (self._code == errno.EMFILE):
                self._left -= 1
                raise OSError(self._code, os.strerror(self._code))
            return real(target, *args, **kwargs)

        return call


@pytest.fixture(params=[errno.EIO, errno.EMFILE], ids=["eio", "emfile"])
def code(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def disk(world: World, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(world.folder / "pool", monkeypatch)


def sent(world: World, *, password: str | None = None) -> tuple[Core, UploadTask]:
    """An upload with all its chunks, one of them beside it; nothing of its digest is known."""
    task = world.uploads.create(world.me, new_upload(DATA, password=password))
    assert isinstance(task, UploadTask)
    world.send_all(world.me, task, DATA)
    if password is None:
        world.send(world.me, task, 1, content(CHUNK, 9))
        world.send(world.me, task, 1, DATA[CHUNK : 2 * CHUNK])
    with closing(world.store.reader(task.layout)) as reader:
        reader.remember(b"")
    return world.another(), task


def rows(world: World, task: UploadTask) -> Any:
    return world.catalog.task(*_of(world, task)), list(world.catalog.chunks(task.id).all())


def _of(world: World, task: UploadTask) -> Any:
    return task.account_id, task.id, world.clock()


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "for long"])
@pytest.mark.parametrize("password", [None, "secret"])
def test_complete_changes_nothing(
    world: World, disk: Disk, code: int, times: int, password: str | None
) -> None:
    core, task = sent(world, password=password)
    before = rows(world, task)
    times += code == errno.EMFILE  # complete opens the upload once more, to see that it is there
    with disk.failing(code, times), pytest.raises(OSError, match=os.strerror(code)):
        core.uploads.complete(world.me, task.id)
    assert rows(world, task) == before
    file = core.uploads.complete(world.me, task.id)
    assert world.open(world.me, file.id, password=password) == DATA


def test_complete_changes_nothing_either_when_other_chunks_are_damaged(
    world: World, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    core, task = sent(world)
    real, before = world.store.check_chunk, rows(world, task)

    def check(layout: Any, chunk: Any) -> bool:
        if chunk.index == 2:
            with disk.failing(errno.EIO, 1):
                return real(layout, chunk)
        return False

    monkeypatch.setattr(world.store, "check_chunk", check)
    with disk.failing(errno.EIO, 1), pytest.raises(OSError, match="Input/output"):
        core.uploads.complete(world.me, task.id)
    assert rows(world, task) == before


def test_verify_and_recover_leave_what_they_cannot_read(
    world: World, disk: Disk, code: int
) -> None:
    _, task = sent(world)
    kept = world.upload(world.me, content(20, 1))
    lost = world.upload(world.me, content(20, 2))
    other = replace(lost, id="journal", blob=replace(lost.blob, id="b", key=""))
    other = replace(other, blob=replace(other.blob, key=put(world.store, content(20, 2))))
    before = rows(world, task)

    verifier = Verifier(world.catalog, world.homes, world.clock)
    with disk.failing(code, 1000):
        found: Verified | Recovered = verifier.run(repair=True)
    assert (found.well, found.chunks_unreadable, found.chunks_forgotten) == (False, 3, 0)

    recovery = Recovery(world.catalog, world.homes, world.clock)
    with disk.failing(code, 1000):
        recovery.replay([Noted(file=other)])
        found = recovery.check(drop=True)
    assert (found.well, found.chunks_unreadable, found.chunks_forgotten) == (False, 3, 0)
    assert (found.uploads_closed, found.dropped, len(found.damaged)) == (0, [], 3)

    assert rows(world, task) == before
    well = Recovery(world.catalog, world.homes, world.clock).check(drop=True)
    assert (well.well, well.blobs, well.chunks) == (True, 3, 3)
    for file in (kept, lost, other):
        assert isinstance(file, CloudFile)
        assert len(world.read(world.me, file.id)) == 20
