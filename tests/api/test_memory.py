"""The memory that the bodies of direct and batch uploads share."""

from __future__ import annotations

import asyncio
import random
import select
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.api.world import Api, serving, unique
from tests.harness import Api as RawApi
from tests.harness import Wire
from upwell.errors import ServerBusy, TooManyUploads
from upwell.http import memory
from upwell.http.memory import STEP, UploadMemory
from upwell.model import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.api.world import World
    from upwell.http.memory import Body

MIB = 1 << 20
PATHS = ("/api/files/upload/direct", "/api/files/upload/batch")


async def filled(body: Body, size: int, order: random.Random) -> None:
    """Let ``size`` bytes arrive, in steps between which others have their turn."""
    while body.arrived < size:
        if not (room := body.room()):
            await body.wait(STEP)
            continue
        body.arrived += min(room, size - body.arrived)
        for _ in range(order.randrange(3)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(10))
def test_bodies_never_wait_for_each_other_in_a_circle(seed: int) -> None:
    """Far more than fits, of few accounts, each to its full size; all of it is free afterwards."""
    order = random.Random(seed)

    async def scene() -> None:
        shared = UploadMemory(MIB, size=4 * MIB)

        async def send(account: str) -> None:
            size = order.randrange(MIB)
            async with shared.body(account, size) as body:
                await filled(body, size, order)
                in_use = 4 * MIB - shared._all.free
                assert 0 <= in_use <= 4 * MIB
                assert 0 <= body.share.free <= 2 * MIB

        await asyncio.gather(*(send(order.choice("abc")) for _ in range(40)))
        assert shared._all.free == 4 * MIB
        assert not shared._accounts
        assert not shared._waiting

    asyncio.run(asyncio.wait_for(scene(), 8))


def test_declaring_costs_nothing_and_one_account_has_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "WAIT", 0.0)

    async def scene() -> None:
        shared = UploadMemory(MIB, size=4 * MIB)
        async with shared.body("a", MIB) as first, shared.body("a", MIB) as second:
            await filled(first, MIB, random.Random(0))
            await filled(second, MIB, random.Random(0))
            async with shared.body("a", MIB) as third, shared.body("b", MIB) as other:
                with pytest.raises(TooManyUploads) as refused:
                    await third.wait(1)
                assert refused.value.retry_after
                await filled(other, MIB, random.Random(0))
                async with shared.body("b", MIB) as more, shared.body("c", MIB) as last:
                    await filled(more, MIB, random.Random(0))
                    with pytest.raises(ServerBusy) as busy:
                        await last.wait(1)
                    assert busy.value.retry_after
            async with shared.body("c", MIB) as late:
                await filled(late, MIB, random.Random(0))

    asyncio.run(scene())


def test_a_cancelled_wait_leaves_the_memory_whole() -> None:
    async def scene() -> None:
        shared = UploadMemory(MIB, size=4 * MIB)

        async def wait() -> None:
            async with shared.body("a", MIB) as body:
                await body.wait(MIB)

        async with shared.body("a", MIB) as one, shared.body("a", MIB) as two:
            await one.wait(MIB)
            await two.wait(MIB)
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert shared._all.free == 4 * MIB

    asyncio.run(scene())


def begun(api: RawApi, path: str, size: int, *, sent: int = 0) -> Wire:
    """A request that declares ``size`` bytes of content; with ``sent`` of them on their way."""
    field = "file" if path.endswith("direct") else "content"
    begin = (
        f'--B\r\nContent-Disposition: form-data; name="{field}"; filename="a"\r\n\r\n'
    ).encode()
    headers: dict[str, str | int] = {
        "Content-Type": "multipart/form-data; boundary=B",
        "Content-Length": size + len(begin) + len("\r\n--B--\r\n"),
    }
    wire = api.wire()
    wire.send(api.head("POST", path, headers) + begin + b"x" * sent)
    return wire


def port_of(world: World) -> int:
    return int(world.url.rpartition(":")[2])


@pytest.mark.parametrize("path", PATHS)
def test_the_scope_is_checked_before_the_body(world: World, path: str) -> None:
    reader = RawApi(port_of(world), world.token("alice", scopes=[Scope.READ]))
    with begun(reader, path, 1000) as wire:
        answer = wire.answer()
    assert (answer.status, answer.code) == (403, "SCOPE_MISSING")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A server whose memory is that of eight of the largest bodies, and which waits for none."""
    monkeypatch.setattr(memory, "WAIT", 0.05)
    memories = []

    def make(largest: int) -> UploadMemory:
        memories.append(UploadMemory(largest, size=0))
        return memories[-1]

    monkeypatch.setattr("upwell.http.direct.UploadMemory", make)
    with serving(tmp_path) as made:
        assert len(memories) == 2, "one for each of the two applications, under either prefix"
        yield made


@pytest.mark.slow
def test_slow_senders_cost_what_they_sent_and_their_own_account_only(small: World) -> None:
    for path, account in zip(PATHS, ("alice", "carol"), strict=True):
        send_slowly(small, path, small.token(account))


def send_slowly(small: World, path: str, token: str) -> None:
    alice = RawApi(port_of(small), token)
    with ExitStack() as stack, Api(small, None, small.secrets["bob"]) as bob:
        for _ in range(60):  # declared together, eight times what there is
            stack.enter_context(begun(alice, path, MIB - 1000))
        mine = stack.enter_context(Api(small, None, token))
        mine.direct(unique(1000))
        bob.direct(unique(1000))
        # Each sends nearly all of it. The account's share is full before the last one's turn.
        wires = [
            stack.enter_context(begun(alice, path, MIB - 1000, sent=MIB - 2000)) for _ in range(8)
        ]
        answered, _, _ = select.select([wire.sock for wire in wires], [], [], 20)
        answer = next(wire for wire in wires if wire.sock in answered).answer()
        assert (answer.status, answer.code) == (429, "TOO_MANY_UPLOADS")
        assert int(answer.headers["retry-after"]) > 0
        bob.direct(unique(MIB // 2))
