"""Stored files (contract section 2) under ``/api/files``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from upwell import errors as e
from upwell.http.downloads import FileResponse
from upwell.http.errors import CHANGES, JSON_BODY, described_headers, responses
from upwell.http.guard import call
from upwell.http.schemas import BatchDelete, CloudFileOut, Deleted, Rename, SetMarks, SetMeta
from upwell.http.upload_routes import TOTAL, Offset, Take

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.core.verbs import Verbs
    from upwell.model import CloudFile, Principal

FileId = Annotated[str, Path(description="The CloudFile's `id`.")]
_BINARY = {"*/*": {"schema": {"type": "string", "format": "binary"}}}
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
    _add_changes(router, verbs)
    return router


def _add_lists(router: APIRouter, verbs: Verbs) -> None:
    listed = responses(e.ValidationFailed)
    listed[200] = {"description": "Newest first.", "headers": TOTAL}

    @router.get("/me", summary="The caller's files", responses=listed)
    async def my_files(
        request: Request, response: Response, offset: Offset = 0, take: Take = 20
    ) -> list[CloudFileOut]:
        page = await call(request, lambda p: verbs.files.mine(p, offset, take))
        response.headers["X-Total"] = str(page.total)
        return [CloudFileOut.of(file, verbs.pools[file.pool_id]) for file in page.items]

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
    content = responses(e.ValidationFailed, e.FileNotFound, e.RangeNotSatisfiable)
    whole = described_headers(_HEADERS)
    part = described_headers({"Content-Range": "Which bytes, and of how many."}) | whole
    content[200] = {"description": "The bytes.", "content": _BINARY, "headers": whole}
    content[206] = {"description": "The range asked for.", "content": _BINARY, "headers": part}
    content[304] = {"description": "The caller has them already.", "headers": whole}

    async def download_file(
        request: Request,
        file_id: FileId,
        download: Annotated[bool, Query(description="As an attachment in any case.")] = False,
    ) -> Response:
        """`Range` (one range), `If-Range` and `If-None-Match` are honoured."""
        opened = await call(request, lambda p: verbs.files.open(p, file_id))
        return FileResponse(opened, request.headers, download=download)

    for method, name in (("GET", "download_file"), ("HEAD", "head_file")):
        router.add_api_route(
            "/{file_id}",
            download_file,
            methods=[method],
            name=name,
            summary="The content" if method == "GET" else "The content's headers",
            responses=content,
            response_class=Response,
        )


def _add_changes(router: APIRouter, verbs: Verbs) -> None:
    changed = responses(*JSON_BODY, e.FileNotFound)

    async def answer(request: Request, verb: Callable[[Principal], CloudFile]) -> CloudFileOut:
        file = await call(request, verb)
        return CloudFileOut.of(file, verbs.pools[file.pool_id])

    @router.get("/{file_id}/info", summary="The CloudFile", responses=responses(e.FileNotFound))
    async def file_info(request: Request, file_id: FileId) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.info(p, file_id))

    @router.patch("/{file_id}/name", summary="Rename", responses=changed)
    async def rename_file(request: Request, file_id: FileId, body: Rename) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.rename(p, file_id, body.name))

    @router.put("/{file_id}/meta", summary="Set the user's own metadata", responses=changed)
    async def set_file_meta(request: Request, file_id: FileId, body: SetMeta) -> CloudFileOut:
        return await answer(request, lambda p: verbs.files.set_meta(p, file_id, body.user_meta))

    @router.put("/{file_id}/marks", summary="Set the sensitive marks", responses=changed)
    async def set_file_marks(request: Request, file_id: FileId, body: SetMarks) -> CloudFileOut:
        marks = body.sensitive_marks
        return await answer(request, lambda p: verbs.files.set_marks(p, file_id, marks))

    @router.delete(
        "/{file_id}",
        summary="Delete",
        status_code=204,
        responses=responses(*CHANGES, e.FileNotFound),
    )
    async def delete_file(request: Request, file_id: FileId) -> Response:
        """The bytes go when no other file of the account shares them."""
        await call(request, lambda p: verbs.files.delete(p, file_id))
        return Response(status_code=204)
