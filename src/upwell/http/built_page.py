"""The page that people use, as the build in ``web/`` left it: held in memory, compressed before."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from upwell.errors import RouteNotFound
from upwell.http.downloads import not_modified

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "page"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; "
    "style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; font-src 'self'; "
    "connect-src 'self'; worker-src 'self'; manifest-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none, the Origin of our forms would be null
    "Cross-Origin-Resource-Policy": "same-origin",
    "Vary": "Accept-Encoding",
}
_HASHED = "assets/"  # where the names of files change with their content
FOR_EVER = "public, max-age=31536000, immutable"
# The service worker: the page is at `/`, and no worker may be in charge of what is above itself.
_IN_CHARGE = {"keeper.js": {"Service-Worker-Allowed": "/"}}
_COMPRESSED = {".br": "br", ".gz": "gzip"}  # by preference
# Told here, not by the machine's own table: with `nosniff`, a wrong one breaks the page.
_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".ico": "image/x-icon",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff2": "font/woff2",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    """One file; ``forms`` holds its bytes by content coding, "" for as they are."""

    media_type: str
    headers: dict[str, str]
    digest: str
    forms: dict[str, bytes]

    def answer(self, request: Request) -> Response:
        coding = next((c for c in self.forms if accepts(request, c)), "")
        etag = f'"{self.digest}{coding and f"-{coding}"}"'
        headers = HEADERS | self.headers | {"ETag": etag}
        if not_modified(request.headers, etag):
            return Response(status_code=304, headers=headers)
        if coding:
            headers["Content-Encoding"] = coding
        return Response(self.forms[coding], headers=headers, media_type=self.media_type)


class BuiltPage:
    """The files of a build; none at all where it was not run."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._assets = dict(_assets(folder))

    def is_there(self) -> bool:
        return "index.html" in self._assets

    def answer(self, path: str, request: Request) -> Response:
        """Raises RouteNotFound."""
        if path not in self._assets:
            raise RouteNotFound("There is nothing at this path; see /docs.")
        return self._assets[path].answer(request)

    def index(self, request: Request) -> Response:
        return self.answer("index.html", request)


def make_routes(page: BuiltPage) -> APIRouter:
    """What the page loads, under ``/page/``."""
    router = APIRouter(include_in_schema=False)

    @router.api_route("/page/{path:path}", methods=["GET", "HEAD"])
    async def asset(request: Request, path: str) -> Response:
        return page.answer(path, request)

    return router


def _assets(folder: Path) -> Iterator[tuple[str, _Asset]]:
    for path in sorted(folder.rglob("*")):
        media_type = _TYPES.get(path.suffix)
        if media_type is not None and path.is_file():
            name = path.relative_to(folder).as_posix()
            cache = FOR_EVER if name.startswith(_HASHED) else "no-cache"
            forms = dict(_forms(path))
            digest = hashlib.sha256(forms[""]).hexdigest()[:32]
            headers = {"Cache-Control": cache} | _IN_CHARGE.get(name, {})
            yield name, _Asset(media_type, headers, digest, forms)


def _forms(path: Path) -> Iterator[tuple[str, bytes]]:
    for suffix, coding in _COMPRESSED.items():
        compressed = path.with_name(path.name + suffix)
        if compressed.exists():
            yield coding, compressed.read_bytes()
    yield "", path.read_bytes()


def accepts(request: Request, coding: str) -> bool:
    """Whether Accept-Encoding names a coding, and not with a weight of zero."""
    for each in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, weight = each.replace(" ", "").partition(";q=")
        if name == coding:
            return not weight or weight.strip("0.") != ""
    return False
