"""Pools, usage and quota under ``/api``; and moves of files, under the files' prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from upwell import errors as e
from upwell.http.errors import CHANGES, JSON_BODY, responses
from upwell.http.file_routes import FileId
from upwell.http.guard import call
from upwell.http.pool_schemas import (
    ChangePool,
    CreatePool,
    HoldingsOut,
    MoveFile,
    MoveOut,
    PoolOut,
    PoolTotalOut,
    QuotaOut,
)

if TYPE_CHECKING:
    from upwell.core.verbs import Verbs

PoolId = Annotated[UUID, Path(description="The pool's `id`.")]


def make_routes(verbs: Verbs) -> APIRouter:
    """The routes under ``/api``."""
    router = APIRouter(tags=["pools"])
    _add_reading(router, verbs)
    _add_changes(router, verbs)
    _add_billing(router, verbs)
    return router


def make_file_routes(verbs: Verbs) -> APIRouter:
    """The routes of a file, without their prefix."""
    router = APIRouter(tags=["files"])

    @router.post(
        "/{file_id}/move",
        summary="Move to another pool",
        status_code=202,
        responses=responses(
            *JSON_BODY,
            e.FileNotFound,
            e.PoolNotFound,
            e.EncryptionNotAllowed,
            e.FileTooLarge,
            e.TypeNotAccepted,
            e.QuotaExceeded,
        ),
    )
    async def move_file(request: Request, file_id: FileId, body: MoveFile) -> MoveOut:
        """The bytes are copied and verified in the background; the file keeps its id and stays
        readable. Asking again while that lasts answers the same move."""
        pool_id = str(body.pool_id)
        return MoveOut.of(await call(request, lambda p: verbs.pools.move(p, file_id, pool_id)))

    @router.get(
        "/{file_id}/moves",
        summary="How its moves to other pools stand",
        responses=responses(e.FileNotFound),
    )
    async def file_moves(request: Request, file_id: FileId) -> list[MoveOut]:
        """The latest ten, newest first; they are forgotten some days after their end."""
        found = await call(request, lambda p: verbs.pools.moves(p, file_id))
        return [MoveOut.of(job) for job in found]

    return router


def _add_reading(router: APIRouter, verbs: Verbs) -> None:
    known = responses(e.ValidationFailed, e.PoolNotFound)

    @router.get("/pools", summary="The pools that the caller may use", responses=responses())
    async def list_pools(request: Request) -> list[PoolOut]:
        """Oldest first; the default pool is where files go that name none."""
        return [PoolOut.of(pool) for pool in await call(request, verbs.pools.visible)]

    @router.get("/pools/{pool_id}", summary="A pool and its policy", responses=known)
    async def get_pool(request: Request, pool_id: PoolId) -> PoolOut:
        return PoolOut.of(await call(request, lambda p: verbs.pools.get(p, str(pool_id))))

    @router.get("/pools/{pool_id}/usage", summary="What everybody holds in a pool", responses=known)
    async def pool_usage(request: Request, pool_id: PoolId) -> PoolTotalOut:
        """For administrators."""
        found = await call(request, lambda p: verbs.pools.pool_usage(p, str(pool_id)))
        return PoolTotalOut.of(found)


def _add_changes(router: APIRouter, verbs: Verbs) -> None:
    @router.post(
        "/pools",
        summary="Make a pool",
        status_code=201,
        responses=responses(*JSON_BODY, e.PoolExists),
    )
    async def create_pool(request: Request, body: CreatePool) -> PoolOut:
        """For administrators."""
        new = body.command()
        return PoolOut.of(await call(request, lambda p: verbs.pools.create(p, new)))

    @router.patch(
        "/pools/{pool_id}",
        summary="Change a pool's name or policy",
        responses=responses(*JSON_BODY, e.PoolNotFound, e.PoolExists),
    )
    async def change_pool(request: Request, pool_id: PoolId, body: ChangePool) -> PoolOut:
        """For administrators. It holds for what comes from then on: files that are there stay
        as they are."""
        changes = body.all_changes()
        changed = await call(
            request, lambda p: verbs.pools.update(p, str(pool_id), body.name, changes)
        )
        return PoolOut.of(changed)

    @router.delete(
        "/pools/{pool_id}",
        summary="Remove an empty pool",
        status_code=204,
        responses=responses(*CHANGES, e.ValidationFailed, e.PoolNotFound, e.PoolInUse),
    )
    async def delete_pool(request: Request, pool_id: PoolId) -> Response:
        """For administrators. Not while a file or an upload in progress is in it; the default
        pool stays."""
        await call(request, lambda p: verbs.pools.delete(p, str(pool_id)))
        return Response(status_code=204)


def _add_billing(router: APIRouter, verbs: Verbs) -> None:
    @router.get("/billing/usage", summary="What the caller holds", responses=responses())
    async def my_usage(request: Request) -> HoldingsOut:
        """In the recycle bin too. Bytes that several of the caller's files share count once."""
        return HoldingsOut.of(await call(request, verbs.pools.holdings))

    @router.get("/billing/quota", summary="What the caller may hold", responses=responses())
    async def my_quota(request: Request) -> QuotaOut:
        """What uploads in progress have reserved counts as used."""
        return QuotaOut.of(await call(request, verbs.pools.holdings))
