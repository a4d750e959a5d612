"""The calls of an Upwell server's API, typed; every one is retried by one policy."""

from __future__ import annotations

import json
import re
import secrets
import ssl
from base64 import b64encode
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from importlib.metadata import version
from socket import SHUT_RDWR
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2

from upwell.client.errors import (
    ApiError,
    CertificateRejected,
    ClientError,
    ConnectionFailed,
    IdentifierInvalid,
    Interrupted,
    Refusal,
    UnexpectedAnswer,
)
from upwell.client.model import Batched, CloudFile, Holdings, Move, Page, Pool, UploadTask
from upwell.client.pace import Pace
from upwell.client.retry import Retry
from upwell.client.stop import Stop
from upwell.client.units import end_fields

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from upwell.client.settings import Settings

T = TypeVar("T")
Buffer = bytes | bytearray

API = "/api"
FILES = "/api/files"
# The body of a chunk leaves in slices: progress is smooth and a stop is noticed on a slow line.
SLICE = 256 * 1024
ANSWER_SECONDS = 60.0
# The server may still be hashing the end of a large file.
COMPLETE_SECONDS = 600.0
# A server that is not there is noticed at once; over a bad network, connecting may take longer.
CONNECT_SECONDS, MOST_CONNECT_SECONDS = 1.5, 12.0
_IDENTIFIER = re.compile(r"[A-Za-z0-9_-]{1,128}")
NOT_FOUND = 404
PARTIAL_CONTENT = 206


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """What a create asks for.

    ``size`` and ``chunk_size`` are in bytes; ``hash`` is the SHA-256 in hex, ``None`` when the
    file is to be read only once; ``expires_at`` carries its time zone, ``expires_in`` is counted by
    the server's clock. With ``password``, a secret that is kept out of ``repr``, the server stores
    it encrypted.
    """

    name: str
    size: int
    hash: str | None = None
    content_type: str | None = None
    pool_id: str | None = None
    bundle_id: str | None = None
    expires_at: datetime | None = None
    expires_in: timedelta | None = None
    chunk_size: int | None = None
    password: str | None = field(default=None, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The request's body; absent keys are left out."""
        fields = {
            "hash": self.hash,
            "file_size": self.size,
            "chunk_size": self.chunk_size,
            "encrypt_password": self.password,
        }
        given = {key: value for key, value in fields.items() if value is not None}
        return given | self.options_json()

    def options_json(self) -> dict[str, Any]:
        """The part of the request that may still change while the upload is under way."""
        fields = {
            "file_name": self.name,
            "content_type": self.content_type,
            "pool_id": self.pool_id,
            "bundle_id": self.bundle_id,
        } | end_fields(self.expires_at, self.expires_in)
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes on their way: from ``start`` on, of a file with this ``etag``.

    ``start`` is 0 when the server sends the whole file instead of the range that was asked for;
    ``size`` is that of the whole, in bytes, when the server tells.
    """

    start: int
    etag: str | None
    chunks: Iterator[bytes]
    size: int | None = None


class _Form:
    """The body of a batch: the items, then all contents one after the other."""

    def __init__(self, items: bytes, contents: Sequence[Buffer] | None) -> None:
        boundary = secrets.token_hex(16).encode()
        head = b'--%b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n'
        parts: list[Buffer] = [head % (boundary, b"items", b""), items]
        if contents is not None:
            parts += [b"\r\n", head % (boundary, b"content", b'; filename="content"')]
            parts += contents
        self.body = b"".join([*parts, b"\r\n--%b--\r\n" % boundary])
        kind = f"multipart/form-data; boundary={boundary.decode()}"
        self.headers = {"Content-Type": kind}


class Calls:
    """The calls of one Upwell server, a method each; safe to use from several threads.

    :class:`upwell.Client` is made of them. ``connections`` bounds how many requests with content
    are on their way at once; ``pace`` decides how many of those it takes.

    Every method raises :class:`ApiError` when the server refuses, :class:`ConnectionFailed` when
    it cannot be reached for longer than ``retry`` has patience, :class:`UnexpectedAnswer` when
    what answers is not Upwell.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        connections: int = 4,
        retry: Retry | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.server = server.rstrip("/")
        self.connections = connections
        self.retry = retry or Retry()
        self.pace = Pace(connections)
        self.stop = Stop()
        self._reach = _Reach()
        headers = {"User-Agent": f"upwell/{version('upwell')}", "Accept": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(
            headers=headers,
            limits=httpx2.Limits(max_connections=connections + 1, keepalive_expiry=30.0),
            transport=transport,
            verify=_trusted_authorities(),
        )

    @classmethod
    def of(cls, settings: Settings, retry: Retry | None = None) -> Self:
        """A client with these settings."""
        return cls(settings.server, settings.token, connections=settings.connections, retry=retry)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def until(self, stop: Stop) -> Self:
        """The same connections and patience, for calls that end once ``stop`` is set."""
        same = copy(self)
        same.stop = stop
        return same

    def create_upload(self, new: NewFile) -> CloudFile | UploadTask:
        """Start an upload; a :class:`CloudFile` when the account already holds the content."""
        answer = self._call("POST", "/upload/create", json=new.as_json())
        if answer.get("file_exists") is True:
            return CloudFile.of(answer.get("file"))
        return UploadTask.created(answer, new.name, new.size)

    def put_chunk(
        self,
        task_id: str,
        index: int,
        data: memoryview,
        *,
        sent: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Send one chunk; once this returns it survives a crash of the server.

        ``sent`` is told how many bytes left, and a negative number when they must leave again.
        """
        sent = sent or (lambda _: None)
        stop = stop or self.stop
        path = f"/upload/chunk/{_segment(task_id)}/{index}"

        def attempt() -> None:
            with self.pace.request(len(data), stop):
                self._attempt_chunk(path, data, sent, stop)

        self.retry.call(attempt, stop)

    def send_batch(
        self,
        files: Sequence[NewFile],
        contents: Sequence[Buffer] | None,
    ) -> list[Batched]:
        """Have small files stored in one request, each for itself. Without ``contents``, nothing
        is stored: the answer tells which of them the account holds already.
        """
        items = json.dumps([file.as_json() for file in files], ensure_ascii=False).encode()
        form = _Form(items, contents)
        size = sum(map(len, contents or ()))

        def attempt() -> object:
            with self.pace.request(size, self.stop):
                path, headers = "/upload/batch", form.headers
                return _json(self._send("POST", path, content=form.body, headers=headers))

        return Batched.several(self.retry.call(attempt, self.stop), len(files))

    def complete(self, task_id: str) -> CloudFile:
        """Finish an upload; asking again gives the same file."""
        path = f"/upload/complete/{_segment(task_id)}"
        return CloudFile.of(self._call("POST", path, seconds=COMPLETE_SECONDS))

    def resume(self, task_id: str) -> UploadTask:
        """What the server has of an upload and what is missing."""
        return UploadTask.of(self._call("GET", f"/upload/resume/{_segment(task_id)}"))

    def resume_with(self, task_id: str, new: NewFile) -> UploadTask:
        """Continue an upload with the options of ``new`` in place of those it began with."""
        path = f"/upload/resume/{_segment(task_id)}"
        return UploadTask.of(self._call("PUT", path, json=new.options_json()))

    def cancel(self, task_id: str) -> None:
        """Give an upload up; the server frees its bytes."""
        self._delete(f"/upload/{_segment(task_id)}")

    def tasks(
        self,
        *,
        status: str | None = None,
        offset: int = 0,
        take: int = 50,
        after: str | None = None,
    ) -> Page[UploadTask]:
        """The caller's uploads, newest first; ``status`` is for example ``in_progress``."""
        path = "/upload/tasks"
        return self._page(path, UploadTask.of, status=status, offset=offset, take=take, after=after)

    def files(
        self, *, offset: int = 0, take: int = 50, after: str | None = None
    ) -> Page[CloudFile]:
        """The caller's files, newest first."""
        return self._page("/me", CloudFile.of, offset=offset, take=take, after=after)

    def info(self, file_id: str) -> CloudFile:
        """What the server knows about a file."""
        return CloudFile.of(self._call("GET", f"/{_segment(file_id)}/info"))

    def delete(self, file_id: str) -> None:
        """Delete a file."""
        self._delete(f"/{_segment(file_id)}")

    def pools(self) -> list[Pool]:
        """The pools that the caller may use, oldest first."""
        return [Pool.of(each) for each in self._list("/pools", root=API)]

    def holdings(self) -> Holdings:
        """What the caller holds, and may hold."""
        usage = self._call("GET", "/billing/usage", root=API)
        return Holdings.of(usage, self._call("GET", "/billing/quota", root=API))

    def move(self, file_id: str, pool_id: str) -> Move:
        """Have a file's bytes moved to another pool; asking again is no second move."""
        body = {"pool_id": pool_id}
        return Move.of(self._call("POST", f"/{_segment(file_id)}/move", json=body))

    def moves(self, file_id: str) -> list[Move]:
        """The latest moves of a file, newest first."""
        return [Move.of(each) for each in self._list(f"/{_segment(file_id)}/moves")]

    def rename(self, file_id: str, name: str) -> CloudFile:
        """Give a file another name."""
        return CloudFile.of(self._call("PATCH", f"/{_segment(file_id)}/name", json={"name": name}))

    def set_meta(self, file_id: str, meta: Mapping[str, Any]) -> CloudFile:
        """Replace the user's own metadata of a file: any JSON object, to 64 KiB."""
        body = {"user_meta": dict(meta)}
        return CloudFile.of(self._call("PUT", f"/{_segment(file_id)}/meta", json=body))

    def download(
        self,
        file_id: str,
        *,
        start: int = 0,
        etag: str | None = None,
        password: str | None = None,
    ) -> AbstractContextManager[Download]:
        """Receive a file's bytes from ``start`` on, once: the caller retries from where it is.

        With ``etag``, the server sends the whole file when it is no longer that one.
        ``password`` is that of an encrypted file.
        """
        secret = {}
        if password is not None:
            secret["X-Encrypt-Password-Base64"] = b64encode(password.encode()).decode()
        return self._receive(f"/{_segment(file_id)}", FILES, secret, start, etag)

    @contextmanager
    def _receive(
        self, path: str, root: str, headers: dict[str, str], start: int, etag: str | None
    ) -> Iterator[Download]:
        headers = headers | {"Accept": "*/*", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
            headers |= {"If-Range": etag} if etag else {}
        response = self._begin("GET", self._url(path, root), headers)
        with self._ended(response):
            self._check(response)
            partial = response.status_code == PARTIAL_CONTENT
            begin = _range_start(response) if partial else 0
            etag, size = response.headers.get("ETag"), _whole_size(response, partial=partial)
            yield Download(begin, etag, self._body(response), size)

    def _begin(self, method: str, url: str, headers: dict[str, str]) -> httpx2.Response:
        """An answer whose body is still to be read."""
        timeout = self._reach.timeout(ANSWER_SECONDS)
        request = self._http.build_request(method, url, headers=headers, timeout=timeout)
        with _told(self.server), self._reach.noted():
            return self._http.send(request, stream=True)

    @contextmanager
    def _ended(self, response: httpx2.Response) -> Iterator[None]:
        """Close what is read in the end; whoever waits for more of it wakes when it is to stop."""

        def hang_up() -> None:
            stream = response.extensions.get("network_stream")
            socket = stream and stream.get_extra_info("socket")
            if socket is not None:
                with suppress(OSError):
                    socket.shutdown(SHUT_RDWR)

        try:
            with self.stop.doing(hang_up):
                yield
        finally:
            response.close()

    def _body(self, response: httpx2.Response) -> Iterator[bytes]:
        with _told(self.server):
            for data in response.iter_raw():
                self._require_going_on()
                yield data
        self._require_going_on()

    def _require_going_on(self) -> None:
        if self.stop.is_set():
            raise Interrupted("Stopped.")

    def _delete(self, path: str, root: str = FILES) -> None:
        tries: list[None] = []

        def attempt() -> None:
            tries.append(None)
            try:
                self._send("DELETE", path, root=root)
            except ApiError as error:
                # The answer to an earlier try was lost: what it did cannot be found any more.
                if error.status != NOT_FOUND or len(tries) == 1:
                    raise

        self.retry.call(attempt, self.stop)

    def _page(
        self,
        path: str,
        read: Callable[[object], T],
        root: str = FILES,
        **query: str | int | None,
    ) -> Page[T]:
        params = {key: value for key, value in query.items() if value is not None}
        response = self._retried("GET", path, root=root, params=params)
        items = _items(response)
        told, cursor = response.headers.get("X-Total", ""), response.headers.get("X-Next-Cursor")
        total = int(told) if told.isdecimal() else len(items)
        return Page([read(item) for item in items], total, cursor)

    def _list(self, path: str, **options: Any) -> list[object]:  # noqa: ANN401 RUF100
        return _items(self._retried("GET", path, **options))

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:  # noqa: ANN401 RUF100
        answer = _json(self._retried(method, path, **options))
        if not isinstance(answer, dict):
            raise UnexpectedAnswer("The server's answer is not an object.")
        return answer

    def _retried(self, method: str, path: str, **options: Any) -> httpx2.Response:  # noqa: ANN401 RUF100
        return self.retry.call(lambda: self._send(method, path, **options), self.stop)

    def _attempt_chunk(
        self, path: str, data: memoryview, sent: Callable[[int], None], stop: threading.Event
    ) -> None:
        gone = 0

        def body() -> Iterator[bytes]:
            nonlocal gone
            for start in range(0, len(data), SLICE):
                if stop.is_set():
                    raise Interrupted("Stopped.")
                piece = data[start : start + SLICE]
                # The types ask for bytes; the transport joins any buffer, and a copy costs.
                yield piece  # type: ignore[misc]
                gone += len(piece)
                sent(len(piece))

        headers = {"Content-Length": str(len(data)), "Content-Type": "application/octet-stream"}
        try:
            self._send("PUT", path, content=body(), headers=headers)
        except ClientError:
            sent(-gone)
            raise

    def _send(
        self,
        method: str,
        path: str,
        *,
        root: str = FILES,
        seconds: float = ANSWER_SECONDS,
        **options: Any,  # noqa: ANN401 RUF100
    ) -> httpx2.Response:
        timeout = self._reach.timeout(seconds)
        with _told(self.server), self._reach.noted():
            response = self._http.request(method, self._url(path, root), timeout=timeout, **options)
        self._check(response)
        return response

    def _url(self, path: str, root: str = FILES) -> str:
        return f"{self.server}{root}{path}"

    def _check(self, response: httpx2.Response) -> None:
        if response.is_error:
            with _told(self.server):
                response.read()
            raise ApiError(_refusal(response))
        if not response.is_success:
            target = response.headers.get("Location", "elsewhere")
            raise UnexpectedAnswer(f"{self.server} redirects to {target}: use that as the server.")


class _Reach:
    """How long to wait for a connection: little at first, longer each time that was not enough."""

    def __init__(self) -> None:
        self._seconds = CONNECT_SECONDS

    def timeout(self, seconds: float) -> httpx2.Timeout:
        """For a request that is answered within ``seconds`` of silence."""
        return httpx2.Timeout(seconds, connect=self._seconds, pool=None)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Learn from a connection that took too long."""
        try:
            yield
        except httpx2.ConnectTimeout:
            self._seconds = min(2 * self._seconds, MOST_CONNECT_SECONDS)
            raise


@cache
def _trusted_authorities() -> ssl.SSLContext:
    """Whom this machine trusts: loaded once, as it takes 50 ms, for all clients of a process."""
    return httpx2.create_ssl_context()


@contextmanager
def _told(server: str) -> Iterator[None]:
    """Turn the transport's failures into the client's."""
    try:
        yield
    except httpx2.TransportError as error:
        reason = _reason(error)
        if _is_certificate_problem(error):
            raise CertificateRejected(f"{server} is not trusted: {reason}") from error
        raise ConnectionFailed(f"No answer from {server}: {reason}") from error
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UnexpectedAnswer(f"{server}: {error}") from error


def _reason(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.TimeoutException):
        return "timed out."
    told = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return f"{told.rstrip('.') or type(error).__name__}."


def _is_certificate_problem(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _json(response: httpx2.Response) -> object:
    try:
        answer: object = response.json()
    except ValueError as error:
        raise UnexpectedAnswer(
            f"{response.url} did not answer as an Upwell server: is the address right?"
        ) from error
    return answer


def _items(response: httpx2.Response) -> list[object]:
    items = _json(response)
    if not isinstance(items, list):
        raise UnexpectedAnswer("The server's answer is not a list.")
    return items


def _refusal(response: httpx2.Response) -> Refusal:
    """Read the server's error; one by a proxy in between is told by its status."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    fields = answer if isinstance(answer, dict) else {}
    wait = parse_retry_after(response.headers.get("Retry-After"), datetime.now(UTC))
    return Refusal.of(fields, response.status_code, wait)


def parse_retry_after(value: str | None, now: datetime) -> float | None:
    """Seconds from ``now`` that a ``Retry-After`` header asks for; ``None`` when it is none."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value).astimezone(UTC) - now).total_seconds())
    except (ValueError, OverflowError):
        return None


def _range_start(response: httpx2.Response) -> int:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    start = rest.partition("-")[0]
    if unit != "bytes" or not start.isdecimal():
        raise UnexpectedAnswer("The server's partial answer does not say which part it is.")
    return int(start)


def _whole_size(response: httpx2.Response, *, partial: bool) -> int | None:
    told = response.headers.get("Content-Length", "")
    if partial:
        told = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(told) if told.isdecimal() else None


def _segment(identifier: str) -> str:
    """An identifier as one segment of a path; anything else could reach another resource."""
    if _IDENTIFIER.fullmatch(identifier) is None:
        raise IdentifierInvalid(f"{identifier!r} is not an identifier that a server gives.")
    return identifier
