"""Memory for the bodies of direct and batch uploads, bounded in all and for each account.

A body takes memory as its bytes arrive: a sender that declares much and sends little costs
little. One account gets at most half of it, so its slow senders leave the rest to others.

Bodies that grow could wait for each other in a circle. Therefore the oldest body of all, and
the oldest of each account, can always grow to the largest size: a younger one is granted only
what leaves room for that. When the oldest ends, its memory and that room are the next one's.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from upwell.errors import ServerBusy, TooManyUploads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SIZE = 64 << 20  # bytes of bodies; each is in memory twice while it is handed over
WAIT = 10.0  # seconds a body waits for memory
_RETRY = 5  # seconds after which a refused body may be sent again
STEP = 64 << 10  # bytes a body is granted at first, and at least
_STRIDE = 512 << 10  # bytes it is granted at most at once: a worker thread's buffer


@dataclass(slots=True)
class _Share:
    """Memory that the bodies of one account, or of all, take from."""

    free: int
    largest: int
    line: dict[Body, None] = field(default_factory=dict)  # oldest first

    def has(self, body: Body, more: int) -> bool:
        oldest = next(iter(self.line))
        return more <= self.free - (0 if body is oldest else self.largest - oldest.granted)


class UploadMemory:
    """What all bodies take from; ``largest`` is the size in bytes of the largest one allowed.

    Grants come from any thread; bodies begin, wait and end in the event loop.
    """

    def __init__(self, largest: int, size: int = SIZE) -> None:
        size = max(size, 4 * largest)
        self._largest = largest
        self._per_account = size // 2
        self._all = _Share(size, largest)
        self._accounts: dict[str, _Share] = {}
        self._waiting: list[tuple[Body, int, asyncio.Future[None]]] = []
        self._lock = threading.Lock()  # grants are made in worker threads too

    @asynccontextmanager
    async def body(self, account_id: str, most: int) -> AsyncIterator[Body]:
        """A body of at most ``most`` bytes, whose memory is free again when the context ends."""
        with self._lock:
            mine = _Share(self._per_account, self._largest)
            share = self._accounts.setdefault(account_id, mine)
            body = Body(self, share, most)
            self._all.line[body] = share.line[body] = None
        try:
            yield body
        finally:
            with self._lock:
                for each in (self._all, share):
                    each.free += body.granted
                    del each.line[body]
                if not share.line:
                    del self._accounts[account_id]
                self._serve()

    def grant(self, body: Body, more: int) -> bool:
        """Whether there was room for ``more`` bytes of a body; they are its own then."""
        with self._lock:
            return self._grant(body, more)

    def _grant(self, body: Body, more: int) -> bool:
        shares = (self._all, body.share)
        if not all(each.has(body, more) for each in shares):
            return False
        for each in shares:
            each.free -= more
        body.granted += more
        return True

    def _serve(self) -> None:
        """Memory was given back: grant what is waited for, as far as there is room now."""
        for body, more, granted in self._waiting:
            if not granted.done() and self._grant(body, more):
                granted.set_result(None)

    async def wait(self, body: Body, more: int) -> None:
        """Wait until there is room. Raises TooManyUploads when the account's share stays full,
        ServerBusy when all of it does."""
        granted = asyncio.get_running_loop().create_future()
        place = (body, more, granted)
        with self._lock:
            if self._grant(body, more):
                return
            self._waiting.append(place)
        try:
            async with asyncio.timeout(WAIT):
                await granted
        except TimeoutError:
            raise self._refusal(body, more) from None
        finally:
            with self._lock:
                self._waiting.remove(place)

    def _refusal(self, body: Body, more: int) -> TooManyUploads | ServerBusy:
        if not body.share.has(body, more):
            return TooManyUploads(
                "Your account is sending as many small files at once as the server holds in "
                "memory for it. Send this again when some have arrived, or by chunks.",
                retry_after=_RETRY,
            )
        return ServerBusy(
            "The server is receiving as many small files at once as it holds in memory. "
            "Send this again in a moment, or by chunks.",
            retry_after=_RETRY,
        )


@dataclass(slots=True, eq=False)
class Body:
    """The memory of one body: ``granted`` bytes, of which ``arrived`` are in use."""

    memory: UploadMemory
    share: _Share
    most: int
    granted: int = 0
    arrived: int = 0

    def room(self) -> int:
        """Bytes that may arrive now; 0 when it has to wait."""
        missing = self.most - self.granted
        if self.granted == self.arrived and missing:
            step = min(max(STEP, self.arrived), _STRIDE, missing)
            self.memory.grant(self, step)
        return self.granted - self.arrived

    def expect(self, count: int) -> bool:
        """Whether there is room for ``count`` bytes that are here already."""
        more = self._short_of(count)
        return more <= 0 or self.memory.grant(self, more)

    async def wait(self, count: int) -> None:
        """Wait until ``count`` bytes may arrive, or what is left of the body. Raises
        TooManyUploads, ServerBusy."""
        more = self._short_of(count)
        if more > 0:
            await self.memory.wait(self, more)

    def _short_of(self, count: int) -> int:
        return min(self.arrived + count, self.most) - self.granted
