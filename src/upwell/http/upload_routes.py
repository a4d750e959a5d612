"""The multi-part upload API (contract section 1) under ``/api/files/upload``."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError, WithJsonSchema

from upwell import errors as e
from upwell.core.uploads import Verifying
from upwell.http import batch_routes, listings
from upwell.http.bodies import receive_chunk
from upwell.http.chunks import CHECKSUM_HEADER, parse_checksum
from upwell.http.errors import CHANGES, FORM_BODY, IN_MEMORY, JSON_BODY, REFUSALS, responses
from upwell.http.guard import call, in_thread
from upwell.http.listings import After, Offset, Take
from upwell.http.live import frame
from upwell.http.schemas import (
    CloudFileOut,
    CreateUpload,
    DirectUpload,
    FileExists,
    ResumeOut,
    ResumeUpload,
    TaskCreated,
    TaskOut,
)
from upwell.model import CloudFile, Principal, TaskStatus

if TYPE_CHECKING:
    from upwell.core.verbs import Verbs
    from upwell.http.direct import Forms
    from upwell.http.live import LiveStreams

TaskId = Annotated[str, Path(description="From create.")]

_CHUNK_BODY = {
    "type": "object",
    "required": ["chunk"],
    "properties": {"chunk": {"type": "string", "format": "binary"}},
}


def make_routes(verbs: Verbs, forms: Forms, streams: LiveStreams) -> APIRouter:
    """The routes, without their prefix."""
    router = APIRouter(tags=["uploads"])
    _add_create(router, verbs)
    _add_chunk(router, verbs)
    _add_complete(router, verbs)
    _add_direct(router, verbs, forms)
    batch_routes.add_batch(router, verbs, forms)
    _add_status(router, verbs, streams)
    _add_tasks(router, verbs)  # last: a task's path would else be taken for the others'
    return router


def _add_create(router: APIRouter, verbs: Verbs) -> None:
    @router.post(
        "/upload/create",
        summary="Create an upload task",
        responses=responses(
            *JSON_BODY,
            *REFUSALS,
            e.TooManyOpenUploads,
            e.TooManyUnsentBytes,
        ),
    )
    async def create_upload(request: Request, body: CreateUpload) -> FileExists | TaskCreated:
        """Answers the file when the account already holds the content, or a task to send
        chunks to. Asking again for the same content and destination resumes that task."""
        new = body.command()
        made = await call(request, lambda principal: verbs.uploads.create(principal, new))
        if isinstance(made, CloudFile):
            return FileExists(file=_out(verbs, made))
        return TaskCreated.of(made)


def _add_chunk(router: APIRouter, verbs: Verbs) -> None:
    described = responses(
        *FORM_BODY,
        e.ChunkIndexInvalid,
        e.ChunkSizeMismatch,
        e.ChecksumMismatch,
        e.ChecksumUnsupported,
        e.TaskNotFound,
        e.TaskClosed,
        e.ChunkBusy,
        e.ChunkConflict,
        e.ChunkSuperseded,
        e.QuotaExceeded,
    )
    described[200] = {"description": "The chunk is durable.", "content": {}}

    async def upload_chunk(
        request: Request,
        task_id: TaskId,
        chunk_index: Annotated[int, Path(ge=0, le=1 << 31, description="Counted from 0.")],
        upload_checksum: Annotated[
            str | None,
            Header(
                description="`algorithm base64` of the chunk, as in tus.",
                pattern=CHECKSUM_HEADER,
            ),
            WithJsonSchema({"type": "string", "pattern": CHECKSUM_HEADER}),
        ] = None,
    ) -> Response:
        """From the 200 on, the chunk survives a crash of the process and of the machine."""
        principal: Principal = request.scope["state"]["principal"]
        checksum = parse_checksum(upload_checksum)
        await receive_chunk(
            request, lambda: verbs.uploads.open_chunk(principal, task_id, chunk_index, checksum)
        )
        return Response(status_code=200)

    path = "/upload/chunk/{task_id}/{chunk_index}"
    for method, media, schema in (
        ("POST", "multipart/form-data", _CHUNK_BODY),
        ("PUT", "application/octet-stream", {"type": "string", "format": "binary"}),
    ):
        body = {"required": True, "content": {media: {"schema": schema}}}
        router.add_api_route(
            path,
            upload_chunk,
            methods=[method],
            name=f"upload_chunk_{'form' if method == 'POST' else 'raw'}",
            summary=f"Send a chunk as {media}",
            response_class=Response,
            responses=described,
            openapi_extra={"requestBody": body},
        )


def _add_complete(router: APIRouter, verbs: Verbs) -> None:
    @router.post(
        "/upload/complete/{task_id}",
        summary="Verify and complete",
        responses=responses(
            *CHANGES,
            e.ChunksMissing,
            e.HashMismatch,
            e.TaskNotFound,
            e.TaskClosed,
        ),
    )
    async def complete_upload(request: Request, task_id: TaskId) -> CloudFileOut:
        """Idempotent. Nothing that was uploaded is lost when it is refused."""
        principal: Principal = request.scope["state"]["principal"]
        answer = await in_thread(lambda: verbs.uploads.begin_complete(principal, task_id))
        while isinstance(answer, Verifying):
            await asyncio.wait([asyncio.wrap_future(answer.digests)])
            answer = await in_thread(partial(verbs.uploads.finish_complete, principal, answer))
        return _out(verbs, answer)


def _add_status(router: APIRouter, verbs: Verbs, streams: LiveStreams) -> None:
    @router.get(
        "/upload/resume/{task_id}",
        summary="What is here and what is missing",
        responses=responses(e.TaskNotFound),
    )
    async def resume_upload(request: Request, task_id: TaskId) -> ResumeOut:
        return await _resume(verbs, request, task_id)

    @router.put(
        "/upload/resume/{task_id}",
        summary="Resume with these options",
        responses=responses(*JSON_BODY, *REFUSALS, e.TaskNotFound, e.TaskClosed),
    )
    async def resume_upload_with(
        request: Request, task_id: TaskId, body: ResumeUpload
    ) -> ResumeOut:
        """Gives an open upload these options in place of those it began with, and answers what
        is here and what is missing. An upload keeps its pool; asking for another is refused."""
        asked = body.options()
        status = await call(request, lambda p: verbs.uploads.resume(p, task_id, asked))
        return ResumeOut.with_chunks(status.task, status.uploaded, status.missing)

    streamed = responses(e.TaskNotFound, e.TooManyStreams)
    streamed[200] = {
        "description": "The figures; as `text/event-stream` when asked for, an event "
        "`progress` whenever they change, until the upload ends.",
        "model": ResumeOut,
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }

    @router.get(
        "/upload/progress/{task_id}",
        summary="Progress, once or live",
        responses=streamed,
        response_model=ResumeOut,
    )
    async def upload_progress(
        request: Request,
        task_id: TaskId,
        accept: Annotated[str, Header(include_in_schema=False)] = "",
    ) -> Any:
        figures = await _resume(verbs, request, task_id)
        if "text/event-stream" not in accept:
            return figures
        return streams.answer(request, _Progress(verbs, task_id))


def _add_tasks(router: APIRouter, verbs: Verbs) -> None:
    listed = responses(e.ValidationFailed)
    listed[200] = {"description": "Newest first.", "headers": listings.HEADERS}

    @router.get("/upload/tasks", summary="The caller's tasks", responses=listed)
    async def list_tasks(
        request: Request,
        response: Response,
        status: Annotated[
            TaskStatus | None, Query(description="Only those; all when absent.")
        ] = None,
        offset: Offset = 0,
        take: Take = 20,
        after: After = None,
    ) -> list[TaskOut]:
        page = await call(request, lambda p: verbs.uploads.tasks(p, status, offset, take, after))
        listings.describe(response, page)
        return [TaskOut.of(task) for task in page.items]

    @router.delete(
        "/upload/{task_id}",
        summary="Cancel an upload",
        status_code=204,
        responses=responses(*CHANGES, e.TaskNotFound, e.TaskClosed),
    )
    async def cancel_upload(request: Request, task_id: TaskId) -> Response:
        """Its bytes are freed; cancelling again is fine."""
        await call(request, lambda p: verbs.uploads.cancel(p, task_id))
        return Response(status_code=204)


def _add_direct(router: APIRouter, verbs: Verbs, forms: Forms) -> None:
    form = {"multipart/form-data": {"schema": DirectUpload.form_schema()}}
    body = {"required": True, "content": form}

    @router.post(
        "/upload/direct",
        summary="Store a small file in one request",
        responses=responses(
            *FORM_BODY,
            *REFUSALS,
            *IN_MEMORY,
            e.HashMismatch,
        ),
        openapi_extra={"requestBody": body},
    )
    async def upload_direct(request: Request) -> CloudFileOut:
        """For what fits into memory; anything larger goes by chunks."""
        async with forms.direct(request) as form:
            try:
                new = DirectUpload.model_validate(form.values()).command()
            except ValidationError as error:
                raise RequestValidationError(error.errors()) from None
            data = bytes(form.content)
            file = await call(request, lambda p: verbs.uploads.store_direct(p, new, data))
        return _out(verbs, file)


async def _resume(verbs: Verbs, request: Request, task_id: str) -> ResumeOut:
    status = await call(request, lambda p: verbs.uploads.status(p, task_id))
    return ResumeOut.with_chunks(status.task, status.uploaded, status.missing)


class _Progress:
    """A task's figures whenever they change, until it ends, for a live stream."""

    behind = False

    def __init__(self, verbs: Verbs, task_id: str) -> None:
        self._verbs = verbs
        self._task_id = task_id
        self._last: tuple[int, TaskStatus, int] | None = None
        self.over = False

    def look(self, principal: Principal) -> list[str]:
        task = self._verbs.uploads.progress(principal, self._task_id)
        self.over = task.status is not TaskStatus.IN_PROGRESS
        now = (task.received_bytes, task.status, task.revision)
        if now == self._last:
            return []
        self._last = now
        return [frame("progress", TaskOut.of(task).model_dump(mode="json"))]


def _out(verbs: Verbs, file: CloudFile) -> CloudFileOut:
    return CloudFileOut.of(file, verbs.pools.named(file.pool_id))
