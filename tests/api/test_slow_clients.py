"""What clients cost that send or take their bytes slowly: no thread, and few descriptors."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import unique
from tests.harness import Api as RawApi
from tests.harness import Wire, eventually
from upwell.http import sockets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.api.world import Api, World

MANY = 20
LOOKS = 5  # times that the loop looks at each connection before its visits are counted


class _Counting(ThreadPoolExecutor):
    """Body threads, and how often they were asked to do something."""

    visits = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.visits += 1
        return super().submit(*args, **kwargs)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Counting]:
    with _Counting(sockets._BODY_THREADS) as made:
        monkeypatch.setattr(sockets, "_threads", made)
        for module in ("channels", "server"):
            monkeypatch.setattr(f"upwell.http.{module}.TICK", 0.01)
        yield made


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Wait until the loop has looked for bytes ``LOOKS`` times for each of ``MANY``."""
    looks = [0]
    ready = sockets._Watch.ready

    async def counted(*args: Any) -> bool:
        found = await ready(*args)
        looks[0] += 1
        return found

    monkeypatch.setattr(sockets._Watch, "ready", counted)

    def wait() -> None:
        until = looks[0] + MANY * LOOKS
        eventually(lambda: looks[0] >= until, 30, "looks at slow connections")

    return wait


@pytest.fixture
def raw(world: World) -> RawApi:
    return RawApi(int(world.url.rpartition(":")[2]), world.secrets["alice"])


def _descriptors() -> int:
    """Those of connections and contents; the catalog has some for each thread that asked it."""
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(each.readlink()))
    return sum("catalog" not in link and not link.startswith("anon_inode") for link in links)


@pytest.mark.slow
def test_slow_senders_cost_no_thread_and_two_descriptors_each(
    live: Api, raw: RawApi, threads: _Counting, looked: Callable[[], None]
) -> None:
    pieces = [unique(100) for _ in range(MANY)]
    tasks = [live.create(each * 3)["task_id"] for each in pieces]
    before = _descriptors()
    with ExitStack() as stack:
        wires = [stack.enter_context(raw.wire()) for _ in tasks]
        for wire, task, piece in zip(wires, tasks, pieces, strict=True):
            wire.send(raw.put_head(task, 0, 300) + piece)
        eventually(lambda: threads.visits == MANY, 30, "each was admitted in a thread")
        looked()
        for wire, piece in zip(wires, pieces, strict=True):
            wire.send(piece)
        looked()
        assert threads.visits == MANY
        assert _descriptors() - before <= len(wires) + 2 * MANY
        for wire, piece in zip(wires, pieces, strict=True):
            wire.send(piece)
        assert [wire.answer().status for wire in wires] == [200] * MANY
        assert threads.visits == 2 * MANY
    for task, piece in zip(tasks, pieces, strict=True):
        file = live.post(f"/api/files/upload/complete/{task}").json()
        assert live.get(f"/api/files/{file['id']}").content == 3 * piece


@pytest.mark.slow
def test_slow_readers_cost_no_thread_and_two_descriptors_each(
    live: Api, raw: RawApi, threads: _Counting, looked: Callable[[], None]
) -> None:
    content = os.urandom(12 << 20)
    file = live.store(content)["id"]
    before = _descriptors()
    with ExitStack() as stack:
        wires = [stack.enter_context(Wire(raw.port, receive_buffer=4096)) for _ in range(MANY)]
        for wire in wires:
            wire.send(raw.request("GET", f"/api/files/{file}"))
            assert wire.head()[0] == 200
        looked()
        visits = threads.visits
        looked()
        assert threads.visits == visits
        assert _descriptors() - before <= len(wires) + 2 * MANY


def test_waiting_for_quick_senders_leaves_threads_to_others(
    live: Api, raw: RawApi, threads: _Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a thread would wait for bytes, some never do."""
    monkeypatch.setattr(sockets, "_PATIENCE", 100.0)
    count = 2 * sockets._BODY_THREADS
    tasks = [live.create(unique(100))["task_id"] for _ in range(count)]
    content = unique(100)
    task = live.create(content)["task_id"]
    with ExitStack() as stack:
        for each in tasks:
            wire = stack.enter_context(raw.wire())
            wire.send(raw.put_head(each, 0, 100) + b"x")
        eventually(lambda: threads.visits == count, 30, "all of them were admitted")
        assert raw.put(task, 0, content).status == 200
