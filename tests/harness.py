"""Real server processes under a test's thumb, and requests whose every byte is ours.

``Server`` runs ``upwell serve`` in a process group of its own on a data folder; ``kill`` is
``kill -9`` of the whole group. ``Wire`` is one connection; ``Api`` speaks the contract's
section 1 over fresh connections. Nothing here imports the product.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

T = TypeVar("T")

UPWELL = str(Path(sys.executable).with_name("upwell"))
WRAPPER = str(Path(__file__).with_name("survival") / "crashing.py")
START_SECONDS = 60.0
BOUNDARY = "----survival7MA4YWxkTrZu0gW"
_SERVES = re.compile(r" at http://[^\s:]+:(\d+)")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code; the one shape of the contract is checked on the way."""
        error = self.json()
        assert self.status >= 400, self
        assert error["status"] == self.status, self
        assert set(error) == {
            "code",
            "message",
            "status",
            "detail",
            "errors",
            "meta",
            "trace_id",
        }, self
        assert self.headers["content-type"].startswith("application/json"), self
        assert self.headers["x-content-type-options"] == "nosniff", self
        assert self.headers["cache-control"] == "no-store", self
        return str(error["code"])


class Wire:
    """One connection to a server."""

    def __init__(self, port: int, *, timeout: float = 20.0, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(timeout)
        try:
            self.sock.connect(("127.0.0.1", port))
        except OSError:
            self.sock.close()
            raise
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def try_send(self, data: bytes) -> bool:
        """Send, unless the server hung up meanwhile; whether it could."""
        try:
            self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def finish_sending(self) -> None:
        """Close our side only: the answer can still come."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with RST, as a killed client's machine does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def closed_within(self, seconds: float) -> bool:
        """Whether the server hangs up in that time; what it says before is dropped."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.sock.settimeout(left)
            try:
                if not self.sock.recv(65536):
                    return True
            except TimeoutError:
                return False
            except OSError:
                return True
        return False

    def line(self) -> bytes:
        """Up to and with the next LF."""
        while b"\n" not in self._held:
            self._more()
        line, _, self._held = self._held.partition(b"\n")
        return line + b"\n"

    def answer(self, *, bodiless: bool = False, interim: bool = False) -> Answer:
        """The next answer; interim ones (1xx) are passed over unless asked for."""
        while True:
            status, headers = self._head()
            if status >= 200 or interim:
                break
        if bodiless or status < 200 or status in (204, 304):
            return Answer(status, headers, b"")
        return Answer(status, headers, self._body(headers))

    def head(self) -> tuple[int, dict[str, str]]:
        """The next answer's head alone: its body is the caller's to read."""
        return self._head()

    def _head(self) -> tuple[int, dict[str, str]]:
        lines = [self.line().rstrip(b"\r\n")]
        while lines[-1]:
            lines.append(self.line().rstrip(b"\r\n"))
        version, status, *_ = lines[0].split(b" ", 2)
        assert version in (b"HTTP/1.1", b"HTTP/1.0"), lines[0]
        pairs = (line.decode("latin-1").split(":", 1) for line in lines[1:-1])
        return int(status), {name.lower(): value.strip() for name, value in pairs}

    def _body(self, headers: Mapping[str, str]) -> bytes:
        if headers.get("transfer-encoding") == "chunked":
            return self._chunked()
        if "content-length" in headers:
            return self._exactly(int(headers["content-length"]))
        with suppress(ConnectionError):
            while True:
                self._more()
        return self._held

    def _chunked(self) -> bytes:
        parts = []
        while size := int(self.line().strip(), 16):
            parts.append(self._exactly(size))
            self.line()
        self.line()
        return b"".join(parts)

    def _exactly(self, count: int) -> bytes:
        while len(self._held) < count:
            self._more()
        data, self._held = self._held[:count], self._held[count:]
        return data

    def _more(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._held += data


def form(data: bytes, *, boundary: str = BOUNDARY, head: str | None = None) -> bytes:
    """A multipart/form-data body with one file field ``chunk``."""
    disposition = 'Content-Disposition: form-data; name="chunk"; filename="blob"'
    head = head or f"{disposition}\r\nContent-Type: application/octet-stream"
    return f"--{boundary}\r\n{head}\r\n\r\n".encode() + data + f"\r\n--{boundary}--\r\n".encode()


def chunked(data: bytes, step: int = 50_000) -> bytes:
    """A body in chunked transfer encoding."""
    pieces = (data[at : at + step] for at in range(0, len(data), step))
    return b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in pieces) + b"0\r\n\r\n"


class Api:
    """The contract's section 1, one connection a call."""

    def __init__(self, port: int, token: str, *, timeout: float = 20.0) -> None:
        self.port = port
        self.token = token
        self.timeout = timeout

    def wire(self) -> Wire:
        return Wire(self.port, timeout=self.timeout)

    def head(self, method: str, path: str, headers: Mapping[str, str | int] | None = None) -> bytes:
        """The head of a request that carries the token."""
        lines = [f"{method} {path} HTTP/1.1", "Host: test", f"Authorization: Bearer {self.token}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str | int] | None = None,
    ) -> bytes:
        """A whole request."""
        more: dict[str, str | int] = dict(headers or {})
        if body is not None:
            more["Content-Length"] = len(body)
        return self.head(method, path, more) + (body or b"")

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str | int] | None = None,
    ) -> Answer:
        with self.wire() as wire:
            wire.try_send(self.request(method, path, body, headers))
            return wire.answer(bodiless=method == "HEAD")

    def post_json(self, path: str, value: Any) -> Answer:
        body = json.dumps(value).encode()
        return self.call("POST", path, body, {"Content-Type": "application/json"})

    def try_create(self, size: int, chunk_size: int, **more: Any) -> Answer:
        asked = {"file_name": "f.bin", "file_size": size, "chunk_size": chunk_size, **more}
        return self.post_json("/api/files/upload/create", asked)

    def create(self, size: int, chunk_size: int, **more: Any) -> str:
        """A new task's id."""
        answer = self.try_create(size, chunk_size, **more)
        assert answer.status == 200, answer
        made = answer.json()
        assert made["chunk_size"] == chunk_size, made
        assert made["chunks_count"] == -(-size // chunk_size), made
        return str(made["task_id"])

    @staticmethod
    def chunk_path(task: str, index: int) -> str:
        return f"/api/files/upload/chunk/{task}/{index}"

    def put(self, task: str, index: int, data: bytes) -> Answer:
        return self.call("PUT", self.chunk_path(task, index), data)

    def put_head(self, task: str, index: int, length: int) -> bytes:
        return self.head("PUT", self.chunk_path(task, index), {"Content-Length": length})

    def form(self, task: str, index: int, data: bytes) -> Answer:
        kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return self.call("POST", self.chunk_path(task, index), form(data), kind)

    def complete(self, task: str) -> Answer:
        return self.call("POST", f"/api/files/upload/complete/{task}", b"")

    def resume(self, task: str) -> dict[str, Any]:
        answer = self.call("GET", f"/api/files/upload/resume/{task}")
        assert answer.status == 200, answer
        figures: dict[str, Any] = answer.json()
        return figures

    def uploaded(self, task: str) -> list[int]:
        """The acknowledged chunks, checked against what is missing."""
        figures = self.resume(task)
        uploaded: list[int] = figures["uploaded_chunks"]
        assert sorted([*uploaded, *figures["missing_chunks"]]) == list(
            range(figures["chunks_count"])
        )
        return uploaded

    def download(self, file_id: str) -> bytes:
        answer = self.call("GET", f"/api/files/{file_id}")
        assert answer.status == 200, answer
        return answer.body

    def tasks(self, status: str = "in_progress") -> list[dict[str, Any]]:
        answer = self.call("GET", f"/api/files/upload/tasks?status={status}&take=100")
        assert answer.status == 200, answer
        tasks: list[dict[str, Any]] = answer.json()
        return tasks

    def files(self) -> list[dict[str, Any]]:
        answer = self.call("GET", "/api/files/me?take=100")
        assert answer.status == 200, answer
        files: list[dict[str, Any]] = answer.json()
        return files

    def finish(self, task: str, content: bytes, chunk_size: int) -> dict[str, Any]:
        """Send what is missing, complete, and compare what comes back."""
        for index in self.resume(task)["missing_chunks"]:
            answer = self.put(task, index, content[index * chunk_size : (index + 1) * chunk_size])
            assert answer.status == 200, answer
        answer = self.complete(task)
        assert answer.status == 200, answer
        file: dict[str, Any] = answer.json()
        assert file["size"] == len(content)
        assert self.download(file["id"]) == content
        return file


class Server:
    """``upwell serve`` on a data folder, in a process group of its own.

    ``point`` and ``constants`` need the wrapper ``survival/crashing.py``: the first names a
    call at which the process kills itself, the others are put into the product's modules.
    """

    def __init__(
        self,
        data: Path,
        *,
        workers: int = 1,
        point: str | None = None,
        constants: Mapping[str, float] | None = None,
        config: str | None = None,
        log: Path | None = None,
    ) -> None:
        self.data = data
        self.log_path = log or data.parent / f"{data.name}-{time.monotonic_ns()}.log"
        self._workers = workers
        self._point = point
        self._constants = constants
        self._config = config
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self, port: int = 0) -> Server:
        """On a port that the system chooses, or where its clients look for it."""
        assert self.process is None
        if self._config is not None:
            self.data.mkdir(parents=True, exist_ok=True)
            (self.data / "upwell.toml").write_text(self._config)
        serve = ["serve", "--data", str(self.data), "--port", str(port)]
        serve += ["--workers", str(self._workers)]
        wrapped = self._point or self._constants
        program = [sys.executable, WRAPPER] if wrapped else [UPWELL]
        began = len(self.log())
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*program, *serve, "--log-format", "json"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self._environment(),
            )
        self._wait_until_ready(began)
        return self

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("UPWELL_")}
        constants = " ".join(f"{name}={value}" for name, value in (self._constants or {}).items())
        more = {"SURVIVAL_POINT": self._point or "", "SURVIVAL_CONSTANTS": constants}
        return kept | more

    def _wait_until_ready(self, began: int) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            if self.port == 0:
                found = _SERVES.search(self.log()[began:])
                self.port = int(found[1]) if found else 0
            if self.port and self._is_ready():
                return
            time.sleep(0.05)
        self.kill()
        raise AssertionError(f"the server did not start:\n{self.log()}")

    def _is_ready(self) -> bool:
        try:
            with Wire(self.port, timeout=5) as wire:
                wire.send(b"GET /health/ready HTTP/1.1\r\nHost: test\r\n\r\n")
                return wire.answer().status == 200
        except OSError:
            return False

    def api(self, *, timeout: float = 20.0) -> Api:
        return Api(self.port, token_of(self.data), timeout=timeout)

    def kill(self) -> None:
        """kill -9 of every process of it."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)
        self.process, self.port = None, 0

    def terminate(self, seconds: float) -> int:
        """SIGTERM, and the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds)

    def wait(self, seconds: float) -> int:
        """The exit code of a process that is about to die."""
        assert self.process is not None
        return self.process.wait(seconds)

    def restart(self) -> Server:
        """kill -9, then a plain server on the same data folder."""
        self.kill()
        self._point = None
        return self.start()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of one kind."""
        lines = (line for line in self.log().splitlines() if line.startswith("{"))
        return [event for line in lines for event in _objects(line) if event.get("event") == name]

    def bugs(self) -> list[dict[str, Any]]:
        """What the server itself calls a bug (each is a 500)."""
        return self.events("bug")

    def pids(self) -> list[int]:
        """Every process of it."""
        assert self.process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == self.process.pid:
                    found.append(int(entry.name))
        return found

    def resident(self) -> int:
        """Resident bytes of all its processes."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                total += pages * os.sysconf("SC_PAGE_SIZE")
        return total


def _objects(line: str) -> Iterator[dict[str, Any]]:
    """The JSON objects of a line: several processes may have written to it at once."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(line):
        value, at = decoder.raw_decode(line, at)
        yield value


_tokens: dict[Path, str] = {}


def token_of(data: Path) -> str:
    """A token of the data folder's owner, made once by the command line."""
    if data not in _tokens:
        done = subprocess.run(
            [UPWELL, "token", "create", "--account", "owner", "--data", str(data)],
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
        _tokens[data] = done.stdout.strip()
    return _tokens[data]


@contextmanager
def servers(data: Path, count: int, **more: Any) -> Iterator[list[Server]]:
    """Independent server processes on one data folder."""
    made: list[Server] = []
    try:
        for number in range(count):
            log = data.parent / f"{data.name}-server{number}.log"
            made.append(Server(data, log=log, **more).start())
        yield made
    finally:
        for each in made:
            each.kill()


def together(works: Sequence[Callable[[], T]], *, seconds: float = 60.0) -> list[T]:
    """Run all at once, each in a thread, from one starting shot; their results in order."""
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []
    shot = threading.Barrier(len(works))

    def run(at: int) -> None:
        try:
            shot.wait(seconds)
            results[at] = works[at]()
        except BaseException as error:  # noqa: BLE001 - it is raised in the test
            errors.append(error)

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(len(works))]
    for each in threads:
        each.start()
    until = time.monotonic() + seconds
    for each in threads:
        each.join(max(0.0, until - time.monotonic()))
    stuck = sum(each.is_alive() for each in threads)
    assert not stuck, f"{stuck} of {len(threads)} did not end in {seconds} s"
    if errors:
        raise errors[0]
    return results


def eventually(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until it holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.02)
