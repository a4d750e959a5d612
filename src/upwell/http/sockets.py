"""A connection's socket outside the event loop: body threads receive and send while bytes flow,
and the loop watches sockets on which they do not."""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

BUFFER_SIZE = 512 << 10
TICK = 1.0  # seconds between looks at a body whose bytes do not come
LOW_WATER = 256 << 10  # bytes worth waking a thread for
_PATIENCE_MS = 20  # how long a worker thread waits for bytes before it serves somebody else
_SLICE = 0.5  # seconds after which a worker thread serves somebody else anyway

_BODY_THREADS = max(8, 4 * (os.cpu_count() or 1))
_threads = ThreadPoolExecutor(_BODY_THREADS, thread_name_prefix="upwell-body")
_local = threading.local()


def _buffer() -> memoryview:
    """This worker thread's buffer; memory is bounded by the number of threads."""
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(BUFFER_SIZE))
    buffer: memoryview = _local.buffer
    return buffer


class ConnectionGone(Exception):
    """The peer closed its side before the body was whole."""


class Borrowed:
    """The connection's socket, for use in a thread: a descriptor of our own, so that the
    loop may close the connection meanwhile."""

    def __init__(self, transport: asyncio.Transport) -> None:
        fd = transport.get_extra_info("socket").fileno()
        self.socket = socket.socket(fileno=os.dup(fd))
        self.socket.setblocking(False)

    def receive(
        self, take: Callable[[memoryview], None], left: int, room: Callable[[], int]
    ) -> int:
        """Hand up to ``left`` bytes to ``take`` while they come quickly and there is ``room``
        for them; how many came. Raises ConnectionGone."""
        poller = select.poll()
        poller.register(self.socket, select.POLLIN)
        buffer, got, until = _buffer(), 0, time.monotonic() + _SLICE
        while left > got and time.monotonic() < until:
            want = min(left - got, BUFFER_SIZE, room())
            filled = self._fill(buffer[:want], poller)
            if not filled:
                break
            take(buffer[:filled])
            got += filled
        return got

    def _fill(self, buffer: memoryview, poller: select.poll) -> int:
        """Fill the buffer as far as bytes come quickly: few large writes, not many small."""
        filled = 0
        while filled < len(buffer):
            try:
                count = self.socket.recv_into(buffer[filled:])
            except BlockingIOError:
                self.wake_at(len(buffer) - filled)
                if not poller.poll(_PATIENCE_MS):
                    break
                continue
            except OSError as error:
                raise ConnectionGone from error
            if count == 0:
                raise ConnectionGone
            filled += count
        return filled

    def wake_at(self, count: int) -> None:
        """Report readable only from ``count`` bytes on (SO_RCVLOWAT, socket(7))."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def waiting(self) -> int:
        """Bytes received by the kernel and not read yet."""
        answer = fcntl.ioctl(self.socket, termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", answer)[0])

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send while the peer takes it quickly; bytes sent."""
        poller = select.poll()
        poller.register(self.socket, select.POLLOUT)
        sent, until = 0, time.monotonic() + _SLICE
        while sent < count and time.monotonic() < until:
            try:
                step = os.sendfile(self.socket.fileno(), fd, offset + sent, count - sent)
            except BlockingIOError:
                if not poller.poll(_PATIENCE_MS):
                    break
                continue
            if step == 0:
                raise ConnectionGone  # the file is shorter than its row says
            sent += step
        return sent

    def close(self) -> None:
        self.wake_at(1)
        self.socket.close()


async def in_body_thread(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Run ``work`` in a body thread. When cancelled, ``stop`` makes it end early, and this
    still waits for it: nobody may touch what it uses before it is done."""
    running = asyncio.get_running_loop().run_in_executor(_threads, work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise


async def until_ready(borrowed: Borrowed, *, write: bool, seconds: float) -> bool:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    fd = borrowed.socket.fileno()
    add, remove = (
        (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    )
    add(fd, ready.set)
    try:
        await asyncio.wait_for(ready.wait(), seconds)
    except TimeoutError:
        return False
    finally:
        remove(fd)
    return True
