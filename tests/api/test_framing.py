"""Where requests begin and end, however their bytes are cut into segments.

The protocol runs on a real socket with an application that answers what it understood of each
request. What it understands must not depend on the segments, nor on who reads the body.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import uvloop
from uvicorn.server import ServerState

from tests.harness import chunked
from upwell.http import heads
from upwell.http.channels import BodyChannel, Start
from upwell.http.server import PIPELINED, UpwellProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.types import Receive, Scope, Send

HOST = b"Host: a\r\n"
H2C = b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
INNER = b"x\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nX: y\r\n\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n%s" % (len(INNER), INNER)
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n" + chunked(INNER, 20)
TRAILER = (
    b"Authorization: Bearer t\r\nX-Forwarded-For: 203.0.113.9\r\nExpect: 100-continue\r\n"
    b"Upgrade: h2c\r\nConnection: upgrade, close\r\nHost: b\r\n"
)
GET = b"GET /next HTTP/1.1\r\n" + HOST + b"\r\n"

# Bytes, and the paths and bodies of the requests in them.
STREAMS: dict[str, tuple[bytes, list[tuple[str, bytes]]]] = {
    "length": (b"PUT /a HTTP/1.1\r\n" + HOST + LENGTH + GET, [("/a", INNER), ("/next", b"")]),
    "chunked": (b"PUT /a HTTP/1.1\r\n" + HOST + CHUNKED + GET, [("/a", INNER), ("/next", b"")]),
    "upgrade": (
        (b"PUT /a HTTP/1.1\r\n" + HOST + H2C + LENGTH) * 2 + GET,
        [("/a", INNER), ("/a", INNER), ("/next", b"")],
    ),
    "upgrade, chunked, behind": (
        GET + b"POST /a?b=c HTTP/1.1\r\n" + H2C + HOST + CHUNKED + GET,
        [("/next", b""), ("/a", INNER), ("/next", b"")],
    ),
    "upgrade without a body": (
        b"GET /a HTTP/1.1\r\n" + HOST + b"upgrade: websocket\r\nConnection: upgrade\r\n\r\n" + GET,
        [("/a", b""), ("/next", b"")],
    ),
    "trailer": (
        b"PUT /a HTTP/1.1\r\n" + HOST + CHUNKED[:-2] + TRAILER + b"\r\n" + GET,
        [("/a", INNER), ("/next", b"")],
    ),
    "refused": (GET + b"PUT /a HTTP/1.1\r\n" + HOST + HOST + LENGTH + GET, [("/next", b"")]),
    "broken body": (
        GET * 2 + b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n",
        [("/next", b"")] * 2,
    ),
}
_TRACE = re.compile(rb"[0-9a-f]{32}")


class _Sink:
    """Takes a body from a channel."""

    def __init__(self) -> None:
        self.body = b""

    def begin(self) -> Start:
        return Start.NOW

    def room(self) -> int:
        return 1 << 20

    def take(self, data: memoryview) -> None:
        self.body += data


async def _later() -> None:
    """Nothing else uses the sink."""


async def _by_channel(channel: BodyChannel) -> bytes:
    sink = _Sink()
    await channel.receive(sink, lambda _: None, _later)
    return sink.body


async def _by_receive(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError
        body += message["body"]
        more = message["more_body"]
    return body


class _Mirror:
    """An application that answers what it understood."""

    def __init__(self, *, channel: bool) -> None:
        self._channel = channel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        channel = scope["extensions"].get("upwell.body")
        try:
            by_channel = self._channel and channel is not None
            body = await (_by_channel(channel) if by_channel else _by_receive(receive))
        except ConnectionError:
            return  # the rest is malformed, and answered as that
        fields = [(name.decode(), value.decode()) for name, value in scope["headers"]]
        understood = [scope["method"], scope["path"], scope["query_string"].decode(), fields]
        answer = json.dumps([*understood, body.decode()]).encode()
        length = (b"content-length", str(len(answer)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [length]})
        await send({"type": "http.response.body", "body": answer})


class _Line:
    """One connection to the protocol, fed segment by segment."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._config = config
        self._seen = asyncio.Event()

    async def answers(self, segments: Sequence[bytes], expected: int = 0) -> bytes:
        """What comes back: ``expected`` bytes, or all until nothing more comes."""
        loop, line = asyncio.get_running_loop(), self
        ours, theirs = socket.socketpair()

        class Protocol(UpwellProtocol):
            def on_message_begin(self) -> None:
                super().on_message_begin()
                self.scope["state"]["line"] = self

            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                line._seen.set()

        state = ServerState()
        with ours:
            ours.setblocking(False)
            transport, protocol = await loop.connect_accepted_socket(
                lambda: Protocol(self._config, state, {}), theirs
            )
            for segment in segments:
                self._seen.clear()
                if transport.is_closing():
                    break
                await loop.sock_sendall(ours, segment)
                await self._read(protocol)
            answer = await self._collect(ours, expected)
            transport.close()
            if state.tasks:
                _, stuck = await asyncio.wait(state.tasks, timeout=5)
                assert not stuck, "a request's body never ended"
        return _TRACE.sub(b"?", answer)

    async def _read(self, protocol: UpwellProtocol) -> None:
        """Wait until the segment was read, or is somebody else's than the loop's to read."""
        while not (self._seen.is_set() or _paused_or_closed(protocol)):  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def _collect(self, ours: socket.socket, expected: int) -> bytes:
        loop, answer = asyncio.get_running_loop(), b""
        while not expected or len(answer) < expected:
            try:
                async with asyncio.timeout(5 if expected else 0.3):
                    piece = await loop.sock_recv(ours, 1 << 16)
            except (TimeoutError, ConnectionError):
                break
            if not piece:
                break
            answer += piece
        return answer


def _paused_or_closed(protocol: UpwellProtocol) -> bool:
    return protocol.flow.read_paused or protocol.transport.is_closing()


@pytest.fixture(params=["receive", "channel"])
def config(request: pytest.FixtureRequest) -> uvicorn.Config:
    app = _Mirror(channel=request.param == "channel")
    made = uvicorn.Config(app, log_config=None, ws="none", lifespan="off")
    made.load()
    return made


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as made:
        yield made


def _bodies(answers: bytes) -> list[Any]:
    found = []
    while answers:
        head, _, rest = answers.partition(b"\r\n\r\n")
        (length,) = re.findall(rb"content-length: (\d+)", head)
        found.append((head, json.loads(rest[: int(length)])))
        answers = rest[int(length) :]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMS)
def test_no_segment_boundary_changes_what_is_understood(
    config: uvicorn.Config, runner: asyncio.Runner, name: str
) -> None:
    stream, requests = STREAMS[name]
    whole = runner.run(_Line(config).answers([stream]))
    understood = _bodies(whole)
    answered = understood[: len(requests)]
    assert [(body[1], body[4].encode()) for _, body in answered] == requests
    for _, (_, _, _, fields, _) in answered:
        told = {key for key, _ in fields}
        assert not told & {"authorization", "x-forwarded-for", "expect", "upgrade"}
        assert [value for key, value in fields if key == "host"] == ["a"]
    refused = [body["code"] for _, body in understood[len(requests) :]]
    assert refused == (["MALFORMED_REQUEST"] if name in ("refused", "broken body") else [])
    wrong = [
        at
        for at in range(1, len(stream))
        if runner.run(_Line(config).answers([stream[:at], stream[at:]], len(whole))) != whole
    ]
    assert wrong == []
    bytewise = [stream[at : at + 1] for at in range(len(stream))]
    assert runner.run(_Line(config).answers(bytewise, len(whole))) == whole


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("GET / HTTP/1.1", ""),
        ("GET / HTTP/1.1", "Host: a\r\nHost: a\r\n"),
        ("GET / HTTP/1.0", "Host: a\r\nHost: b\r\n"),
        ("GET / HTTP/1.1", "Host: \r\n"),
        ("GET / HTTP/1.1", "Host: a, b\r\n"),
        ("GET / HTTP/1.1", "Host: user@a\r\n"),
        ("GET / HTTP/1.1", "Host: a/b\r\n"),
        ("GET / HTTP/2.0", "Host: a\r\n"),
        ("CONNECT a:443 HTTP/1.1", "Host: a:443\r\n"),
        ("PUT / HTTP/1.0", "Transfer-Encoding: chunked\r\n"),
        ("PUT / HTTP/1.1", "Host: a\r\nTransfer-Encoding: gzip, chunked\r\n"),
        ("PUT / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked, chunked\r\n"),
        ("PUT / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding:\r\n"),
        ("PUT / HTTP/1.1", "Host: a\r\nTransfer-Encoding: identity\r\n"),
        ("PUT / HTTP/1.1", "Host: a\r\nTransfer-Encoding: chunked;q=1\r\n"),
    ],
)
def test_a_head_that_two_servers_may_read_differently_is_refused(
    config: uvicorn.Config, runner: asyncio.Runner, line: str, fields: str
) -> None:
    sent = f"{line}\r\n{fields}\r\n0\r\n\r\n".encode() + GET
    ((head, error),) = _bodies(runner.run(_Line(config).answers([sent])))
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in head
    assert b"nosniff" in head
    assert error["code"] == "MALFORMED_REQUEST"


@pytest.mark.parametrize(
    "host",
    ["a", "A.example:8000", "127.0.0.1:1", "[::1]:80", "my_service", "xn--bcher-kva.example"],
)
def test_a_host_as_clients_send_it(host: str) -> None:
    assert heads.fault_of(b"GET", "1.1", [(b"host", host.encode())]) is None
    assert heads.fault_of(b"GET", "1.0", []) is None


def test_a_trailer_has_the_bounds_of_a_head(config: uvicorn.Config, runner: asyncio.Runner) -> None:
    begin = b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
    for trailer in (b"X: " + b"a" * 60_000, b"X: y\r\n" * 10_000):
        answer = runner.run(_Line(config).answers([begin, trailer, trailer]))
        assert answer.startswith(b"HTTP/1.1 431 ")


async def _waits(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers requests for ``/next``; others last as long as the client, and send a file then."""
    await receive()
    if scope["path"] != "/next":
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.zerocopysend", "file": -1, "offset": 0, "count": 1})
        return
    flow, requests = scope["state"]["line"].flow, scope["state"]["line"].pipeline
    answer = b"%d %d" % (flow.read_paused, len(requests))
    length = (b"content-length", b"%d" % len(answer))
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def waiting() -> uvicorn.Config:
    made = uvicorn.Config(_waits, log_config=None, ws="none", lifespan="off")
    made.load()
    return made


def test_nothing_is_read_while_requests_wait(
    waiting: uvicorn.Config, runner: asyncio.Runner
) -> None:
    """Otherwise each answer would let in a buffer full of requests, all of them in memory."""
    answers = runner.run(_Line(waiting).answers([GET * 3]))
    assert re.findall(rb"\r\n\r\n(\d \d)", answers) == [b"1 2", b"1 1", b"0 0"]
    answers = runner.run(_Line(waiting).answers([GET * (PIPELINED + 50)]))
    assert answers.count(b"HTTP/1.1 200 ") == 1 + PIPELINED
    head, _, body = answers.rpartition(b"\r\n\r\n")
    assert json.loads(body)["code"] == "SERVER_BUSY"
    assert head.endswith(b"\r\nretry-after: 1")


@pytest.mark.parametrize("behind", [[], [GET]], ids=["alone", "others wait"])
def test_a_hang_up_ends_a_request_without_an_error(
    waiting: uvicorn.Config,
    runner: asyncio.Runner,
    behind: list[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    stream = b"GET /stream HTTP/1.1\r\n" + HOST + b"\r\n"
    assert runner.run(_Line(waiting).answers([stream, *behind])) == b""
    assert not caplog.records
