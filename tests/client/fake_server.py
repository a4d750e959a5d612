"""A small server that speaks the contract's calls and can be told to misbehave."""

from __future__ import annotations

import json
import re
import threading
from base64 import b64decode
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import new as new_hash
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

TOKEN = "upw_correct-horse-battery"
DEFAULT_POOL = "00000000-0000-4000-8000-000000000001"
FIXED = frozenset({"hash", "file_size", "chunk_size", "encrypt_password"})
ALGORITHMS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests whose ``METHOD path`` matches.

    ``kind``: ``answer`` (with ``status``), ``reset`` (in the middle of the body), ``lose`` (done,
    but the answer is lost), ``cut`` (the answer's body ends after ``after`` bytes), ``corrupt``
    (the first byte of the answer's body is wrong), ``flip`` (the chunk is stored wrongly).
    """

    match: str
    kind: str
    times: int = 1
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    after: int = 0


@dataclass
class Stored:
    id: str
    name: str
    content: bytes
    hash: str
    mime_type: str = "application/octet-stream"
    fields: dict[str, Any] = field(default_factory=dict)
    password: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "size": len(self.content),
            "hash": self.hash,
            "mime_type": self.mime_type,
            "is_encrypted": self.password is not None,
            "created_at": "2026-11-23T04:05:06Z",
        } | self.fields


@dataclass
class Task:
    id: str
    request: dict[str, Any]
    chunk_size: int
    chunks: dict[int, bytes] = field(default_factory=dict)
    status: str = "in_progress"
    file: Stored | None = None

    @property
    def size(self) -> int:
        return int(self.request["file_size"])

    @property
    def count(self) -> int:
        return -(-self.size // self.chunk_size)

    @property
    def missing(self) -> list[int]:
        return [index for index in range(self.count) if index not in self.chunks]

    def as_json(self) -> dict[str, Any]:
        return {
            "task_id": self.id,
            "file_name": self.request["file_name"],
            "file_size": self.size,
            "content_type": self.request.get("content_type", "application/octet-stream"),
            "pool_id": self.request.get("pool_id", DEFAULT_POOL),
            "bundle_id": self.request.get("bundle_id"),
            "expired_at": self.request.get("expired_at"),
            "status": self.status,
            "chunk_size": self.chunk_size,
            "chunks_count": self.count,
            "uploaded_chunks": sorted(self.chunks),
            "missing_chunks": self.missing,
            "progress": 100.0 * len(self.chunks) / max(1, self.count),
            "expires_at": "2030-01-01T00:00:00Z",
        }


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str = "No.", **meta: object) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"code": code, "message": message, "status": status, "meta": meta}


class FakeServer:
    """Serves on a free port of the loopback while its ``with`` block lasts."""

    def __init__(self, *, max_chunk: int = 1 << 40) -> None:
        self.files: dict[str, Stored] = {}
        self.tasks: dict[str, Task] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.delay = 0.0
        self.refuse: dict[str, str] = {}  # file name of a batch: the code it is refused with
        self.spoil: set[str] = set()  # names of those that are stored wrongly
        self.max_chunk = max_chunk
        self.on_chunk: Callable[[int], None] = lambda _: None
        self.lock = threading.RLock()
        self.chunk_counts: Counter[int] = Counter()
        self.busiest = 0
        self.busy = 0
        self._numbers = 0
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = _Quiet(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        assert self._server
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def fail(self, match: str, kind: str, **options: Any) -> None:
        self.faults.append(Fault(match, kind, **options))

    def add(self, content: bytes, name: str = "file.bin", **fields: Any) -> Stored:
        digest = fields.pop("hash", sha256(content).hexdigest())
        stored = Stored(self.number("f"), name, content, digest, fields=fields)
        self.files[stored.id] = stored
        return stored

    def number(self, prefix: str) -> str:
        with self.lock:
            self._numbers += 1
            return f"{prefix}{self._numbers}"

    def count(self, match: str) -> int:
        return sum(bool(re.search(match, request)) for request in self.requests)

    def fault_for(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and re.search(fault.match, request):
                    fault.times -= 1
                    return fault
        return None

    def create(self, request: dict[str, Any]) -> dict[str, Any]:
        declared = request.get("hash")
        plain = "encrypt_password" not in request
        for stored in self.files.values():
            if declared and plain and (stored.hash, stored.password) == (declared, None):
                return {"file_exists": True, "file": stored.as_json()}
        for task in self.tasks.values():
            if declared and task.status == "in_progress" and task.request == request:
                return self._created(task)
        size = min(request.get("chunk_size") or 5 * 1024 * 1024, self.max_chunk)
        task = Task(self.number("t"), request, size)
        self.tasks[task.id] = task
        return self._created(task)

    def _created(self, task: Task) -> dict[str, Any]:
        return {
            "file_exists": False,
            "task_id": task.id,
            "chunk_size": task.chunk_size,
            "chunks_count": task.count,
        }

    def batch(self, items: list[dict[str, Any]], content: bytes | None) -> list[dict[str, Any]]:
        results, start = [], 0
        for item in items:
            here = [each for each in self.files.values() if each.hash == item.get("hash")]
            stored = here[0] if here else None
            name, error = item["file_name"], None
            piece = (content or b"")[start : start + item["file_size"]]
            start += len(piece)
            if name in self.refuse:
                error = {"code": self.refuse[name], "message": "No.", "status": 403}
            elif content is not None:
                stored = stored or self.add(b"spoilt" if name in self.spoil else piece, name)
            told = stored.as_json() if stored and not error else None
            results.append({"file_exists": bool(here), "file": told, "error": error})
        return results

    @contextmanager
    def counted(self) -> Iterator[None]:
        with self.lock:
            self.busy += 1
            self.busiest = max(self.busiest, self.busy)
        try:
            yield
        finally:
            with self.lock:
                self.busy -= 1

    def task(self, identifier: str) -> Task:
        task = self.tasks.get(identifier)
        if task is None or task.status == "cancelled":
            raise Refused(404, "TASK_NOT_FOUND", "There is no such task.")
        return task

    def complete(self, identifier: str) -> dict[str, Any]:
        task = self.task(identifier)
        if task.file and task.file.id not in self.files:
            raise Refused(404, "TASK_NOT_FOUND", "Its file was deleted.")
        if task.file:
            return task.file.as_json()
        if task.missing:
            raise Refused(400, "CHUNKS_MISSING", missing_chunks=task.missing)
        content = b"".join(task.chunks[index] for index in range(task.count))
        declared = task.request.get("hash")
        if declared and new_hash(ALGORITHMS[len(declared)], content).hexdigest() != declared:
            raise Refused(400, "HASH_MISMATCH", "The content differs from its hash.")
        task.file = self.add(content, task.request["file_name"])
        task.file.mime_type = task.request.get("content_type", "application/octet-stream")
        task.file.password = task.request.get("encrypt_password")
        task.status = "completed"
        return task.file.as_json()


def _parts(body: bytes) -> tuple[bytes, bytes | None]:
    """The contents of a batch's two fields."""
    boundary = b"\r\n" + body.partition(b"\r\n")[0]
    parts = (b"\r\n" + body).split(boundary)[1:-1]
    found = [part.partition(b"\r\n\r\n")[2] for part in parts]
    return found[0], found[1] if len(found) > 1 else None


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms
    timeout = 30

    def log_message(self, *args: object) -> None:
        """Silent."""

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _serve(self) -> None:
        path = urlsplit(self.path).path.removeprefix("/api/files")
        summary = f"{self.command} {path}"
        fault = self.fake.fault_for(summary)
        self._fault = fault
        length = int(self.headers.get("Content-Length") or 0)
        with self.fake.lock:
            self.fake.requests.append(summary)
            self.fake.headers.append(dict(self.headers))
        if fault and fault.kind == "reset":
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        body = self.rfile.read(length)
        if fault and fault.kind == "answer":
            code = {"code": f"FAKE_{fault.status}", "message": "As told.", "status": fault.status}
            self._answer(fault.status, json.dumps(code | fault.body).encode(), fault.headers)
            return
        self._route(path, body)

    def _route(self, path: str, body: bytes) -> None:
        try:
            with self.fake.counted():
                self._dispatch(path, body)
        except Refused as refusal:
            self._answer(refusal.status, json.dumps(refusal.body).encode(), {})

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def _dispatch(self, path: str, body: bytes) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "TOKEN_INVALID", "The token is not valid.")
        for pattern, method in ROUTES:
            match = re.fullmatch(pattern, f"{self.command} {path}")
            if match:
                method(self, body, *match.groups())
                return
        raise Refused(404, "ROUTE_NOT_FOUND")

    def _create(self, body: bytes) -> None:
        with self.fake.lock:
            self._json(self.fake.create(json.loads(body)))

    def _batch(self, body: bytes) -> None:
        items, content = _parts(body)
        with self.fake.lock:
            self._json({"results": self.fake.batch(json.loads(items), content)})

    def _chunk(self, body: bytes, identifier: str, number: str) -> None:
        if self.fake.delay:
            threading.Event().wait(self.fake.delay)
        index = int(number)
        if self._fault and self._fault.kind == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        with self.fake.lock:
            task = self.fake.task(identifier)
            expected = min(task.chunk_size, task.size - index * task.chunk_size)
            if len(body) != expected:
                raise Refused(400, "CHUNK_SIZE_MISMATCH")
            task.chunks[index] = body
            self.fake.chunk_counts[index] += 1
        self.fake.on_chunk(index)
        self._answer(200, b"", {})

    def _complete(self, _: bytes, identifier: str) -> None:
        with self.fake.lock:
            self._json(self.fake.complete(identifier))

    def _resume(self, _: bytes, identifier: str) -> None:
        self._json(self.fake.task(identifier).as_json())

    def _resume_with(self, body: bytes, identifier: str) -> None:
        with self.fake.lock:
            task = self.fake.task(identifier)
            if task.status != "in_progress":
                raise Refused(409, "TASK_CLOSED")
            options = json.loads(body)
            if options.get("pool_id") != task.request.get("pool_id"):
                raise Refused(400, "VALIDATION_FAILED", "pool_id cannot change.")
            kept = {key: value for key, value in task.request.items() if key in FIXED}
            task.request = kept | options
            self._json(task.as_json())

    def _cancel(self, _: bytes, identifier: str) -> None:
        self.fake.task(identifier).status = "cancelled"
        self._answer(200, b"", {})

    def _tasks(self, _: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        wanted = query.get("status", [""])[0]
        self._list(
            [task.as_json() for task in self.fake.tasks.values() if wanted in ("", task.status)]
        )

    def _files(self, _: bytes) -> None:
        self._list([stored.as_json() for stored in self.fake.files.values()])

    def _list(self, items: list[dict[str, Any]]) -> None:
        query = parse_qs(urlsplit(self.path).query)
        offset, take = int(query["offset"][0]), int(query["take"][0])
        offset += int(query.get("after", ["0"])[0])
        body = json.dumps(items[offset : offset + take]).encode()
        more = {"X-Next-Cursor": str(offset + take)} if offset + take < len(items) else {}
        self._answer(200, body, {"X-Total": str(len(items))} | more)

    def _stored(self, identifier: str) -> Stored:
        stored = self.fake.files.get(identifier)
        if stored is None:
            raise Refused(404, "FILE_NOT_FOUND", "There is no such file.")
        return stored

    def _info(self, _: bytes, identifier: str) -> None:
        self._json(self._stored(identifier).as_json())

    def _delete(self, _: bytes, identifier: str) -> None:
        del self.fake.files[self._stored(identifier).id]
        self._answer(200, b"", {})

    def _content(self, _: bytes, identifier: str) -> None:
        stored = self._stored(identifier)
        told = b64decode(self.headers.get("X-Encrypt-Password-Base64", "")).decode()
        if stored.password not in (None, told):
            raise Refused(403, "PASSWORD_WRONG", "That is not its password.")
        etag = f'"{stored.hash}"'
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not wanted or self.headers.get("If-Range", etag) != etag:
            self._answer(200, stored.content, {"ETag": etag})
            return
        start, total = int(wanted[1]), len(stored.content)
        if start >= total:
            raise Refused(416, "RANGE_NOT_SATISFIABLE")
        part = f"bytes {start}-{total - 1}/{total}"
        self._answer(206, stored.content[start:], {"ETag": etag, "Content-Range": part})

    def _json(self, answer: dict[str, Any]) -> None:
        self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        kind = self._fault.kind if self._fault else ""
        if kind == "lose":
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        if kind == "cut" and self._fault:
            body = body[: self._fault.after]
            self.close_connection = True
        self.wfile.write(body)
        self.wfile.flush()

    _fault: Fault | None = None


ROUTES: tuple[tuple[str, Callable[..., None]], ...] = (
    (r"POST /upload/create", _Handler._create),
    (r"POST /upload/batch", _Handler._batch),
    (r"PUT /upload/chunk/(\w+)/(\d+)", _Handler._chunk),
    (r"POST /upload/complete/(\w+)", _Handler._complete),
    (r"GET /upload/resume/(\w+)", _Handler._resume),
    (r"PUT /upload/resume/(\w+)", _Handler._resume_with),
    (r"GET /upload/tasks", _Handler._tasks),
    (r"DELETE /upload/(\w+)", _Handler._cancel),
    (r"GET /me", _Handler._files),
    (r"GET /(\w+)/info", _Handler._info),
    (r"DELETE /(\w+)", _Handler._delete),
    (r"GET /(\w+)", _Handler._content),
)
