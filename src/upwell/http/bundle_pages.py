"""The public pages of a bundle and of the files in it. No script."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.responses import RedirectResponse

from upwell import errors as e
from upwell.core.files import Form
from upwell.core.guesses import Asker
from upwell.core.media_types import true_type
from upwell.http import render
from upwell.http.bundle_zip import zip_response
from upwell.http.downloads import FileResponse, form_of, safe_type
from upwell.http.forms import form_field
from upwell.http.guard import PASSCODE_COOKIE, ask, in_thread, session_of
from upwell.http.refusals import refusal_page

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from upwell.core.ports import Page
    from upwell.core.verbs import Verbs
    from upwell.model import Bundle, CloudFile

_ON_A_PAGE = 500  # files
_SHOWN_WHOLE = 20_000_000  # bytes of an image that there is no preview of
_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,4})\Z")


def make_routes(verbs: Verbs, *, secure_cookies: bool) -> APIRouter:
    """The pages; none of them is part of the API's description."""
    router = APIRouter(include_in_schema=False)
    _add_bundle(router, verbs, secure_cookies=secure_cookies)
    _add_contents(router, verbs)
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
        return render.page(request, "bundle.html", _contents(bundle, page, offset))

    @router.get("/b/{slug}/view/{file_id}")
    async def file_page(
        request: Request,
        slug: str,
        file_id: str,
        at: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
    ) -> Response:
        asker = await _visitor(verbs, request)

        def read() -> dict[str, Any]:
            bundle = verbs.bundles.open(slug, asker)
            file = verbs.bundles.public_file(bundle, file_id)
            near = verbs.bundles.public_files(bundle, max(0, at - 1), 3)
            return _one(bundle, file, near, at)

        try:
            values = await in_thread(read)
        except e.UpwellError as error:
            return refusal_page(error, request)
        return render.page(request, "file.html", values)

    @router.post("/b/{slug}")
    async def give_passcode(request: Request, slug: str) -> Response:
        try:
            passcode = await form_field(request, "passcode")
            asker = Asker(None, _address(request), passcode=passcode or None)
            bundle = await ask(asker, lambda: verbs.bundles.open(slug, asker))
        except e.UpwellError as error:
            return refusal_page(error, request)
        path = _path_of(bundle)
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

        return await _or_page(request, ask(asker, read))

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
    except (e.RangeNotSatisfiable, e.PreconditionFailed):
        raise
    except e.UpwellError as error:
        return refusal_page(error, request)


async def _visitor(verbs: Verbs, request: Request) -> Asker:
    """Who looks at a page: perhaps the owner, or somebody who gave the passcode before."""
    return Asker(
        principal=await session_of(verbs.accounts, request.scope),
        address=_address(request),
        proof=request.cookies.get(PASSCODE_COOKIE),
    )


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


# what is on them


@dataclass(frozen=True, slots=True)
class _Media:
    """What shows or plays a file: an element, what it loads, and the room that it takes."""

    tag: str
    source: str
    box: dict[str, int]
    poster: str | None = None


@dataclass(frozen=True, slots=True)
class _Shown:
    """A file as it is on a page. ``at``: how many come before it."""

    path: str
    file: CloudFile
    at: int

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def size(self) -> int:
        return self.file.size

    @property
    def encrypted(self) -> bool:
        return self.file.encrypted

    @property
    def address(self) -> str:
        return f"{self.path}/files/{self.file.id}"

    @property
    def view(self) -> str:
        return f"{self.path}/view/{self.file.id}?at={self.at}"

    @property
    def save(self) -> str:
        """Where it is downloaded; an encrypted one where its password is asked for."""
        return self.view if self.encrypted else f"{self.address}?download=true"

    @property
    def thumbnail(self) -> str | None:
        return self.file.blob.thumbnail_key and f"{self.address}?thumbnail=true"

    @property
    def preview(self) -> str | None:
        return self.file.blob.preview_key and f"{self.address}?preview=true"

    @property
    def extension(self) -> str:
        found = _EXTENSION.search(self.name)
        return found[1] if found else ""

    @property
    def length(self) -> str | None:
        seconds = self._facts.get("duration")
        return None if seconds is None else render.length(seconds)

    @property
    def kind(self) -> str:
        return true_type(self.file.mime_type, self.file.name)

    @property
    def opens(self) -> bool:
        """Whether a browser shows it by itself."""
        return safe_type(self.kind) is not None

    @property
    def box(self) -> dict[str, int]:
        """Its width and height, as far as they are known."""
        video = self._facts.get("video") or {}
        found = [(video or self._facts).get(side) for side in ("width", "height")]
        if video.get("rotation") in (90, 270):
            found.reverse()
        named = zip(("width", "height"), found, strict=True)
        return {side: pixels for side, pixels in named if pixels}

    @property
    def facts(self) -> list[str]:
        pixels = " \N{MULTIPLICATION SIGN} ".join(map(str, self.box.values()))
        # Of other kinds the name says as much, in fewer letters.
        kind = self.file.mime_type if self.media else None
        told = (kind, pixels, self.length, render.size(self.size))
        return [each for each in told if each]

    @property
    def media(self) -> _Media | None:
        kind = (safe_type(self.kind) or "").partition("/")[0]
        if kind in ("audio", "video"):
            return _Media(kind, self.address, self.box, self.preview)
        whole = kind == "image" and self.size <= _SHOWN_WHOLE
        source = self.preview or (self.address if whole else None)
        return _Media("img", source, self.box) if source else None

    @property
    def _facts(self) -> dict[str, Any]:
        return self.file.blob.facts or {}


def _contents(bundle: Bundle, page: Page[CloudFile], offset: int) -> dict[str, Any]:
    path = _path_of(bundle)
    files = [_Shown(path, file, offset + n) for n, file in enumerate(page.items)]
    following = offset + len(files)
    more = bool(files) and following < page.total
    return {
        "title": bundle.name,
        "bundle": bundle,
        "page": page,
        "files": files,
        "all": _everything(path, files, page.total),
        "pictures": 3 * sum(file.thumbnail is not None for file in files) >= len(files),
        "sealed": any(file.encrypted for file in files),
        "more": f"{path}?offset={following}" if more else None,
    }


def _everything(path: str, files: list[_Shown], total: int) -> dict[str, str]:
    """The button; how many bytes that are is known where all files are on one page."""
    count = render.counted(total, "file")
    whole = len(files) == total
    amount = f"{count}, {render.size(sum(file.size for file in files))}" if whole else count
    if total == 1 and whole and not files[0].encrypted:
        return {"address": files[0].save, "label": "Download", "amount": amount}
    return {"address": f"{path}/zip", "label": "Download all", "amount": amount}


def _one(bundle: Bundle, file: CloudFile, near: Page[CloudFile], at: int) -> dict[str, Any]:
    """A file, and its neighbours if ``near``, the files around ``at``, has it."""
    path, first = _path_of(bundle), max(0, at - 1)
    around = {each.id: _Shown(path, each, first + n) for n, each in enumerate(near.items)}
    shown = around.get(file.id) or _Shown(path, file, at)
    beside = {each.at: each for each in around.values()} if file.id in around else {}
    return {
        "title": file.name,
        "bundle": bundle,
        "back": path,
        "file": shown,
        "before": beside.get(shown.at - 1),
        "after": beside.get(shown.at + 1),
        "number": shown.at + 1,
        "total": near.total,
    }


def _path_of(bundle: Bundle) -> str:
    return f"/b/{bundle.slug}"
