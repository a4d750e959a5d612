"""The extension ``upwell.body``: a body's way from its connection's socket to a far end."""

from __future__ import annotations

import socket
import time
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol, TypeVar

from upwell.http.sockets import (
    LOW_WATER,
    TICK,
    Borrowed,
    ConnectionGone,
    in_body_thread,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    from upwell.http.server import UpwellProtocol

T = TypeVar("T")


class Start(Enum):
    """Whether the far end of a channel takes the body."""

    NOW = auto()
    LATER = auto()
    OTHERWISE = auto()


class End(Protocol):
    """Where a channel's body goes. ``begin`` and ``take`` block; one thread calls at a time."""

    def begin(self) -> Start: ...

    def room(self) -> int:
        """How many bytes it can take now; 0 calls for ``later``."""
        ...

    def take(self, data: memoryview) -> None: ...


class _Transfer:
    """The part of a channel's work that is done in worker threads."""

    def __init__(self, channel: BodyChannel, borrowed: Borrowed | None, end: End) -> None:
        self._channel = channel
        self._borrowed = borrowed
        self.end = end
        self.total = channel.remaining
        self.start: Start | None = None

    def first(self) -> Start:
        """Ask the end; if it is willing, go on at once with what has come."""
        self.start = self.end.begin()
        if self.start is Start.NOW:
            self.end.take(memoryview(self._channel.take_buffered()))
            if not self._channel.asked_for_100:
                self.more()
        return self.start

    def more(self) -> None:
        if self._borrowed:
            self._borrowed.receive(self._take, self._channel.remaining, self.end.room)

    async def visit(self, work: Callable[[], T]) -> T:
        """Run a part of it in a body thread."""
        if self._borrowed:
            return await self._borrowed.use(work, socket.SHUT_RD)
        return await in_body_thread(work, lambda: None)

    def _take(self, data: memoryview) -> None:
        self._channel.remaining -= len(data)
        self.end.take(data)


class BodyChannel:
    """What the extension ``upwell.body`` offers for one request.

    ``buffered`` is what the loop had read of the body before the application ran (it reads
    no further by itself); ``remaining`` how many bytes are still to come. Either
    this object's ``receive`` or the ordinary
    ASGI one may be used for a request, not both.
    """

    def __init__(self, protocol: UpwellProtocol, cycle: RequestResponseCycle, length: int) -> None:
        self._protocol = protocol
        self._cycle = cycle
        if cycle.more_body:
            protocol.flow.pause_reading()
        self.asked_for_100 = cycle.waiting_for_100_continue
        self.remaining = length - len(cycle.body)

    @property
    def buffered(self) -> bytearray:
        """What the loop had read of the body, until it is taken."""
        return self._cycle.body

    def take_buffered(self) -> bytearray:
        """What the loop had read, once. Request objects refer to each other and stay until
        the next garbage collection; this memory must not (I7)."""
        buffered, self._cycle.body = self._cycle.body, bytearray()
        return buffered

    async def receive(
        self,
        end: End,
        tick: Callable[[int], None],
        later: Callable[[], Awaitable[None]],
    ) -> bool:
        """Hand the whole body to ``end.take``, in a thread, in order, after ``end.begin``.

        True when all of it was taken; False, and nothing read, when ``begin`` said
        ``OTHERWISE``. ``later`` is awaited before ``begin`` is asked again after ``LATER``, and
        while ``room`` is 0.
        ``tick`` is called about once a second, in the loop, with the bytes that have reached
        this machine so far. What one of them raises ends the transfer; then the rest of the
        body is discarded and the connection stays usable. Raises ConnectionGone when the
        peer closes before the end.
        """
        borrowed = self._protocol.lend() if self.remaining else None
        transfer = _Transfer(self, borrowed, end)
        try:
            start = await transfer.visit(transfer.first)
            while start is Start.LATER:
                if borrowed:
                    borrowed.release()
                await later()
                start = await transfer.visit(transfer.first)
            if start is Start.NOW and borrowed:
                self._protocol.continue_100(self._cycle)
                await self._receive_rest(transfer, borrowed, tick, later)
        except ConnectionGone:
            self._cycle.keep_alive = False
            raise
        finally:
            if borrowed:
                borrowed.close()
                if transfer.start is not Start.OTHERWISE:
                    self._protocol.take_back(self._cycle, self.remaining)
        return start is Start.NOW

    async def _receive_rest(
        self,
        transfer: _Transfer,
        borrowed: Borrowed,
        tick: Callable[[int], None],
        later: Callable[[], Awaitable[None]],
    ) -> None:
        next_tick = time.monotonic() + TICK
        while self.remaining:
            ready = True
            if not transfer.end.room():
                await later()
            elif borrowed.starved:
                enough = min(self.remaining, LOW_WATER)
                ready = await borrowed.until_readable(enough, TICK)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK
                tick(transfer.total - self.remaining + borrowed.waiting())
            if ready:  # a visit without bytes would keep a thread from those that have some
                await transfer.visit(transfer.more)

    def abandon(self) -> None:
        """The rest is not worth waiting for: close the connection after the answer."""
        self._cycle.keep_alive = False
