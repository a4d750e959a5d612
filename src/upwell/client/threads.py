"""Blocking work for an event loop, in a thread of its own that ends when its task is cancelled."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from upwell.client.errors import Interrupted
from upwell.client.stop import Stop

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Awaitable, Callable, Iterator

T = TypeVar("T")

# A thread that waits for the network a little longer than this is left behind: it is a daemon,
# and ends with its request.
PATIENCE = 5.0
LOOK = 0.25  # seconds between looks at whether to stop


async def run(work: Callable[[Stop], T]) -> T:
    """What ``work`` returns, done in a thread; when the task is cancelled it is told to stop, and
    waited for."""
    loop = asyncio.get_running_loop()
    stop, ended = Stop(), loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if ended.cancelled():
            return
        if error is None:
            ended.set_result(result)
        else:
            ended.set_exception(error)

    def body() -> None:
        result, failure = None, None
        try:
            result = work(stop)
        except BaseException as error:  # noqa: BLE001 - carried over to the task
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result, failure)

    thread = threading.Thread(target=body, name="upwell-async", daemon=True)
    thread.start()
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([ended], timeout=PATIENCE)
        if ended.done():
            ended.exception()  # it was to stop: what it says of that matters to nobody
            thread.join()  # it has nothing left to do
        else:
            ended.cancel()
        raise


def in_loop(call: Callable[[T], object] | None) -> Callable[[T], None] | None:
    """A function for other threads that has ``call`` called in the present event loop."""
    if call is None:
        return None
    loop = asyncio.get_running_loop()
    told = call

    def tell(value: T) -> None:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(told, value)

    return tell


def pieces(
    source: AsyncIterable[bytes], loop: asyncio.AbstractEventLoop, stop: Stop
) -> Iterator[bytes]:
    """What an asynchronous iterable gives, for a thread; it runs in its own loop."""
    iterator = aiter(source)

    async def one() -> bytes | None:
        return await anext(iterator, None)

    while (piece := _wait(one(), loop, stop)) is not None:
        yield piece


def _wait(
    awaitable: Awaitable[bytes | None], loop: asyncio.AbstractEventLoop, stop: Stop
) -> bytes | None:
    async def awaited() -> bytes | None:
        return await awaitable

    future = asyncio.run_coroutine_threadsafe(awaited(), loop)
    while True:
        try:
            return future.result(LOOK)
        except TimeoutError:
            if future.done():
                raise
            if stop.is_set():
                future.cancel()
                raise Interrupted("Stopped.") from None
