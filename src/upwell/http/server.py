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

import ctypes
import json
import os
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import httptools
import structlog
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from upwell.http.channels import BodyChannel
from upwell.http.heads import fault_of
from upwell.http.sockets import TICK, Borrowed, ConnectionGone

if TYPE_CHECKING:
    import asyncio
    from collections import deque
    from collections.abc import Awaitable, Callable

    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

    Send = Callable[[Any], Awaitable[None]]

HEAD_TIMEOUT = 20.0  # seconds from a connection's or a request's first byte to its whole head
HEAD_LIMIT = 64 << 10  # bytes
PIPELINED = 128  # requests that may wait for the one under way, each with its head in memory
DISCARD_TIMEOUT = 30.0  # seconds in which a refused body may still flow in, to be dropped
STALL_TIMEOUT = 60.0  # seconds in which a downloading client must take something

stopping = threading.Event()  # the server is going down: whoever streams should end
_log = structlog.get_logger("upwell.http")


def tune_allocator() -> None:
    """Keep glibc from mapping and unmapping memory for every body: half of the CPU time of
    a plain asyncio server goes there. No effect on other C libraries."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(-3, 4 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD


class _Refused(Exception):
    """Ends the parsing of a request that gets no further than its head."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = (status, code, message)


_MALFORMED = (
    400,
    "MALFORMED_REQUEST",
    "This is not a valid HTTP/1.1 request. Check the client or the proxy.",
)
_TOO_MANY = (
    503,
    "SERVER_BUSY",
    "Too many requests wait on this connection. Send this again after the answers to some.",
)
_TOO_LARGE = (431, "HEADERS_TOO_LARGE", "The headers are too large. Send fewer or shorter ones.")


class _Flow(FlowControl):
    """Reads nothing while requests wait for the one under way: each of them is in memory, and
    with every answer as many as one read holds would join them."""

    def __init__(self, transport: asyncio.Transport, waiting: deque[Any]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class UpwellProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with bodies out of the loop and bounded patience."""

    _head_timer: asyncio.TimerHandle | None = None
    _discard_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _upgrading = False  # the head just parsed offers an upgrade and is going to be parsed again
    _serving: Any = None  # the cycle of the request whose answer is being made, or was the last
    _refusal: tuple[int, str, str] | None = None  # of what came behind a request under way
    _loose = 0  # bytes since the last that belong to a head, or to a body's content
    _fields_size = 0  # bytes of the fields of a head, or of a trailer
    _skip = 0  # bytes of a body that nobody wants, still to come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if hasattr(transport, "max_size"):
            transport.max_size = 64 << 10  # heads and small bodies; the rest leaves the loop
        self._new_parser()
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm_head_timer()
        self._disarm_discard_timer()
        if self._under_way():  # uvicorn tells only the last request, which may wait for this one
            self._serving.disconnected = True
            self._serving.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        stopping.set()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
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
        self._loose += len(data)
        while data:
            data = self._parse(data)
        if self._loose > HEAD_LIMIT and not self.transport.is_closing():
            self._refuse(*_TOO_LARGE)

    def _parse(self, data: bytes) -> bytes:
        """Feed the parser; the bytes that are to be fed next."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            (consumed,) = upgrade.args
            return self._head_without_upgrade() + data[consumed:]
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(*(cause.answer if isinstance(cause, _Refused) else _MALFORMED))
        return b""

    def _head_without_upgrade(self) -> bytes:
        """The head that was just parsed, for a new parser, without its ``Upgrade``.

        A server may ignore that field (RFC 9110 §7.8), and this one must: Java's client offers
        h2c with every request. The parser cannot: it takes what follows such a head for another
        protocol and not for the request's body.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version()
        self._upgrading = False
        self._new_parser()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version.encode())]
        lines += [b"%s: %s" % field for field in self.headers if field[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        # Whether the connection stays open, the cycle knows of the head. The parser would let a
        # trailer decide, and drop the next request.
        self.parser.set_dangerous_leniencies(lenient_keep_alive=True)

    def on_message_begin(self) -> None:
        self._in_head = True
        self._loose = self._fields_size = 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields_size += len(name) + len(value)
        if self._fields_size > HEAD_LIMIT:
            raise _Refused(*_TOO_LARGE)
        if self._in_head:  # fields of a trailer must not count as the head's (RFC 9110 §6.5.1)
            super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        self._upgrading = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"
        if self._upgrading:
            return
        fault = fault_of(self.parser.get_method(), self.parser.get_http_version(), self.headers)
        if fault:
            raise _Refused(400, "MALFORMED_REQUEST", fault)
        if len(self.pipeline) == PIPELINED:
            raise _Refused(*_TOO_MANY)
        self._disarm_head_timer()
        self._in_head = False
        self._loose = self._fields_size = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._loose = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        self._loose = 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._body_over()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._serving = cycle

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

            try:
                await app(scope, receive, sending)
            except ConnectionGone:  # is no error of the application's, and has been logged
                cycle.disconnected = True
                self.transport.abort()

        super()._start_asgi_task(cycle, with_extensions)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing():
            self.flow.resume_reading()  # the last of those that waited waits no more
        if self._refusal and not self._under_way() and not self.transport.is_closing():
            self._refuse(*self._refusal)
        if not self.transport.is_closing() and (self._skip or self._unread()):
            self._disarm_discard_timer()
            self._discard_timer = self.loop.call_later(DISCARD_TIMEOUT, self.transport.abort)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer what never became a request, in the one error shape, and hang up.

        What did become one before it is answered first, and the rest is not read.
        """
        if self._under_way():
            if self._broken_behind(status):
                self._refusal = (status, code, message)
                self.flow.pause_reading()
                return
            if self._serving.response_started:
                self.transport.abort()  # inside that answer, ours would be taken for a part of it
                return
        trace, client = os.urandom(16).hex(), self.client[0] if self.client else ""
        _log.info("request refused", status=status, code=code, client=client, trace_id=trace)
        error = {"code": code, "message": message, "status": status, "detail": None}
        error |= {"errors": None, "meta": None, "trace_id": trace}
        body = json.dumps(error).encode()
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            "x-content-type-options: nosniff\r\ncache-control: no-store\r\n"
            f"x-trace-id: {trace}\r\nconnection: close\r\n"
        )
        head += "retry-after: 1\r\n\r\n" if status == 503 else "\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + body)
        self.transport.close()

    def _under_way(self) -> bool:
        return self._serving is not None and not self._serving.response_complete

    def _broken_behind(self, status: int) -> bool:
        """Whether what is refused came behind the request under way, whose answer is waited
        for. A head that is too large is not worth that."""
        if status == 431 or (self.cycle is self._serving and self.cycle.more_body):
            return False
        if self.pipeline and self.cycle.more_body:
            self.pipeline.popleft()  # its own body is broken: it gets this refusal as its answer
        return True

    # the body's way out of the loop

    def lend(self) -> Borrowed:
        """The socket is the caller's to read from until ``take_back``."""
        return Borrowed(self.transport)

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
        self._loose = 0
        self._new_parser()
        self.flow.resume_reading()

    async def _send_file(self, cycle: RequestResponseCycle, message: Any, send: Send) -> None:
        count = message["count"]
        await self._flushed(cycle)
        if cycle.disconnected:
            raise ConnectionGone
        if cycle.scope["method"] != "HEAD":
            await self._stream_file(message["file"], message["offset"], count)
            cycle.expected_content_length -= count
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": b"", "more_body": more})

    async def _flushed(self, cycle: RequestResponseCycle) -> None:
        """Wait until the loop has written all it was given."""
        if not cycle.disconnected:  # a transport that is gone refuses to be asked
            self.transport.set_write_buffer_limits(high=0)
        while not cycle.disconnected and self.transport.get_write_buffer_size():
            await self.flow.drain()

    async def _stream_file(self, fd: int, offset: int, count: int) -> None:
        borrowed = Borrowed(self.transport)
        sent, idle_since = 0, time.monotonic()

        def work() -> int:
            return borrowed.send_file(fd, offset + sent, count - sent)

        ready = True
        try:
            while sent < count:
                if ready:
                    sent += await borrowed.use(work, socket.SHUT_WR)
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > STALL_TIMEOUT:
                    raise ConnectionGone
                ready = not borrowed.starved or await borrowed.until_writable(TICK)
        finally:
            borrowed.close()

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
