"""The home page, login, and the API's documentation, all without the internet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import fastapi_offline
from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from upwell.core.accounts import SESSION_LIFE
from upwell.errors import LoginInvalid, UpwellError
from upwell.http import built_page, render
from upwell.http.errors import status_of
from upwell.http.forms import form_field
from upwell.http.guard import SESSION_COOKIE, in_thread, require_same_origin, session_of
from upwell.http.refusals import wants_page

if TYPE_CHECKING:
    from upwell.core.verbs import Verbs
    from upwell.http.built_page import BuiltPage

# Swagger UI sets style attributes; its script and styles are our own files.
_DOCS_CSP = {
    **render.HEADERS,
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; style-src 'self' 'unsafe-inline'; base-uri 'none'; "
    "frame-ancestors 'none'",
}
_NOT_BUILT = (
    "This server runs, but its page was not built: run `make page` in its source folder and "
    "start it again."
)
_MEANWHILE = "Meanwhile its API, described at /docs, and the command line work."
_DOCS_INIT = """
window.onload = () => SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true,
});
"""


def make_routes(verbs: Verbs, page: BuiltPage, *, secure_cookies: bool) -> APIRouter:
    """The pages; none of them is part of the API's description."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def home(request: Request) -> Response:
        if page.is_there():
            return page.index(request)
        return render.message(request, "Upwell", _NOT_BUILT, hint=_MEANWHILE, status=503)

    _add_login(router, verbs, secure_cookies=secure_cookies)
    router.include_router(render.make_routes())
    router.include_router(built_page.make_routes(page))
    _add_docs(router)
    return router


def _add_login(router: APIRouter, verbs: Verbs, *, secure_cookies: bool) -> None:
    @router.get("/login")
    async def login_page(
        request: Request, code: Annotated[str, Query(max_length=200)] = ""
    ) -> Response:
        """Spends nothing: link previews and prefetching browsers open addresses too."""
        if await session_of(verbs.accounts, request.scope) is not None:
            return RedirectResponse("/", 303)
        if not code:
            return _refused(request, LoginInvalid("This login link has no code; make a new one."))
        return render.page(request, "login.html", {"title": "Upwell", "code": code})

    @router.post("/login")
    async def log_in(request: Request) -> Response:
        if await session_of(verbs.accounts, request.scope) is not None:
            return RedirectResponse("/", 303)
        try:
            require_same_origin(request.scope, request.headers)
            code = await form_field(request, "code")
            secret = await in_thread(lambda: verbs.accounts.log_in(code))
        except UpwellError as error:
            return _refused(request, error)
        answer = RedirectResponse("/", 303, headers={"Cache-Control": "no-store"})
        answer.set_cookie(
            SESSION_COOKIE,
            secret,
            max_age=int(SESSION_LIFE.total_seconds()),
            httponly=True,
            samesite="lax",
            secure=secure_cookies or request.url.scheme == "https",
        )
        return answer


def _refused(request: Request, error: UpwellError) -> Response:
    """A page that says why, where one is accepted. Raises ``error`` otherwise."""
    if not wants_page(request):
        raise error
    return render.message(request, "Upwell", error.message, status=status_of(type(error)))


def _add_docs(router: APIRouter) -> None:
    @router.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(
            "<!doctype html><html lang=en><meta charset=utf-8><title>Upwell API</title>"
            "<link rel=stylesheet href=/docs/assets/swagger-ui.css><div id=swagger-ui></div>"
            "<script src=/docs/assets/swagger-ui-bundle.js></script>"
            "<script src=/docs/init.js></script></html>",
            headers=_DOCS_CSP,
        )

    @router.get("/docs/init.js")
    async def docs_init() -> Response:
        return Response(_DOCS_INIT, media_type="text/javascript")

    assets = Path(fastapi_offline.__file__).parent / "static"
    router.mount("/docs/assets", StaticFiles(directory=assets), name="docs-assets")
