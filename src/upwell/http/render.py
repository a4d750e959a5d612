"""Pages that the server makes by itself, without script: their frame, and how they say things.

A template escapes whatever it is given; controls, and what turns the direction of writing
around, are replaced in it as well.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse

from upwell.http.built_page import FOR_EVER, accepts

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none, the Origin of our forms would be null
    "Cache-Control": "no-store",
    "Vary": "Accept-Encoding",
}
_FOLDER = Path(__file__).with_name("templates")
_STYLE = b"".join((_FOLDER / name).read_bytes() for name in ("theme.css", "style.css"))
_STYLE_PATH = f"/style-{hashlib.sha256(_STYLE).hexdigest()[:12]}.css"
_JOIN = "\N{NO-BREAK SPACE}"
_TYPED = re.compile(r"`([^`]+)`")
# Controls, and what changes the direction of writing: it can show exe.txt for a txt.exe.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)


def page(
    request: Request, template: str, values: Mapping[str, Any], status: int = 200
) -> HTMLResponse:
    """A template, filled; compressed for who takes that. Its values have a ``title``."""
    body = _templates.get_template(template).render(values).encode()
    headers = dict(HEADERS)
    if accepts(request, "gzip"):
        body = gzip.compress(body, 6)
        headers["Content-Encoding"] = "gzip"
    return HTMLResponse(body, status, headers)


def message(
    request: Request, title: str, text: str, *, hint: str = "", status: int = 200
) -> HTMLResponse:
    """A page of a sentence or two."""
    values = {"title": title, "message": text, "hint": hint}
    return page(request, "message.html", values, status)


def make_routes() -> APIRouter:
    """What the pages load."""
    router = APIRouter(include_in_schema=False)

    @router.get(_STYLE_PATH)
    async def style(request: Request) -> Response:
        headers = {"Cache-Control": FOR_EVER, "Vary": "Accept-Encoding"}
        if accepts(request, "gzip"):
            headers["Content-Encoding"] = "gzip"
            return Response(gzip.compress(_STYLE, 9), headers=headers, media_type="text/css")
        return Response(_STYLE, headers=headers, media_type="text/css")

    return router


def size(count: int) -> str:
    """Bytes for a person: ``1.2 MB``, ``34 MB``, as one word."""
    if count < 1000:
        return counted(count, "byte")
    amount = float(count)
    for unit in ("kB", "MB", "GB"):
        amount /= 1000
        if amount < 999.5:
            return f"{_short(amount)}{_JOIN}{unit}"
    return f"{_short(amount / 1000)}{_JOIN}TB"


def _short(amount: float) -> str:
    return f"{amount:.1f}".removesuffix(".0") if amount < 9.95 else f"{amount:,.0f}"


def counted(number: int, thing: str) -> str:
    """``1 file``, ``1,200 files``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def left(until: datetime) -> str:
    """How long it is until then: ``3 days``, ``2 hours``."""
    rest = until - datetime.now(UTC)
    for unit, name in ((timedelta(days=1), "day"), (timedelta(hours=1), "hour")):
        if rest >= 2 * unit:
            return counted(rest // unit, name)
    return counted(max(1, rest // timedelta(minutes=1)), "minute")


def moment(at: datetime) -> str:
    """``3 December 2026, 14:00 UTC``."""
    return f"{at.day} {at.astimezone(UTC):%B %Y, %H:%M} UTC"


def length(seconds: float) -> str:
    """Of a recording: ``1:02:03``, ``0:07``."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _prose(text: str) -> Markup:
    """A sentence, with what is to be typed between backquotes in it."""
    return Markup(_TYPED.sub(r"<code>\1</code>", str(escape(_seen(text)))))  # noqa: S704 - escaped


def _seen(value: object) -> object:
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(size=size, left=left, moment=moment, prose=_prose)
    made.globals["style_path"] = _STYLE_PATH
    return made


_templates = _environment()
