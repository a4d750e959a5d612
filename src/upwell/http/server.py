"""Our way of running uvicorn: bodies leave the event loop.

``UpwellProtocol`` offers the application two ASGI extensions:

``upwell.body``
    a ``BodyChannel``: the rest of a body of known length goes socket → buffer → sink in a
    worker thread, in pieces of up to 1 MiB, while the loop only watches slow clients;
``http.response.zerocopysend``
    the ASGI extension of that name: ``sendfile(2)`` from a descriptor to the socket.

It also closes what uvicorn leaves open: a head must arrive in time, a refused body is
discarded for a bounded time, and even a malformed request gets our JSON error.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import re
import select
import socket
import struct
import termios
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    Send = Callable[[Any], Awaitable[None]]

T = TypeVar("T")

BUFFER_SIZE = 512 << 10
HEAD_TIMEOUT = 20.0  # seconds from a connection's or a request's first byte to its whole head
HEAD_LIMIT = 64 << 10  # bytes
DISCARD_TIMEOUT = 30.0  # seconds in which a refused body may still flow in, to be dropped
STALL_TIMEOUT = 60.0  # seconds in which a downloading client must take something
TICK = 1.0  # seconds between looks at a body whose bytes do not come
_PATIENCE_MS = 20  # how long a worker thread waits for bytes before it serves somebody else
_SLICE = 0.5  # seconds after which a worker thread serves somebody else anyway
_LOW_WATER = 256 << 10  # bytes worth waking a thread for

_BODY_THREADS = max(8, 4 * (os.cpu_count() or 1))
stopping = threading.Event()  # the server is going down: whoever streams should end
_UPGRADE = re.compile(rb"\r\nUpgrade:", re.IGNORECASE)
_log = structlog.get_logger("upwell.http")
_threads = ThreadPoolExecutor(_BODY_THREADS, thread_name_prefix="upwell-body")
_local = threading.local()


def tune_allocator() -> None:
    """Keep glibc from mapping and unmapping memory for every body: half of the CPU time of
    a plain asyncio server goes there. No effect on other C libraries."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD


def _without_upgrade(data: bytes) -> bytes:
    """A head whose ``Upgrade`` is renamed. We may ignore it (RFC 9110 §7.8), and must: the
    parser takes what follows it for another protocol, not for the request's body. Java's
    client offers h2c with every request."""
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nX-Grade:", head) + end + rest


def _buffer() -> memoryview:
    """This worker thread's buffer; memory is bounded by the number of threads."""
    if not hasattr(_local, "buffer"):
        _local.buffer = memoryview(bytearray(BUFFER_SIZE))
    buffer: memoryview = _local.buffer
    return buffer


class ConnectionGone(Exception):
    """The peer closed its side before the body was whole."""


class _Borrowed:
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


async def _in_thread(work: Callable[[], T], stop: Callable[[], None]) -> T:
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


async def _until_ready(borrowed: _Borrowed, *, write: bool, seconds: float) -> bool:
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

    def __init__(self, channel: BodyChannel, borrowed: _Borrowed | None, end: End) -> None:
        self._channel = channel
        self._borrowed = borrowed
        self.end = end
        self.total = channel.remaining
        self.start: Start | None = None
        self.got = 0

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
            left, end = self._channel.remaining, self.end
            self.got = self._borrowed.receive(self._take, left, end.room)

    def stop(self) -> None:
        if self._borrowed:
            with suppress(OSError):
                self._borrowed.socket.shutdown(socket.SHUT_RD)

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
            start = await _in_thread(transfer.first, transfer.stop)
            while start is Start.LATER:
                await later()
                start = await _in_thread(transfer.first, transfer.stop)
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
        borrowed: _Borrowed,
        tick: Callable[[int], None],
        later: Callable[[], Awaitable[None]],
    ) -> None:
        next_tick = time.monotonic() + TICK
        while self.remaining:
            if not transfer.end.room():
                await later()
            elif not transfer.got:
                borrowed.wake_at(min(self.remaining, _LOW_WATER))
                await _until_ready(borrowed, write=False, seconds=TICK)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK
                tick(transfer.total - self.remaining + borrowed.waiting())
            await _in_thread(transfer.more, transfer.stop)

    def abandon(self) -> None:
        """The rest is not worth waiting for: close the connection after the answer."""
        self._cycle.keep_alive = False


class _HeadTooLarge(Exception):
    """Ends the parsing of a head."""


class UpwellProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with bodies out of the loop and bounded patience."""

    _head_timer: asyncio.TimerHandle | None = None
    _discard_timer: asyncio.TimerHandle | None = None
    _in_head = _in_body = False
    _refusal: tuple[int, str, str] | None = None  # of what came behind a request under way
    _head_size = 0  # bytes read of a head that is not whole yet
    _fields_size = 0  # bytes of its fields that are
    _skip = 0  # bytes of a body that nobody wants, still to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = 64 << 10  # heads and small bodies; the rest leaves the loop
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm_head_timer()
        self._disarm_discard_timer()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        stopping.set()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            if self._skip == 0:
                self._body_over()
            data = data[dropped:]
            if not data:
                return
        if self._idle() and self._head_timer is None:
            self._arm_head_timer()
        began_before = self._in_head
        super().data_received(data if self._in_body else _without_upgrade(data))
        if self._in_head and not self.transport.is_closing():
            self._head_size += len(data) if began_before else 0
            if self._head_size > HEAD_LIMIT:
                self._refuse_head()

    def on_message_begin(self) -> None:
        self._in_head = True
        self._head_size = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_size += len(name) + len(value)
        if self._fields_size > HEAD_LIMIT:
            raise _HeadTooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm_head_timer()
        self._in_head, self._in_body = False, True
        self._fields_size = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_body = False
        if self.cycle.response_complete:
            self._body_over()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        async def with_extensions(scope: Any, receive: Any, send: Send) -> None:
            extensions = scope.setdefault("extensions", {})
            if self.scheme == "http":
                extensions["http.response.zerocopysend"] = {}
                length = self._whole_length(cycle)
                if length is not None and cycle is self.cycle:
                    extensions["upwell.body"] = BodyChannel(self, cycle, length)

            async def sending(message: Any) -> None:
                if cycle.waiting_for_100_continue and cycle.more_body:
                    cycle.keep_alive = False  # whether its body comes now, nobody can tell
                if message["type"] == "http.response.zerocopysend":
                    await self._send_file(cycle, message, send)
                else:
                    await send(message)

            await app(scope, receive, sending)

        super()._start_asgi_task(cycle, with_extensions)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._refusal and not self.transport.is_closing():
            self._refuse(*self._refusal)
        if not self.transport.is_closing() and (self._skip or self._unread()):
            self._disarm_discard_timer()
            self._discard_timer = self.loop.call_later(DISCARD_TIMEOUT, self.transport.abort)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's text; ours is JSON
        """What the HTTP parser refuses answers in the one error shape too."""
        if self._fields_size > HEAD_LIMIT:
            self._refuse_head()
            return
        text = "This is not a valid HTTP/1.1 request; check the client or the proxy."
        self._refuse(400, "MALFORMED_REQUEST", text)

    def _refuse_head(self) -> None:
        self._refuse(431, "HEADERS_TOO_LARGE", "Send fewer or shorter headers.")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer what never became a request, in the one error shape, and hang up.

        What did become one before it is answered first, and the rest is not read.
        """
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way and not self.cycle.more_body and status != 431:
            self._refusal = (status, code, message)
            self.flow.pause_reading()
            return
        trace, client = os.urandom(16).hex(), self.client[0] if self.client else ""
        _log.info("request refused", status=status, code=code, client=client, trace_id=trace)
        error = {"code": code, "message": message, "status": status, "detail": None}
        error |= {"errors": None, "meta": None, "trace_id": trace}
        body = json.dumps(error).encode()
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-trace-id: {trace}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    # the body's way out of the loop

    def lend(self) -> _Borrowed:
        """The socket is the caller's to read from until ``take_back``."""
        return _Borrowed(self.transport)

    def continue_100(self, cycle: RequestResponseCycle) -> None:
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            cycle.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def take_back(self, cycle: RequestResponseCycle, unread: int) -> None:
        """Read in the loop again, from behind the body; ``unread`` bytes of it are dropped."""
        if unread and cycle.waiting_for_100_continue:
            cycle.keep_alive = False  # whether its body comes now, nobody can tell
        cycle.body = bytearray()
        cycle.more_body = False
        cycle.message_event.set()
        if self.transport.is_closing():
            return
        self._skip = unread
        self._in_body = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.flow.resume_reading()

    async def _send_file(self, cycle: RequestResponseCycle, message: Any, send: Send) -> None:
        count = message["count"]
        await self._flushed(cycle)
        if not cycle.disconnected and cycle.scope["method"] != "HEAD":
            await self._stream_file(message["file"], message["offset"], count)
            cycle.expected_content_length -= count
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": b"", "more_body": more})

    async def _flushed(self, cycle: RequestResponseCycle) -> None:
        """Wait until the loop has written all it was given."""
        self.transport.set_write_buffer_limits(high=0)
        while self.transport.get_write_buffer_size() and not cycle.disconnected:
            await self.flow.drain()

    async def _stream_file(self, fd: int, offset: int, count: int) -> None:
        borrowed = _Borrowed(self.transport)
        sent, idle_since = 0, time.monotonic()

        def work() -> int:
            return borrowed.send_file(fd, offset + sent, count - sent)

        def stop() -> None:
            borrowed.socket.shutdown(socket.SHUT_WR)

        try:
            while sent < count:
                step = await _in_thread(work, stop)
                sent += step
                now = time.monotonic()
                idle_since = now if step else idle_since
                if now - idle_since > STALL_TIMEOUT:
                    self.transport.abort()
                if sent < count and not step:
                    await _until_ready(borrowed, write=True, seconds=TICK)
        except (ConnectionGone, OSError):
            self.transport.abort()
            raise asyncio.CancelledError from None
        finally:
            borrowed.socket.close()

    # patience

    def _whole_length(self, cycle: RequestResponseCycle) -> int | None:
        for name, value in cycle.scope["headers"]:
            if name == b"content-length":
                return int(value)
        return None

    def _idle(self) -> bool:
        return self.cycle is None or (self.cycle.response_complete and not self.cycle.more_body)

    def _unread(self) -> bool:
        """Whether a body is still to come that nobody wants; not that of a request behind."""
        return self.cycle.response_complete and self.cycle.more_body

    def _arm_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self.transport.close)

    def _disarm_head_timer(self) -> None:
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _body_over(self) -> None:
        self.cycle.more_body = False
        self._disarm_discard_timer()

    def _disarm_discard_timer(self) -> None:
        if self._discard_timer:
            self._discard_timer.cancel()
            self._discard_timer = None
