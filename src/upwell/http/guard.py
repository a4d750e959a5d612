"""What every request passes first: a trace id, a credential, a log line, one error shape.

Pure ASGI, outside the framework, so that nothing is parsed, looked up or told to a caller
without a valid credential, and nothing that fails inside escapes in another shape.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from starlette.datastructures import Headers
from starlette.requests import cookie_parser

from upwell.core import derivations
from upwell.core.guesses import Asker
from upwell.errors import (
    AuthRequired,
    BodyTimeout,
    BodyTooLarge,
    CrossSite,
    InternalError,
    StorageFailed,
    StorageFull,
    TokenInvalid,
    UpwellError,
    WrongMediaType,
)
from upwell.http.errors import error_response
from upwell.http.heads import has_coded_body
from upwell.http.sockets import ConnectionGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from upwell.core.accounts import Accounts
    from upwell.model import Principal

T = TypeVar("T")

PROTECTED = ("/api/", "/drive/")
CHUNK_PATH = "/files/upload/chunk/"
UPLOADS = ("/upload/direct", "/upload/batch")  # whose bodies have limits of their own
SESSION_COOKIE = "upwell_session"
PASSCODE_COOKIE = "upwell_passcode"
JSON_LIMIT = 1 << 20  # bytes of a body that is not an upload's
JSON_SECONDS = 30.0  # in which it must be whole
_OPEN = re.compile(r"/(?:api|drive)/files/[^/]+\Z|/api/bundles/public/")  # strangers may ask
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_ANSWER = (errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_log = structlog.get_logger("upwell.http")
_verb_threads = ThreadPoolExecutor(
    max(32, 8 * (os.cpu_count() or 1)),
    thread_name_prefix="upwell-verb",
    initializer=derivations.keep_free,
)
_derivers = derivations.Derivers()


async def in_thread(work: Callable[[], T]) -> T:
    """Run a blocking verb of the core away from the loop. When cancelled, it still waits for
    the thread: nobody may close what a thread is using."""
    return await _finished(asyncio.get_running_loop().run_in_executor(_verb_threads, work))


async def _finished(running: asyncio.Future[T]) -> T:
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


async def ask(asker: Asker, verb: Callable[[], T]) -> T:
    """Run a verb that may turn out to need a key derivation. It waits for that in another thread
    than ``in_thread``'s, so that no other request waits too.

    Raises TooManyDerivations, ServerBusy.
    """
    try:
        return await in_thread(verb)
    except derivations.WrongThread:
        return await _finished(asyncio.wrap_future(_derivers.submit(asker.who, verb)))


async def call(request: Request, verb: Callable[[Principal], T]) -> T:
    """Run a verb for the caller, who the guard has made sure of."""
    principal = caller_of(request)
    return await ask(Asker(principal), lambda: verb(principal))


def caller_of(request: Request) -> Principal:
    """Raises AuthRequired for a stranger."""
    principal: Principal | None = request.scope["state"]["principal"]
    if principal is None:
        raise _auth_required()
    return principal


def asker_of(request: Request) -> Asker:
    """Who asks for bytes: the caller, or a stranger, perhaps with a bundle's passcode."""
    return Asker(
        principal=request.scope["state"].get("principal"),
        address=address_of(request.scope),
        passcode=_passcode_of(request),
        proof=request.cookies.get(PASSCODE_COOKIE),
    )


def _passcode_of(request: Request) -> str | None:
    """From its header, as UTF-8, or from the query."""
    header = request.headers.get("x-bundle-passcode")
    if not header:
        return request.query_params.get("passcode")
    return header.encode("latin-1").decode("utf-8", "replace")


def address_of(scope: Scope) -> str:
    """The client's address, empty when the server cannot tell."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def trace_id_of(scope: Scope) -> str:
    return str(scope.get("state", {}).get("trace_id", ""))


class Outside:
    """The outermost layer: names, logs and times each request, and lets no failure out in
    another shape than ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["trace_id"] = secrets.token_hex(16)
        exchange = _Exchange(scope, send)
        try:
            _require_plain_body(scope)
            await self._app(scope, receive, exchange.send)
        except (asyncio.CancelledError, ConnectionGone):
            exchange.aborted = True
            raise
        except Exception as error:  # noqa: BLE001 - whatever fails gets the one error shape
            await exchange.fail(error, receive)
        finally:
            exchange.log()


def _require_plain_body(scope: Scope) -> None:
    """Raises WrongMediaType: encoded bytes would be stored as if they were the content."""
    if has_coded_body(scope["headers"]):
        raise WrongMediaType(
            "This server does not decode a Content-Encoding. Send the body without one."
        )


class Guard:
    """Knows who asks, before anything of a protected request is parsed."""

    def __init__(self, app: ASGIApp, accounts: Accounts) -> None:
        self._app = app
        self._accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PROTECTED):
            headers = Headers(scope=scope)
            scope["state"]["principal"] = await self._principal(scope, headers)
            if not scope["path"].endswith(UPLOADS):
                receive = _limited(headers, receive)
        await self._app(scope, receive, send)

    async def _principal(self, scope: Scope, headers: Headers) -> Principal | None:
        """None for a stranger where one may ask: the verb decides what they get."""
        is_open = scope["method"] in ("GET", "HEAD") and _OPEN.match(scope["path"])
        if is_open and "authorization" not in headers:
            return await session_of(self._accounts, scope)
        return await _authenticated(self._accounts, scope, secret_of(scope, headers))


async def session_of(accounts: Accounts, scope: Scope) -> Principal | None:
    """Whose session a browser has, if it has one that is valid."""
    secret = _cookie(Headers(scope=scope))
    if secret is None:
        return None
    try:
        return await _authenticated(accounts, scope, secret)
    except TokenInvalid:
        return None


async def _authenticated(accounts: Accounts, scope: Scope, secret: str) -> Principal:
    """The account behind a credential. Leaves it in the request's state, with ``recheck``, which
    looks again: an answer that lasts must not outlast the credential. Raises TokenInvalid."""

    def authenticate() -> Principal:
        return accounts.authenticate(secret)

    principal = await in_thread(authenticate)
    scope["state"] |= {"principal": principal, "recheck": authenticate}
    return principal


class _Exchange:
    """One request and its answer, for the log and for failing well."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._began = time.perf_counter()
        self._status: int | None = None
        self.aborted = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            trace = (b"x-trace-id", trace_id_of(self._scope).encode())
            message = {**message, "headers": [*_hardened(message["headers"]), trace]}
        await self._send(message)

    async def fail(self, error: Exception, receive: Receive) -> None:
        known = _known(error)
        if isinstance(known, StorageFailed):
            _log.error("storage failed", trace_id=trace_id_of(self._scope), exc_info=error)
        if known is None:
            _log.exception("bug", trace_id=trace_id_of(self._scope), exc_info=error)
            known = InternalError(
                "The server failed on this request; tell its operator the trace id."
            )
        if self._status is not None:
            raise error
        await error_response(known, trace_id_of(self._scope))(self._scope, receive, self.send)

    def log(self) -> None:
        """The path without its query: queries may carry secrets."""
        quiet = self._status == 200 and CHUNK_PATH in self._scope["path"]
        if quiet and not _log.is_enabled_for(logging.DEBUG):
            return  # one line per chunk would drown the rest
        _log.info(
            "request",
            method=self._scope["method"],
            path=self._scope["path"],
            status=self._status,
            client=address_of(self._scope),
            ms=round(1000 * (time.perf_counter() - self._began), 1),
            trace_id=trace_id_of(self._scope),
            aborted=self.aborted or None,
        )


def _hardened(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """An answer's headers, so that no browser takes it for another type, and that no cache keeps
    JSON, which is somebody's, for anybody else."""
    given = list(headers)
    told = dict(given)
    if b"x-content-type-options" not in told:
        given.append((b"x-content-type-options", b"nosniff"))
    is_json = told.get(b"content-type", b"").startswith(b"application/json")
    if is_json and b"cache-control" not in told:
        given.append((b"cache-control", b"no-store"))
    return given


def _known(error: Exception) -> UpwellError | None:
    if isinstance(error, UpwellError):
        return error
    if not isinstance(error, OSError):
        return None
    if error.errno in _NO_SPACE:
        return StorageFull("The server is out of space; free some, then send it again.")
    if error.errno in _NO_ANSWER:
        return StorageFailed(
            f"The server's storage failed ({os.strerror(error.errno)}); nothing that was "
            "acknowledged is lost. Send the request again, and tell the server's operator if "
            "that does not help.",
            retry_after=5,
        )
    return None


def secret_of(scope: Scope, headers: Headers) -> str:
    """The credential a request carries. Raises NotAuthenticated or CrossSite."""
    authorization = headers.get("authorization")
    if authorization is not None:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise TokenInvalid("Send the token as `Authorization: Bearer …`.")
        return secret.strip()
    return session_secret(scope, headers)


def session_secret(scope: Scope, headers: Headers) -> str:
    """The secret of a browser's session. Raises AuthRequired or CrossSite."""
    session = _cookie(headers)
    if session is None:
        raise _auth_required()
    if scope["method"] not in _SAFE_METHODS:
        require_same_origin(scope, headers)
    return session


def _auth_required() -> AuthRequired:
    return AuthRequired("Send a token as `Authorization: Bearer …`, or log in first.")


def _cookie(headers: Headers) -> str | None:
    return cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE)


def require_same_origin(scope: Scope, headers: Headers) -> None:
    """Raises CrossSite when a browser says that another page than ours asks (Fetch Metadata,
    otherwise Origin, RFC 6454). Programs say nothing."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    own = f"{scope['scheme']}://{headers.get('host')}"
    if site == "same-origin" or (site is None and origin in (None, own)):
        return
    raise CrossSite("This request comes from another site; a session works only on our own.")


def _limited(headers: Headers, receive: Receive) -> Receive:
    """Raises BodyTooLarge once a body that is no upload grows beyond JSON_LIMIT."""
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > JSON_LIMIT:
        raise _too_large()
    total, whole = 0, False
    until = asyncio.get_running_loop().time() + JSON_SECONDS

    async def counted() -> Any:
        nonlocal total, whole
        try:
            async with asyncio.timeout_at(None if whole else until):
                message = await receive()
        except TimeoutError:
            raise BodyTimeout("The body did not come in time; send it again.") from None
        whole = not message.get("more_body", False)
        total += len(message.get("body", b""))
        if total > JSON_LIMIT:
            raise _too_large()
        return message

    return counted


def _too_large() -> BodyTooLarge:
    return BodyTooLarge(f"The body of this request may have at most {JSON_LIMIT} bytes.")
