"""Pools, what is held in them, and moves between them, as JSON."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints

from upwell.core.pools import (
    MAX_BYTES,
    MAX_EXPIRY,
    MAX_NAME,
    MAX_TYPES,
    NAME,
    TYPE,
    Holdings,
    NewPool,
    PoolUsage,
)
from upwell.http.schemas import WHOLE, Instant, PoolRef, RequestBody
from upwell.model import DEFAULT_POOL_ID, Job, Policy, Pool

PoolName = Annotated[str, StringConstraints(min_length=1, max_length=MAX_NAME, pattern=NAME)]
Types = Annotated[
    list[Annotated[str, StringConstraints(max_length=255, pattern=TYPE)]],
    Field(max_length=MAX_TYPES, description="`image/png`, `image/*`, `*/*`; none for any type."),
]
Bytes = Annotated[int, Field(strict=True, ge=0, le=MAX_BYTES), WHOLE]
Flag = Annotated[bool | None, Field(strict=True)]
Seconds = Annotated[
    int,
    Field(
        strict=True,
        ge=1,
        le=int(MAX_EXPIRY.total_seconds()),
        description="The longest that a file lives here, in seconds.",
    ),
    WHOLE,
]
Limit = Literal["accept_types", "max_file_size", "quota", "file_expiry"]
_QUOTA = "Bytes that all accounts together may hold here."
_FLAGS = {
    "allow_encryption": "Files may be stored under a password.",
    "allow_anonymous": "Anyone may read its files who knows their ids.",
    "public_usable": "Every account may upload to it; else its owner and admins only.",
    "no_metadata": "No facts about contents are looked for.",
    "no_optimization": "No thumbnails and previews are made.",
    "enable_recycle": "What is deleted can be restored for a while.",
}


class PolicyIn(RequestBody):
    """The fields of a policy; what is absent stays as it is, or as it is by default."""

    accept_types: Types | None = None
    max_file_size: Bytes | None = Field(None, description="Bytes.")
    allow_encryption: Flag = Field(None, description=_FLAGS["allow_encryption"])
    allow_anonymous: Flag = Field(None, description=_FLAGS["allow_anonymous"])
    public_usable: Flag = Field(None, description=_FLAGS["public_usable"])
    no_metadata: Flag = Field(None, description=_FLAGS["no_metadata"])
    no_optimization: Flag = Field(None, description=_FLAGS["no_optimization"])
    enable_recycle: Flag = Field(None, description=_FLAGS["enable_recycle"])
    quota: Bytes | None = Field(None, description=_QUOTA)
    file_expiry: Seconds | None = None

    def changes(self) -> dict[str, Any]:
        """What was given, as fields of ``Policy``."""
        given = {
            name: value
            for name in PolicyIn.model_fields
            if (value := getattr(self, name)) is not None
        }
        if self.accept_types is not None:
            given["accept_types"] = tuple(self.accept_types)
        if self.file_expiry is not None:
            given["file_expiry"] = timedelta(seconds=self.file_expiry)
        return given


class CreatePool(PolicyIn):
    """A pool to be made: a folder of the server, and what may be put there."""

    name: PoolName
    path: Annotated[
        str | None,
        Field(
            max_length=4096,
            pattern=r"^/[^\x00-\x1f\x7f-\x9f]*$",
            description="A folder within the server's `pool_roots`; absent for one in its data "
            "folder.",
        ),
    ] = None

    def command(self) -> NewPool:
        return NewPool(self.name, Policy(**self.changes()), self.path)


class ChangePool(PolicyIn):
    """What is to be different. ``null`` is as good as absent: ``unset`` takes a limit away."""

    name: PoolName | None = None
    unset: Annotated[
        list[Limit] | None,
        Field(max_length=10, description="Limits that are to go, before others are set."),
    ] = None

    def all_changes(self) -> dict[str, Any]:
        """As fields of ``Policy``."""
        without = {name: () if name == "accept_types" else None for name in self.unset or ()}
        return without | self.changes()


class PoolOut(BaseModel):
    """Where bytes live, and under which policy; ``null`` is no limit."""

    id: UUID
    name: str
    is_default: bool = Field(description="Files go here that name no pool.")
    accept_types: list[str] = Field(description="None for any type.")
    max_file_size: int | None = Field(description="Bytes.")
    allow_encryption: bool = Field(description=_FLAGS["allow_encryption"])
    allow_anonymous: bool = Field(description=_FLAGS["allow_anonymous"])
    public_usable: bool = Field(description=_FLAGS["public_usable"])
    no_metadata: bool = Field(description=_FLAGS["no_metadata"])
    no_optimization: bool = Field(description=_FLAGS["no_optimization"])
    enable_recycle: bool = Field(description=_FLAGS["enable_recycle"])
    quota: int | None = Field(description=_QUOTA)
    file_expiry: int | None = Field(description="The longest that a file lives here, in seconds.")
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, pool: Pool) -> PoolOut:
        policy = pool.policy
        life = policy.file_expiry
        flags = {name: getattr(policy, name) for name in _FLAGS}
        return cls(
            id=UUID(pool.id),
            name=pool.name,
            is_default=pool.id == DEFAULT_POOL_ID,
            accept_types=list(policy.accept_types),
            max_file_size=policy.max_file_size,
            quota=policy.quota,
            file_expiry=None if life is None else int(life.total_seconds()),
            created_at=pool.created_at,
            updated_at=pool.updated_at,
            **flags,
        )


class UsageOut(BaseModel):
    """Bytes of content. Those that several files share count once."""

    stored_bytes: int = Field(description="Of files.")
    reserved_bytes: int = Field(description="Of uploads in progress.")
    total_bytes: int = Field(description="Both; what a quota is held against.")
    files: int = Field(description="How many.")


class PoolUsageOut(UsageOut):
    """What is held in one pool."""

    pool: PoolRef

    @classmethod
    def of(cls, held: PoolUsage) -> PoolUsageOut:
        return cls(pool=_ref(held.pool), **_figures([held]))


class PoolTotalOut(PoolUsageOut):
    """What everybody holds in one pool, and may hold there."""

    quota: int | None = Field(description=_QUOTA)
    available: int | None = Field(description="Bytes; null without a quota.")

    @classmethod
    def of(cls, held: PoolUsage) -> PoolTotalOut:
        quota = held.pool.policy.quota
        left = _left(quota, held.usage.total)
        return cls(pool=_ref(held.pool), quota=quota, available=left, **_figures([held]))


class HoldingsOut(UsageOut):
    """What the caller holds, in all and by pool."""

    open_uploads: int = Field(description="Uploads in progress.")
    unsent_bytes: int = Field(
        description="Bytes of `reserved_bytes` that the server has not received yet."
    )
    pools: list[PoolUsageOut] = Field(description="Those that the caller may use, or did.")

    @classmethod
    def of(cls, holdings: Holdings) -> HoldingsOut:
        pools = [PoolUsageOut.of(each) for each in holdings.pools]
        running = holdings.open
        return cls(
            open_uploads=running.count,
            unsent_bytes=running.unsent_bytes,
            pools=pools,
            **_figures(holdings.pools),
        )


class PoolQuotaOut(BaseModel):
    """A pool's quota, which all accounts share, and what the caller holds of it."""

    pool: PoolRef
    quota: int | None = Field(description=_QUOTA)
    used: int = Field(description="Bytes that the caller holds here.")
    reserved: int = Field(description="Bytes of `used` that uploads in progress hold.")

    @classmethod
    def of(cls, held: PoolUsage) -> PoolQuotaOut:
        usage, quota = held.usage, held.pool.policy.quota
        return cls(
            pool=_ref(held.pool), quota=quota, used=usage.total, reserved=usage.reserved_bytes
        )


class QuotaOut(BaseModel):
    """What the caller may hold over all pools; ``null`` is no limit."""

    quota: int | None = Field(description="Bytes.")
    used: int = Field(description="Bytes.")
    available: int | None = Field(description="Bytes.")
    reserved: int = Field(description="Bytes of `used` that uploads in progress hold.")
    max_open_uploads: int | None = Field(description="Uploads that may be in progress at once.")
    max_unsent_bytes: int | None = Field(
        description="Bytes that they may have reserved and not sent; one upload may have more."
    )
    pools: list[PoolQuotaOut] = Field(description="Those that the caller may use, or did.")

    @classmethod
    def of(cls, holdings: Holdings) -> QuotaOut:
        return cls(
            quota=holdings.quota,
            used=holdings.used,
            available=_left(holdings.quota, holdings.used),
            reserved=holdings.reserved,
            max_open_uploads=holdings.limits.count,
            max_unsent_bytes=holdings.limits.unsent_bytes,
            pools=[PoolQuotaOut.of(each) for each in holdings.pools],
        )


class MoveFile(RequestBody):
    pool_id: Annotated[UUID, Field(description="Where to.")]


class MoveOut(BaseModel):
    """A move of a file's bytes to another pool; the file stays readable meanwhile."""

    id: int
    pool_id: UUID = Field(description="Where to.")
    status: Literal["waiting", "running", "done", "failed"]
    error: str | None = Field(description="Why it failed; while it waits, why it has to.")
    created_at: Instant
    finished_at: Instant | None = Field(description="When it was done, or given up.")

    @classmethod
    def of(cls, job: Job) -> MoveOut:
        return cls(
            id=job.id,
            pool_id=UUID(job.argument),
            status=_status(job),
            error=job.error,
            created_at=job.created_at,
            finished_at=job.finished_at,
        )


def _status(job: Job) -> Literal["waiting", "running", "done", "failed"]:
    """A job that failed before waits for its next try, and is told so until it ends."""
    if job.finished_at is not None:
        return "done" if job.error is None else "failed"
    return "running" if job.attempts and job.error is None else "waiting"


def _ref(pool: Pool) -> PoolRef:
    return PoolRef(id=UUID(pool.id), name=pool.name)


def _figures(held: list[PoolUsage]) -> dict[str, int]:
    return {
        "stored_bytes": sum(each.usage.stored_bytes for each in held),
        "reserved_bytes": sum(each.usage.reserved_bytes for each in held),
        "total_bytes": sum(each.usage.total for each in held),
        "files": sum(each.usage.files for each in held),
    }


def _left(quota: int | None, used: int) -> int | None:
    return None if quota is None else max(0, quota - used)
