"""The application: routes behind the guard, every failure in one shape, an honest OpenAPI."""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from starlette.exceptions import HTTPException

from upwell import __version__
from upwell import errors as e
from upwell.http import (
    account_routes,
    bundle_pages,
    bundle_routes,
    event_routes,
    file_routes,
    pages,
    pool_routes,
    upload_routes,
)
from upwell.http.built_page import BuiltPage
from upwell.http.chunks import ChunkEndpoint
from upwell.http.direct import Forms
from upwell.http.download_bounds import Downloads
from upwell.http.errors import ErrorBody, error_response, validation_failed
from upwell.http.guard import PROTECTED, Guard, Outside, in_thread, trace_id_of
from upwell.http.live import LiveStreams
from upwell.http.refusals import refusal_page, wants_page
from upwell.http.schemas import Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi.routing import APIRoute
    from starlette.responses import Response
    from starlette.types import ASGIApp

    from upwell.core.verbs import Verbs
    from upwell.http.bounds import Bounds

_ABOUT = """Files of any size over bad networks: create a task, send its chunks in any order
and as often as it takes, complete it. Every path under `/api/files` also answers under
`/drive/files`. Every answer with a status of 400 or more has the shape `ErrorBody`."""
_TAGS = [
    {"name": "uploads", "description": "Create a task, send its chunks, complete it."},
    {"name": "files", "description": "What is stored: its bytes, facts and names."},
    {"name": "sharing", "description": "Bundles of files at one address, and signed links."},
    {"name": "pools", "description": "Where bytes live, under which policy, and how many."},
    {"name": "events", "description": "What happens to uploads and files, live or to webhooks."},
    {"name": "accounts", "description": "Who the caller is."},
    {"name": "health", "description": "For whoever watches the server; needs no token."},
    {"name": "aliases", "description": "The same calls for clients that know them by this path."},
]
PREFIXES = ("/api/files", "/drive/files")
_FOR_ANYONE = re.compile(r"/api/bundles/public/|/s/|/(api|drive)/files/\{file_id\}\Z")


def make_app(verbs: Verbs, api: FastAPI) -> ASGIApp:
    """What a server is given: the API, behind what every request passes first."""
    return Outside(ChunkEndpoint(Guard(api, verbs.accounts), verbs))


def make_api(
    verbs: Verbs,
    bounds: Bounds,
    *,
    secure_cookies: bool = False,
    public_url: str | None = None,
    page: BuiltPage | None = None,
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The routes; ``start`` and ``stop`` run with the server. See ``make_app``."""
    page = page or BuiltPage()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        start()
        yield
        await asyncio.to_thread(stop)  # all verb threads may be stuck

    app = FastAPI(
        title="Upwell",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    streams = LiveStreams(bounds.streams_per_account)
    forms = Forms(verbs.uploads, bounds.direct_max_size)  # one memory, whichever the prefix
    uploads = partial(upload_routes.make_routes, verbs, forms, streams)
    app.state.downloads = Downloads(bounds.min_download_rate, bounds.downloads_per_address)
    for prefix in PREFIXES:
        # Uploads first: their paths would else be taken for file ids.
        app.include_router(uploads(), prefix=prefix)
        app.include_router(file_routes.make_routes(verbs), prefix=prefix)
        app.include_router(pool_routes.make_file_routes(verbs), prefix=prefix)
        app.include_router(bundle_routes.make_file_routes(verbs, public_url), prefix=prefix)
    app.include_router(account_routes.make_routes(verbs))
    app.include_router(pool_routes.make_routes(verbs), prefix="/api")
    app.include_router(event_routes.make_routes(verbs, streams), prefix="/api")
    app.include_router(bundle_routes.make_routes(verbs, public_url))
    app.include_router(bundle_pages.make_routes(verbs, secure_cookies=secure_cookies))
    app.include_router(pages.make_routes(verbs, page, secure_cookies=secure_cookies))
    _add_health(app, verbs)
    _shape_errors(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _add_health(app: FastAPI, verbs: Verbs) -> None:
    async def live() -> Health:
        return Health()

    async def ready() -> Health:
        try:
            await in_thread(verbs.check)
        except Exception:  # noqa: BLE001 - whatever is wrong, the answer is no
            message = "The catalog or a pool's store cannot be used; see the server's log."
            raise e.NotReady(message) from None
        return Health()

    not_ready: dict[int | str, dict[str, Any]] = {
        503: {"model": ErrorBody, "description": "NOT_READY"}
    }
    for check, summary, described in (
        (live, "The process answers", {}),
        (ready, "It can store", not_ready),
    ):
        for method in ("GET", "HEAD"):
            app.add_api_route(
                f"/health/{check.__name__}",
                check,
                methods=[method],
                name=check.__name__ if method == "GET" else f"head_{check.__name__}",
                tags=["health"],
                summary=summary,
                responses=described,
            )


def _shape_errors(app: FastAPI) -> None:
    """Give what the framework refuses the one error shape."""

    @app.exception_handler(e.UpwellError)
    async def known(request: Request, error: e.UpwellError) -> Response:
        # Raised once the answer was made, where routes do not see it; a person clicked on a link.
        if isinstance(error, e.TooManyDownloads) and wants_page(request):
            return refusal_page(error, request)
        headers = {}
        if isinstance(error, e.RangeNotSatisfiable) and error.meta:
            headers["Content-Range"] = f"bytes */{error.meta['size']}"
        return error_response(error, trace_id_of(request.scope), headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(_validation(request, error), trace_id_of(request.scope))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        known = _of_framework(request, error)
        headers = dict(error.headers or {})
        if error.status_code == 405:
            headers["Allow"] = _allowed(request) or headers["Allow"]
        return error_response(known, trace_id_of(request.scope), headers)

    @app.exception_handler(Exception)
    async def bug(_: Request, error: Exception) -> Response:
        raise error  # the framework would answer as text; the guard knows better


def _validation(request: Request, error: RequestValidationError) -> e.UpwellError:
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return e.MalformedRequest("The body is not valid JSON.")
    invalid = validation_failed(error.errors(), "request")
    if set(invalid.errors or ()) == {"body"} and not _is_json(request):
        return e.WrongMediaType("Send a JSON body as application/json.")
    return invalid


def _is_json(request: Request) -> bool:
    """What FastAPI takes for JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind[-5:] == "+json")


def _allowed(request: Request) -> str:
    """The methods of all routes with the path of the one that refused (RFC 9110 §10.2.1)."""
    path = getattr(request.scope.get("route"), "path", "")
    described: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    methods = next(
        (described[p + path] for p in ("", "/api", *PREFIXES) if p + path in described), {}
    )
    return ", ".join(sorted(map(str.upper, methods)))


def _of_framework(request: Request, error: HTTPException) -> e.UpwellError:
    if isinstance(error.__cause__, e.UpwellError):
        return error.__cause__  # raised by what hands the body to the framework
    if error.status_code == 404:
        return e.RouteNotFound("There is nothing at this path; see /docs.")
    if error.status_code == 405:
        return e.MethodNotAllowed(f"This path does not take {request.method}; see /docs.")
    if error.status_code >= 500:
        return e.InternalError("The server failed on this request.")
    return e.MalformedRequest("The body cannot be read; check its encoding.")


def _operation_id(route: APIRoute) -> str:
    alias = "_drive" if route.path.startswith("/drive") else ""
    return route.name + alias


def _openapi(app: FastAPI) -> dict[str, Any]:
    """What FastAPI describes, less what we never answer, plus who may call."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = schema["components"]["schemas"]
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        schema["components"]["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "session": {"type": "apiKey", "in": "cookie", "name": "upwell_session"},
        }
        schema["tags"] = _TAGS
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                operation["responses"].pop("422", None)
                if _FOR_ANYONE.match(path) and method in ("get", "head"):
                    operation["security"] = [{}, {"token": []}, {"session": []}]
                elif path == "/logout":
                    operation["security"] = [{"session": []}]
                elif path.startswith(PROTECTED):
                    operation["security"] = [{"token": []}, {"session": []}]
                if path.startswith("/drive"):
                    operation["tags"] = ["aliases"]
        app.openapi_schema = schema
    return app.openapi_schema
