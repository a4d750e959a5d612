"""The server under test, and a client that holds each of its answers to the contract."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import statistics
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import uvicorn
from pydantic import ByteSize

from upwell.app import asgi, build
from upwell.config import Settings
from upwell.http.server import UpwellProtocol
from upwell.model import Policy, Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from starlette.types import ASGIApp

    from upwell.app import Core

SECOND_POOL = "5d1f0a52-73c4-4d5e-9f4e-0d8f6a1c2b3d"
DIRECT_MAX = 1 << 20
_ERROR_KEYS = {"code", "message", "status", "detail", "errors", "meta", "trace_id"}


@dataclass
class Clock:
    """The present, moved by ``ahead``."""

    ahead: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


class LoopTransport(httpx2.BaseTransport):
    """A synchronous client's way to an ASGI application: the application has its own loop."""

    def __init__(self, app: ASGIApp, peer: str = "127.0.0.1") -> None:
        self._inner = httpx2.ASGITransport(app, client=(peer, 123))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        return asyncio.run_coroutine_threadsafe(self._ask(request), self._loop).result(60)

    async def _ask(self, request: httpx2.Request) -> httpx2.Response:
        request.read()
        asked = httpx2.Request(
            request.method, request.url, headers=request.headers, content=request.content
        )
        response = await self._inner.handle_async_request(asked)
        raw = httpx2.ByteStream(b"".join([piece async for piece in response.aiter_raw()]))
        return httpx2.Response(response.status_code, headers=response.headers, stream=raw)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class World:
    """The server under test, with two accounts that are strangers to each other."""

    core: Core
    clock: Clock
    app: ASGIApp
    url: str
    description: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict)

    def token(self, account: str, **options: Any) -> str:
        owner = self.core.accounts.find(account) or self.core.accounts.create(account)
        return self.core.accounts.issue(owner, "test", **options)


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None: ...


def settings_of(data: Path, **more: Any) -> Settings:
    known = {"direct_max_size": ByteSize(DIRECT_MAX), "account_open_uploads": 0}
    return Settings(data=data, **(known | more))


def add_second_pool(core: Core) -> None:
    now = datetime.now(UTC)
    policy = Policy(
        max_file_size=1000, accept_types=("image/*",), allow_encryption=False, public_usable=True
    )
    core.catalog.add_pool(Pool(SECOND_POOL, "pictures", policy, None, None, now, now))


@contextmanager
def serving(data: Path, **settings: Any) -> Iterator[World]:
    """A server of its own, with the accounts alice and bob, and the admin boss."""
    clock = Clock()
    core = build(settings_of(data, **settings), clock)
    if core.accounts.find("boss") is None:  # the folder is served for the first time
        add_second_pool(core)
        core.accounts.create("boss", admin=True)
    server = Server(
        uvicorn.Config(
            asgi(core),
            http=UpwellProtocol,
            port=0,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    description = httpx2.get(f"{url}/openapi.json", trust_env=False).json()
    made = World(core, clock, asgi(core), url, description)
    made.secrets = {name: made.token(name) for name in ("alice", "bob")}
    yield made
    server.should_exit = True
    thread.join()
    core.close()


class Api(httpx2.Client):
    """A client that holds every refusal to the one shape and to the description."""

    def __init__(self, world: World, transport: httpx2.BaseTransport | None, token: str) -> None:
        self.world = world
        self.plain_asgi = transport is not None
        super().__init__(
            base_url=world.url,
            transport=transport or httpx2.HTTPTransport(verify=False),  # CAs take 50 ms to load
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=30,
            event_hooks={"response": [self.check]},
            trust_env=False,
        )
        self.description = world.description

    def check(self, response: httpx2.Response) -> None:
        operation = self.operation(response.request)
        if operation is not None:
            assert str(response.status_code) in operation["responses"], response.request.url
        kind = response.headers.get("content-type", "")
        assert response.headers["x-content-type-options"] == "nosniff", response.request.url
        if kind.startswith("application/json"):
            assert response.headers["cache-control"] == "no-store", response.request.url
        page = kind.startswith("text/html")
        if response.status_code < 400 or response.request.method == "HEAD" or page:
            return
        response.read()
        error = error_of(response)
        if operation is not None:
            described = operation["responses"][str(response.status_code)]["description"]
            assert error["code"] in described.split(" · "), f"{response.request.url}: {described}"

    def operation(self, request: httpx2.Request) -> dict[str, Any] | None:
        """What the OpenAPI says about the route that serves a request."""
        found = None
        for path, operations in self.description["paths"].items():
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path))
            better = found is None or "{" not in path
            if better and re.fullmatch(pattern, request.url.path):
                found = operations.get(request.method.lower())
        return found

    def create(self, content: bytes, **fields: Any) -> Any:
        answer = self.post("/api/files/upload/create", json=described(content) | fields)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def chunk(self, task_id: str, index: int, data: bytes) -> httpx2.Response:
        path = f"/api/files/upload/chunk/{task_id}/{index}"
        return self.post(path, files={"chunk": ("blob", data)})

    def store(self, content: bytes, **fields: Any) -> Any:
        """Upload ``content`` by chunks; its CloudFile."""
        task = self.create(content, **fields)
        size = task["chunk_size"]
        for index in range(task["chunks_count"]):
            piece = content[index * size : (index + 1) * size]
            assert self.chunk(task["task_id"], index, piece).status_code == 200
        answer = self.post(f"/api/files/upload/complete/{task['task_id']}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def direct(self, content: bytes | None = None, name: str = "a.txt", **fields: Any) -> Any:
        content = unique() if content is None else content
        answer = self.post("/api/files/upload/direct", data=fields, files={"file": (name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()


def unique(size: int = 32) -> bytes:
    """Content that nobody has stored."""
    return os.urandom(16).hex().encode().ljust(size, b".")[:size]


def described(content: bytes) -> dict[str, Any]:
    return {
        "hash": hashlib.sha256(content).hexdigest(),
        "file_name": "a.txt",
        "file_size": len(content),
        "content_type": "text/plain",
    }


def same_time(act: Callable[[str], object], subjects: Sequence[str], rounds: int) -> bool:
    """Whether the act takes as long for the others as for the first of them.

    Interleaved, so that the machine's mood hits all; medians, so that outliers do not count. The
    tolerance is a tenth, and more than the noise between two halves of one kind. What differs
    does so every time; what another process does to the machine's caches does not: it is tried
    three times.
    """
    return any(_apart(act, subjects, rounds) <= 0 for _ in range(3))


def _apart(act: Callable[[str], object], subjects: Sequence[str], rounds: int) -> float:
    """By how many seconds one of them is beyond the tolerance."""
    times: dict[str, list[float]] = {each: [] for each in subjects}
    for _ in range(rounds):
        for subject, taken in times.items():
            began = time.perf_counter()
            act(subject)
            taken.append(time.perf_counter() - began)
    first, *others = times.values()
    usual = statistics.median(first)
    noise = abs(statistics.median(first[::2]) - statistics.median(first[1::2]))
    most = max(abs(statistics.median(taken) - usual) for taken in others)
    return most - 0.1 * usual - 2 * noise


def error_of(response: httpx2.Response) -> Any:
    """The error, held to the shape of contract 1.6."""
    assert response.headers["content-type"] == "application/json"
    error = response.json()
    assert set(error) == _ERROR_KEYS
    assert error["status"] == response.status_code != 422
    assert re.fullmatch("[A-Z_]+", error["code"])
    assert error["message"]
    assert error["trace_id"]
    assert response.headers.get("x-trace-id", error["trace_id"]) == error["trace_id"]
    assert (error["errors"] is None) or error["code"] == "VALIDATION_FAILED"
    assert response.status_code < 500 or error["code"] != "INTERNAL_ERROR", response.text
    return error


def refused(response: httpx2.Response, status: int, code: str) -> Any:
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    return error_of(response)
