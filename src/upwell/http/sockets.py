"""A connection's socket outside the event loop.

Body threads receive and send while bytes flow. A connection on which they do not flow is watched
by the loop and costs no thread, no buffer and no descriptor beside its own.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

BUFFER_SIZE = 512 << 10
TICK = 1.0  # seconds between looks at a body whose bytes do not come
LOW_WATER = 256 << 10  # bytes worth waking a thread for
_PATIENCE = 0.02  # seconds a body thread waits for a quick connection
_SLICE = 0.5  # seconds after which a body thread serves somebody else anyway
_BODY_THREADS = max(8, 4 * (os.cpu_count() or 1))
_NEVER_WAITING = 2  # body threads that serve only connections with bytes
_PEER = frozenset(
    {
        errno.ECONNABORTED, errno.ECONNRESET, errno.EHOSTUNREACH, errno.ENETDOWN,
        errno.ENETUNREACH, errno.ENOTCONN, errno.EPIPE, errno.ETIMEDOUT,
    }
)  # fmt: skip

_threads = ThreadPoolExecutor(_BODY_THREADS, thread_name_prefix="upwell-body")
_may_wait = threading.BoundedSemaphore(_BODY_THREADS - _NEVER_WAITING)
_local = threading.local()


def _buffer() -> memoryview:
    """This worker thread's buffer; memory is bounded by the number of threads."""
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(BUFFER_SIZE))
    buffer: memoryview = _local.buffer
    return buffer


class ConnectionGone(Exception):
    """The peer closed the connection, or the server did, before everything was transferred."""


class Borrowed:
    """A connection's socket while a body or a file is transferred.

    Threads get a descriptor of their own, because the loop may close the connection meanwhile.
    It is closed while nobody uses it: thousands of slow connections must not use up descriptors.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._shared: socket.socket = transport.get_extra_info("socket")
        self._own: socket.socket | None = None
        self._low = 1  # bytes from which the kernel reports the socket readable
        self._quick = True  # whether bytes may be expected soon
        self.starved = True  # whether bytes, or room for them, ran out

    async def use(self, work: Callable[[], T], direction: int) -> T:
        """Run ``work``, which calls ``receive`` or ``send_file``, in a body thread. When this is
        cancelled, the connection is shut in that ``direction`` (``socket.SHUT_RD`` or
        ``SHUT_WR``), so that the thread ends. Raises ConnectionGone."""
        own = self._open()

        def stop() -> None:
            with suppress(OSError):
                own.shutdown(direction)

        return await in_body_thread(work, stop)

    def _open(self) -> socket.socket:
        if self._own is None:
            self._own = socket.socket(
                self._shared.family, socket.SOCK_STREAM, fileno=os.dup(self._fd())
            )
            self._own.setblocking(False)
        return self._own

    def _fd(self) -> int:
        """The loop's descriptor. After the loop closed it, another connection may have the same
        number, so it counts only before that, and in the loop's thread."""
        if self._transport.is_closing():
            raise ConnectionGone
        return self._shared.fileno()

    def release(self) -> None:
        """Close the descriptor of our own; the next ``use`` opens another."""
        if self._own is not None:
            self._own.close()
            self._own = None

    def close(self) -> None:
        """Leave the socket to the loop as it was."""
        with suppress(ConnectionGone, OSError):
            self._wake_at(1)
        self.release()

    def _wake_at(self, count: int) -> None:
        """Report readable only from ``count`` bytes on (SO_RCVLOWAT, socket(7))."""
        if self._low != count:
            self._open().setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._low = count

    # in the loop

    def waiting(self) -> int:
        """Bytes received by the kernel and not read yet. Raises ConnectionGone."""
        answer = fcntl.ioctl(self._fd(), termios.FIONREAD, b"\0" * 4)
        return int(struct.unpack("i", answer)[0])

    async def until_readable(self, count: int, seconds: float) -> bool:
        """Wait until ``count`` bytes are here or the peer has closed; False after ``seconds``
        without either. Raises ConnectionGone."""
        self._wake_at(count)
        return await self._until(select.EPOLLIN, seconds)

    async def until_writable(self, seconds: float) -> bool:
        """Wait until the peer has taken enough for more to be sent; False after ``seconds``
        without. Raises ConnectionGone."""
        return await self._until(select.EPOLLOUT, seconds)

    async def _until(self, event: int, seconds: float) -> bool:
        self.release()
        began = time.monotonic()
        ready = await _watch().ready(self._fd(), event, seconds)
        self._quick = ready and time.monotonic() - began < _PATIENCE
        return ready

    # in a body thread

    def receive(
        self, take: Callable[[memoryview], None], left: int, room: Callable[[], int]
    ) -> int:
        """Hand up to ``left`` bytes to ``take`` while they come quickly and there is ``room``
        for them; how many came. Raises ConnectionGone."""
        buffer, got, until = _buffer(), 0, time.monotonic() + _SLICE
        self.starved = False
        while left > got and not self.starved and time.monotonic() < until:
            filled = self._fill(buffer[: min(left - got, BUFFER_SIZE, room())])
            if not filled:
                break
            take(buffer[:filled])
            got += filled
        return got

    def _fill(self, buffer: memoryview) -> int:
        """Fill the buffer as far as bytes come quickly: few large writes, not many small."""
        own, filled = self._open(), 0
        while filled < len(buffer):
            try:
                count = own.recv_into(buffer[filled:])
            except BlockingIOError:
                self._wake_at(len(buffer) - filled)
                if not self._wait(own, select.POLLIN):
                    break
                continue
            except OSError as error:
                raise ConnectionGone from error
            if count == 0:
                raise ConnectionGone
            filled += count
        return filled

    def send_file(self, fd: int, offset: int, count: int) -> int:
        """Send while the peer takes it quickly; bytes sent. Raises ConnectionGone, and OSError
        when the file cannot be read or is shorter than ``offset`` + ``count``."""
        own, sent, until = self._open(), 0, time.monotonic() + _SLICE
        self.starved = False
        while sent < count and not self.starved and time.monotonic() < until:
            try:
                step = os.sendfile(own.fileno(), fd, offset + sent, count - sent)
            except BlockingIOError:
                self._wait(own, select.POLLOUT)
                continue
            except OSError as error:
                if error.errno in _PEER:
                    raise ConnectionGone from error
                raise
            if step == 0:
                raise OSError(errno.EIO, "the stored bytes end before the file's size")
            sent += step
        return sent

    def _wait(self, own: socket.socket, event: int) -> bool:
        """Wait for a quick connection, which is cheaper than a way back through the loop.

        Only the first vain wait costs a thread time, and some threads never wait: slow
        connections, however many, must not keep the threads from those that have bytes.
        """
        if self._quick and _may_wait.acquire(blocking=False):
            try:
                poller = select.poll()
                poller.register(own, event)
                self._quick = bool(poller.poll(1000 * _PATIENCE))
            finally:
                _may_wait.release()
            self.starved = not self._quick
        else:
            self.starved = True
        return not self.starved


class _Watch:
    """Watches the loop's own sockets for it, through an epoll descriptor: the loop refuses to
    watch a descriptor that one of its connections has."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, asyncio.Future[bool]] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._wake)

    async def ready(self, fd: int, event: int, seconds: float) -> bool:
        """Wait for the event; False after ``seconds`` without it."""
        loop = asyncio.get_running_loop()
        future = self._waiting[fd] = loop.create_future()
        self._epoll.register(fd, event | select.EPOLLONESHOT)
        timer = loop.call_later(seconds, _settle, future, False)
        try:
            ready: bool = await future
            return ready
        finally:
            timer.cancel()
            # The loop may have closed the connection, and given its number to another one.
            if self._waiting.get(fd) is future:
                del self._waiting[fd]
                with suppress(OSError):
                    self._epoll.unregister(fd)

    def _wake(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if fd in self._waiting:
                _settle(self._waiting[fd], True)


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)


_watches: WeakKeyDictionary[asyncio.AbstractEventLoop, _Watch] = WeakKeyDictionary()


def _watch() -> _Watch:
    """The watch of the running loop."""
    loop = asyncio.get_running_loop()
    if loop not in _watches:
        _watches[loop] = _Watch()
    return _watches[loop]


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
