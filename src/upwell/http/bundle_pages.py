"""The public page of a bundle, and what a person sees in place of a refusal. No script."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import HTMLResponse, RedirectResponse

from upwell import errors as e
from upwell.core.files import Form
from upwell.core.guesses import Asker
from upwell.http.downloads import FileResponse, form_of
from upwell.http.errors import status_of
from upwell.http.forms import form_field
from upwell.http.guard import PASSCODE_COOKIE, in_thread, session_of
from upwell.http.streams import zip_response

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from upwell.core.ports import Page
    from upwell.core.verbs import Verbs
    from upwell.model import Bundle, CloudFile

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with none, the Origin of our forms would be null
    "Cache-Control": "no-store",
}
_ON_A_PAGE = 500  # files
# Controls, and what changes the direction of writing: it can show exe.txt for a txt.exe.
_UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)
_SHOWN_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,4})\Z")
_BUNDLE_PATH = re.compile(r"/b/[^/]+")
_LINK_PATH = re.compile(r"/s/[^/]+")
_SENTENCES: dict[type[e.UpwellError], str] = {
    e.PasscodeRequired: "These files are behind a passcode.",
    e.PasscodeWrong: "This is not the passcode.",
    e.PasswordRequired: "This file is encrypted. Whoever shared it has its password.",
    e.PasswordWrong: "This is not the password of the file.",
}
_STYLE = """
:root { color-scheme: light dark; font: 17px/1.5 system-ui, sans-serif }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 46rem; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere }
.about { white-space: pre-wrap; overflow-wrap: anywhere }
.facts, .size { color: #777; font-size: .9rem }
.button, button { display: inline-block; padding: .7rem 1.1rem; border: 0; border-radius: .5rem;
  background: #1657c2; color: #fff; font: inherit; text-decoration: none; cursor: pointer }
ul { list-style: none; margin: 1.5rem 0; padding: 0 }
li { display: flex; align-items: center; gap: .8rem; padding: .6rem 0;
  border-top: 1px solid #8884 }
li img, .tile { flex: none; width: 3.5rem; height: 3.5rem; border-radius: .4rem;
  object-fit: cover; background: #8882 }
.tile { display: grid; place-items: center; font-size: .75rem; color: #777 }
.name { flex: 1; min-width: 0; overflow-wrap: anywhere }
.size { display: block }
.get { flex: none; padding: .7rem 0 .7rem .7rem }
label { display: block; margin: 1rem 0 .3rem }
input { font: inherit; width: 100%; max-width: 24rem; padding: .6rem; margin-bottom: 1rem;
  border: 1px solid #8888; border-radius: .5rem; display: block }
.why { font-weight: 600 }
"""


def make_routes(verbs: Verbs, *, secure_cookies: bool) -> APIRouter:
    """The pages; none of them is part of the API's description."""
    router = APIRouter(include_in_schema=False)
    _add_bundle(router, verbs, secure_cookies=secure_cookies)
    _add_contents(router, verbs)

    @router.get("/bundle.css")
    async def style() -> Response:
        return Response(_STYLE, media_type="text/css")

    return router


def _add_bundle(router: APIRouter, verbs: Verbs, *, secure_cookies: bool) -> None:
    @router.get("/b/{slug}")
    async def bundle_page(
        request: Request, slug: str, offset: Annotated[int, Query(ge=0, le=1 << 31)] = 0
    ) -> Response:
        asker = await _visitor(verbs, request)

        def read() -> tuple[Bundle, Page[CloudFile]]:
            bundle = verbs.bundles.open(slug, asker)
            return bundle, verbs.bundles.public_files(bundle, offset, _ON_A_PAGE)

        try:
            bundle, page = await in_thread(read)
        except e.UpwellError as error:
            return refusal_page(error, request)
        return _page(bundle.name, _contents(bundle, page, offset))

    @router.post("/b/{slug}")
    async def give_passcode(request: Request, slug: str) -> Response:
        try:
            passcode = await form_field(request, "passcode")
            asker = Asker(None, _address(request), passcode=passcode or None)
            bundle = await in_thread(lambda: verbs.bundles.open(slug, asker))
        except e.UpwellError as error:
            return refusal_page(error, request)
        path = f"/b/{bundle.slug}"
        answer = RedirectResponse(path, 303, headers={"Cache-Control": "no-store"})
        answer.set_cookie(
            PASSCODE_COOKIE,
            verbs.bundles.prove(bundle),
            path=path,
            httponly=True,
            samesite="lax",
            secure=secure_cookies or request.url.scheme == "https",
        )
        return answer


def _add_contents(router: APIRouter, verbs: Verbs) -> None:
    @router.api_route("/b/{slug}/zip", methods=["GET", "HEAD"])
    async def page_zip(request: Request, slug: str) -> Response:
        asker = await _visitor(verbs, request)
        return await _or_page(request, zip_response(verbs, request, slug, asker))

    async def answer(request: Request, wanted: _Wanted) -> Response:
        asker = await _visitor(verbs, request)

        def read() -> FileResponse:
            bundle = verbs.bundles.open(wanted.slug, asker)
            opened = verbs.files.open_shared(
                bundle, asker, wanted.file_id, wanted.form, wanted.password
            )
            return FileResponse(opened, request.headers, download=wanted.save)

        return await _or_page(request, in_thread(read))

    @router.api_route("/b/{slug}/files/{file_id}", methods=["GET", "HEAD"])
    async def page_file(
        request: Request,
        slug: str,
        file_id: str,
        download: bool = False,
        thumbnail: bool = False,
        preview: bool = False,
    ) -> Response:
        form = form_of(thumbnail=thumbnail, preview=preview)
        return await answer(request, _Wanted(slug, file_id, form, save=download))

    @router.post("/b/{slug}/files/{file_id}")
    async def unlock_file(request: Request, slug: str, file_id: str) -> Response:
        async def unlocked() -> Response:
            password = await form_field(request, "password") or None
            wanted = _Wanted(slug, file_id, Form.CONTENT, password, save=True)
            return await answer(request, wanted)

        return await _or_page(request, unlocked())


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Which file of a page, and as what; ``save``: as an attachment in any case."""

    slug: str
    file_id: str
    form: Form
    password: str | None = field(default=None, repr=False)
    save: bool = False


async def _or_page(request: Request, answer: Awaitable[Response]) -> Response:
    """The answer, or a page that says why not."""
    try:
        return await answer
    except e.RangeNotSatisfiable:
        raise
    except e.UpwellError as error:
        return refusal_page(error, request)


async def _visitor(verbs: Verbs, request: Request) -> Asker:
    """Who looks at a page: perhaps the owner, or somebody who gave the passcode before."""
    return Asker(
        principal=await session_of(verbs.accounts, request.headers),
        address=_address(request),
        proof=request.cookies.get(PASSCODE_COOKIE),
    )


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


# what is on them


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks, who is better told by a page."""
    return request.method != "HEAD" and "text/html" in request.headers.get("accept", "")


def refusal_page(error: e.UpwellError, request: Request) -> Response:
    """A refusal as a page, which asks for the secret where one helps."""
    why = html.escape(_SENTENCES.get(type(error), error.message))
    body = f"<p class=why>{why}</p>{_asking_form(error, request)}"
    answer = _page("Shared files", body, status_of(type(error)))
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _asking_form(error: e.UpwellError, request: Request) -> str:
    """For the passcode of the bundle, or for the password of the file that was asked for."""
    path = request.url.path
    bundle = _BUNDLE_PATH.match(path)
    limited = isinstance(error, e.TooManyGuesses)
    wants_passcode = isinstance(error, e.PasscodeRequired | e.PasscodeWrong)
    if bundle and (wants_passcode or (limited and bundle[0] == path)):
        return _secret_form(bundle[0], "passcode", "Passcode", "Open")
    if limited or isinstance(error, e.PasswordRequired | e.PasswordWrong):
        link = _LINK_PATH.match(path)
        target = f"{link[0]}/open?{request.url.query}" if link else path
        return _secret_form(target, "password", "Password", "Download")
    return ""


def _secret_form(action: str, name: str, label: str, button: str) -> str:
    return (
        f'<form method=post action="{html.escape(action)}"><label for=secret>{label}</label>'
        f"<input id=secret type=password name={name} required autofocus autocomplete=off>"
        f"<button>{button}</button></form>"
    )


def _contents(bundle: Bundle, page: Page[CloudFile], offset: int) -> str:
    path = f"/b/{bundle.slug}"
    about = f"<p class=about>{_shown(bundle.description)}</p>" if bundle.description else ""
    rows = "".join(_row(path, file) for file in page.items)
    everything = (
        f'<p><a class=button href="{path}/zip">Download all as one ZIP</a></p>'
        if page.total
        else ""
    )
    following = offset + len(page.items)
    more = following < page.total and page.items
    next_page = f'<p><a href="{path}?offset={following}">More files</a></p>' if more else ""
    return f"{about}{_facts(bundle, page)}{everything}<ul>{rows}</ul>{next_page}"


def _facts(bundle: Bundle, page: Page[CloudFile]) -> str:
    count = f"{page.total:,} file{'' if page.total == 1 else 's'}"
    facts = [count if page.total else "Nothing is in here yet."]
    if page.items and len(page.items) == page.total:
        facts.append(_size(sum(file.size for file in page.items)))
    if bundle.expired_at is not None:
        facts.append(f"until {bundle.expired_at:%Y-%m-%d %H:%M} UTC")
    if any(file.encrypted for file in page.items):
        facts.append("encrypted files need their password; the ZIP has them as age files")
    return f"<p class=facts>{' · '.join(facts)}</p>"


def _row(path: str, file: CloudFile) -> str:
    address = html.escape(f"{path}/files/{file.id}")
    locked = ", encrypted" if file.encrypted else ""
    save = address if file.encrypted else f"{address}?download=true"
    return (
        f'<li>{_picture(address, file)}<span class=name><a href="{address}"><bdi>'
        f"{_shown(file.name)}</bdi></a><span class=size>{_size(file.size)}{locked}</span></span>"
        f'<a class=get href="{save}">Download</a></li>'
    )


def _picture(address: str, file: CloudFile) -> str:
    if file.blob.thumbnail_key is not None:
        return f'<img src="{address}?thumbnail=true" alt="" loading=lazy>'
    found = _SHOWN_EXTENSION.search(file.name)
    return f"<span class=tile aria-hidden=true>{found[1].upper() if found else ''}</span>"


def _shown(text: str) -> str:
    """A text of a stranger's as it can stand on a page."""
    return html.escape(_UNSEEN.sub(_replaced, text))


def _replaced(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\n\t" else "\N{REPLACEMENT CHARACTER}"


def _size(count: int) -> str:
    """Bytes for a person: ``12.3 MB``."""
    if count < 1000:
        return f"{count} bytes" if count != 1 else "1 byte"
    size = float(count)
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size:,.0f} TB"


def _page(title: str, body: str, status: int = 200) -> HTMLResponse:
    shown = _shown(title)
    return HTMLResponse(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{shown}</title>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        "<meta name=robots content=noindex><link rel=stylesheet href=/bundle.css>"
        f"<h1><bdi>{shown}</bdi></h1>{body}</html>",
        status,
        headers=_HEADERS,
    )
