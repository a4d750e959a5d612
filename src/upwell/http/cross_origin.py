"""Pages of other sites that may use the API with a token (CORS, Fetch Standard §3.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.middleware.cors import CORSMiddleware

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.datastructures import Headers
    from starlette.responses import Response
    from starlette.types import ASGIApp

_REMEMBERED = 7200  # seconds that a browser may remember the permission; Chromium's most
_TOLD = (
    "Accept-Ranges",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Retry-After",
    "X-Next-Cursor",
    "X-Total",
    "X-Trace-Id",
)


def open_to(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """The application, whose answers scripts of these origins may read; ``*`` is any.

    Never with cookies: a session is for our own pages, whatever origins are named.
    """
    if not origins:
        return app
    return _CrossOrigin(
        app,
        allow_origins=origins,
        allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=_TOLD,
        max_age=_REMEMBERED,
    )


class _CrossOrigin(CORSMiddleware):
    def preflight_response(self, request_headers: Headers) -> Response:
        """Who may not ask is answered by the application: in its one shape of errors, and with
        nothing that a browser takes for a permission."""
        answer = super().preflight_response(request_headers)
        return answer if answer.status_code == 200 else cast("Response", self.app)
