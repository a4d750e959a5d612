"""The frozen values that every room shares. No behaviour beyond their own arithmetic."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from upwell.errors import ValidationFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

DEFAULT_CHUNK_SIZE = 5 * 1024 * 1024
DEFAULT_POOL_ID = "00000000-0000-4000-8000-000000000001"
GENERIC_TYPE = "application/octet-stream"

_HEX = re.compile(r"[0-9a-f]+\Z")


class Scope(StrEnum):
    """What a token allows; an account's own rights bound it."""

    READ = "files:read"
    WRITE = "files:write"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest by name: ``algorithm`` is hashlib's name, ``hex`` is lower case."""

    algorithm: str
    hex: str

    ALGORITHMS = ("md5", "sha1", "sha256", "sha512")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``hex`` (the algorithm told by its length) or ``algorithm:hex``.

        Raises ValidationFailed when it is neither.
        """
        name, colon, value = text.strip().lower().rpartition(":")
        name = name.replace("-", "")
        by_length = {2 * hashlib.new(a).digest_size: a for a in cls.ALGORITHMS}
        algorithm = by_length.get(len(value))
        if algorithm is None or not _HEX.match(value) or (colon and name != algorithm):
            why = (
                "must be a hex digest of 32 (MD5), 40 (SHA-1), 64 (SHA-256) or 128 (SHA-512) "
                "characters, alone or as algorithm:hex"
            )
            raise ValidationFailed(f"hash {why}.", errors={"hash": [why]})
        return cls(algorithm, value)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True)
class Account:
    id: str
    name: str
    is_admin: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer credential. ``digest`` is SHA-256 of the secret; the secret is not kept."""

    id: str
    account_id: str
    name: str
    digest: bytes
    scopes: frozenset[Scope]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: an account and what the credential in hand lets it do."""

    account: Account
    scopes: frozenset[Scope]
    token_id: str

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes and (scope is not Scope.ADMIN or self.account.is_admin)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a pool takes. ``None`` is no limit; sizes are bytes."""

    max_file_size: int | None = None
    accept_types: tuple[str, ...] = ()
    allow_encryption: bool = False


@dataclass(frozen=True, slots=True)
class Pool:
    id: str
    name: str
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an upload's bytes lie: ``size`` bytes under ``key``, in chunks of ``chunk_size``."""

    key: str
    size: int
    chunk_size: int

    @property
    def count(self) -> int:
        return -(-self.size // self.chunk_size)

    def offset(self, index: int) -> int:
        return index * self.chunk_size

    def length(self, index: int) -> int:
        """Bytes of chunk ``index``: ``chunk_size``, or what remains for the last one."""
        return min(self.chunk_size, self.size - self.offset(index))


@dataclass(frozen=True, slots=True)
class Chunk:
    """An acknowledged chunk. ``etag`` is the store's own; ``staged`` names the side object
    that holds its bytes when it replaced an earlier acknowledged chunk."""

    index: int
    size: int
    etag: str
    staged: str | None = None


class TaskStatus(StrEnum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What a caller asks for; validated in shape, not yet against policy."""

    file_name: str
    file_size: int
    content_type: str
    digest: Digest | None = None
    pool_id: str | None = None
    bundle_id: str | None = None
    encrypted: bool = False
    expired_at: datetime | None = None
    chunk_size: int = DEFAULT_CHUNK_SIZE


@dataclass(frozen=True, slots=True)
class UploadTask:
    """An upload under way. ``revision`` counts replacements of acknowledged chunks."""

    id: str
    account_id: str
    pool_id: str
    bundle_id: str | None
    file_name: str
    content_type: str
    digest: Digest | None
    expired_at: datetime | None
    layout: Layout
    status: TaskStatus
    created_at: datetime
    updated_at: datetime
    expires_at: datetime
    revision: int = 0
    received_count: int = 0
    received_bytes: int = 0
    file_id: str | None = None

    @property
    def progress(self) -> float:
        """Received share in percent, 0 to 100."""
        if self.layout.size == 0:
            return 100.0
        return 10000 * self.received_bytes // self.layout.size / 100

    def identity(self) -> str | None:
        """What makes two creates the same upload; None when the content is not named."""
        if self.digest is None:
            return None
        parts: Sequence[str] = (
            str(self.digest),
            str(self.layout.size),
            self.pool_id,
            self.bundle_id or "",
            self.file_name,
        )
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored, verified bytes that never change; shared by one account's files."""

    id: str
    pool_id: str
    key: str
    size: int
    digests: dict[str, str]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class CloudFile:
    """A file as its owner sees it. ``digest`` is the declared one, or the server's SHA-256."""

    id: str
    account_id: str
    pool_id: str
    bundle_id: str | None
    blob: Blob
    name: str
    mime_type: str
    digest: Digest
    expired_at: datetime | None
    created_at: datetime
    updated_at: datetime
    description: str | None = None
    user_meta: dict[str, Any] = field(default_factory=dict)
    sensitive_marks: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        return self.blob.size


@dataclass(frozen=True, slots=True)
class Garbage:
    """Bytes whose row is gone and that the sweeper may remove."""

    pool_id: str
    key: str
