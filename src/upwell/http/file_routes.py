"""Stored files (contract section 2) under ``/api/files``."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response

from upwell import errors as e
from upwell.core.files import Form
from upwell.http import listings
from upwell.http.downloads import FileResponse, form_of
from upwell.http.errors import CHANGES, DERIVING, FORM_BODY, JSON_BODY, described_headers, responses
from upwell.http.forms import FORM_TYPE, form_field
from upwell.http.guard import ask, asker_of, call
from upwell.http.listings import After, Offset, Take
from upwell.http.refusals import refusal_page, wants_page
from upwell.http.schemas import (
    BatchDelete,
    CloudFileOut,
    Deleted,
    Describe,
    Rename,
    SetMarks,
    SetMeta,
)
from upwell.model import FileOrder, FileQuery

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.core.ports import Page
    from upwell.core.verbs import Verbs
    from upwell.model import CloudFile, Principal

Download = Annotated[bool, Query(description="As an attachment in any case.")]
Thumbnail = Annotated[bool, Query(description="A small image of it, in WebP.")]
Preview = Annotated[bool, Query(description="A larger image of it, in WebP.")]
Search = Annotated[
    str, Query(max_length=255, description="Only files with this in their names, in any case.")
]
Order = Annotated[FileOrder, Query(description="`-` turns an order around.")]
Password = Annotated[
    str | None,
    Header(alias="X-Encrypt-Password", description="Of an encrypted file; as UTF-8."),
]
Base64Password = Annotated[
    str | None,
    Header(alias="X-Encrypt-Password-Base64", description="The same, UTF-8 in base64."),
]
FileId = Annotated[str, Path(description="The CloudFile's `id`.")]
_BINARY = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
_PASSWORD_FORM = {
    FORM_TYPE: {
        "schema": {
            "type": "object",
            "properties": {"password": {"type": "string", "format": "password"}},
        }
    }
}
_HEADERS = {
    "ETag": "Never changes for an id; take it for `If-None-Match` and `If-Range`.",
    "Last-Modified": "When it was stored.",
    "Content-Disposition": "The file's name; `attachment` unless its type is a safe one.",
}


def make_routes(verbs: Verbs) -> APIRouter:
    """The routes, without their prefix."""
    router = APIRouter(tags=["files"])
    _add_lists(router, verbs)
    _add_content(router, verbs)
    _add_unlocking(router, verbs)
    _add_changes(router, verbs)
    return router


def _add_lists(router: APIRouter, verbs: Verbs) -> None:
    sorted_ = responses(e.ValidationFailed)
    sorted_[200] = {"description": "In the order asked for.", "headers": listings.HEADERS}
    listed = sorted_ | {200: {"description": "Newest first.", "headers": listings.HEADERS}}

    @router.get("/me", summary="The caller's files", responses=sorted_)
    async def my_files(
        request: Request,
        response: Response,
        search: Search = "",
        order: Order = FileOrder.NEWEST,
        offset: Offset = 0,
        take: Take = 20,
        after: After = None,
    ) -> list[CloudFileOut]:
        query = FileQuery(search, order)
        page = await call(request, lambda p: verbs.files.mine(p, offset, take, query, after=after))
        listings.describe(response, page)
        return [CloudFileOut.of(file, verbs.pools.named(file.pool_id)) for file in page.items]

    @router.get("/recycle", summary="The caller's recycle bin", responses=listed)
    async def recycled_files(
        request: Request,
        response: Response,
        offset: Offset = 0,
        take: Take = 20,
        after: After = None,
    ) -> list[CloudFileOut]:
        """Deleted files that can be restored, until their grace period is over."""

        def recycled(principal: Principal) -> Page[CloudFile]:
            return verbs.files.mine(principal, offset, take, recycled=True, after=after)

        page = await call(request, recycled)
        listings.describe(response, page)
        return [CloudFileOut.of(file, verbs.pools.named(file.pool_id)) for file in page.items]

    @router.post(
        "/batches/delete",
        summary="Delete several files",
        responses=responses(*JSON_BODY),
    )
    async def delete_files(request: Request, body: BatchDelete) -> Deleted:
        """Ids that are not the caller's are passed over."""
        ids = await call(request, lambda p: verbs.files.delete_many(p, body.file_ids))
        return Deleted(deleted=ids)


def _add_content(router: APIRouter, verbs: Verbs) -> None:
    async def download_file(
        request: Request,
        file_id: FileId,
        download: Download = False,
        thumbnail: Thumbnail = False,
        preview: Preview = False,
        raw: Annotated[
            bool, Query(description="The object as it is stored, for its owner.")
        ] = False,
        password: Password = None,
        password_base64: Base64Password = None,
        passcode: Annotated[
            str | None, Query(description="Of the bundle that the file is in.")
        ] = None,
        bundle_passcode: Annotated[
            str | None, Header(alias="X-Bundle-Passcode", description="The same as a header.")
        ] = None,
    ) -> Response:
        """`Range` (one range), `If-Range`, `If-Match` and `If-None-Match` are honoured. Strangers
        get what its pool gives to anyone, and what is in a bundle that they can open."""
        del passcode, bundle_passcode  # the asker's
        form = form_of(thumbnail=thumbnail, preview=preview, raw=raw)
        asker, secret = asker_of(request), password_of(password, password_base64)
        opened = await ask(asker, lambda: verbs.files.open(asker, file_id, form, secret))
        return FileResponse(opened, request.headers, download=download)

    for method, name in (("GET", "download_file"), ("HEAD", "head_file")):
        router.add_api_route(
            "/{file_id}",
            download_file,
            methods=[method],
            name=name,
            summary="The content" if method == "GET" else "The content's headers",
            responses=content_responses(e.FileNotFound, e.PasscodeWrong),
            response_class=Response,
        )


def _add_unlocking(router: APIRouter, verbs: Verbs) -> None:
    @router.post(
        "/{file_id}/open",
        summary="The content, for a form with the password",
        responses=content_responses(*FORM_BODY, e.BodyTooLarge, e.FileNotFound),
        response_class=Response,
        openapi_extra={"requestBody": {"required": True, "content": _PASSWORD_FORM}},
    )
    async def open_file(request: Request, file_id: FileId) -> Response:
        """An attachment: so a browser saves it without holding it in memory, and the password
        is in no address. Where a page is accepted, a refusal is one that asks again."""
        try:
            password, asker = await form_field(request, "password"), asker_of(request)
            opened = await ask(
                asker, lambda: verbs.files.open(asker, file_id, Form.CONTENT, password or None)
            )
        except e.UpwellError as error:
            if not wants_page(request):
                raise
            return refusal_page(error, request)
        return FileResponse(opened, request.headers, download=True)


def content_responses(*raised: type[e.UpwellError]) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of what hands out a file's bytes."""
    described = responses(
        e.ValidationFailed,
        e.RangeNotSatisfiable,
        e.PreconditionFailed,
        e.PasswordRequired,
        e.PasswordWrong,
        e.TooManyGuesses,
        e.TooManyDownloads,
        *DERIVING,
        e.PreviewNotFound,
        *raised,
    )
    whole = described_headers(_HEADERS)
    part = described_headers({"Content-Range": "Which bytes, and of how many."}) | whole
    described[200] = {"description": "The bytes.", "content": _BINARY, "headers": whole}
    described[206] = {"description": "The range asked for.", "content": _BINARY, "headers": part}
    described[304] = {"description": "The caller has them already.", "headers": whole}
    return described


def password_of(plain: str | None, encoded: str | None) -> str | None:
    """The password of an encrypted file, from its header: UTF-8 as it is, or in base64. Raises
    ValidationFailed."""
    try:
        if encoded is not None:
            return base64.b64decode(encoded, validate=True).decode()
        return None if plain is None else plain.encode("latin-1").decode()
    except ValueError:
        why = "must be UTF-8, or UTF-8 in base64 as X-Encrypt-Password-Base64"
        raise e.ValidationFailed(
            f"X-Encrypt-Password {why}.", errors={"X-Encrypt-Password": [why]}
        ) from None


def _add_changes(router: APIRouter, verbs: Verbs) -> None:
    changed = responses(*JSON_BODY, e.FileNotFound)

    async def answer(request: Request, verb: Callable[[Principal], CloudFile]) -> CloudFileOut:
        file = await call(request, verb)
        return CloudFileOut.of(file, verbs.pools.named(file.pool_id))

    @router.get("/{file_id}/info", summary="The CloudFile", responses=responses(e.FileNotFound))
    async def file_info(request: Request, file_id: FileId) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.info(p, file_id))

    @router.patch("/{file_id}/name", summary="Rename", responses=changed)
    async def rename_file(request: Request, file_id: FileId, body: Rename) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.rename(p, file_id, body.name))

    @router.put("/{file_id}/description", summary="Describe in words", responses=changed)
    async def describe_file(request: Request, file_id: FileId, body: Describe) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.describe(p, file_id, body.description))

    @router.put("/{file_id}/meta", summary="Set the user's own metadata", responses=changed)
    async def set_file_meta(request: Request, file_id: FileId, body: SetMeta) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.set_meta(p, file_id, body.user_meta))

    @router.put("/{file_id}/marks", summary="Set the sensitive marks", responses=changed)
    async def set_file_marks(request: Request, file_id: FileId, body: SetMarks) -> CloudFileOut:
        marks = body.sensitive_marks
        return await answer(request, lambda p: verbs.files.set_marks(p, file_id, marks))

    @router.post(
        "/{file_id}/restore",
        summary="Take out of the recycle bin",
        responses=responses(*CHANGES, e.FileNotFound),
    )
    async def restore_file(request: Request, file_id: FileId) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.restore(p, file_id))

    @router.delete(
        "/{file_id}",
        summary="Delete",
        status_code=204,
        responses=responses(*CHANGES, e.FileNotFound),
    )
    async def delete_file(request: Request, file_id: FileId) -> Response:
        """Into the recycle bin where its pool has one; for good elsewhere, and from in there.
        The bytes go when no other file of the account shares them."""
        await call(request, lambda p: verbs.files.delete(p, file_id))
        return Response(status_code=204)
