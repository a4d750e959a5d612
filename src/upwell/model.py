"""The frozen values that every room shares. No behaviour beyond their own arithmetic."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from upwell.errors import ValidationFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_CHUNK_SIZE = 5 * 1024 * 1024
DEFAULT_POOL_ID = "00000000-0000-4000-8000-000000000001"
GENERIC_TYPE = "application/octet-stream"

_HEX = re.compile(r"[0-9a-f]+\Z")


def is_generic(content_type: str) -> bool:
    """Whether a declared type says nothing of the content, however it is written."""
    plain = content_type.split(";", maxsplit=1)[0].strip().lower()
    return plain in ("", GENERIC_TYPE)


def folded(text: str) -> str:
    """A name as people compare it: without case, and without the several ways in which Unicode
    writes one character. Made here, so that every database agrees; without NUL, where SQLite's
    comparisons end."""
    return _compatible(_compatible(text).casefold()).replace("\0", "")


def _compatible(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


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
    """``quota`` is bytes over all pools; ``None`` is the server's default."""

    id: str
    name: str
    is_admin: bool
    created_at: datetime
    quota: int | None = None


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
    """What a pool takes, and what happens to it there. ``None`` is no limit; sizes are bytes.

    ``quota`` bounds the whole pool. A file lives at most ``file_expiry``. ``allow_anonymous``:
    anyone may read its files; ``public_usable``: any account may upload to it.
    ``no_metadata`` and ``no_optimization`` turn facts and previews off; with
    ``enable_recycle``, what is deleted can be restored for a while.
    """

    max_file_size: int | None = None
    accept_types: tuple[str, ...] = ()
    allow_encryption: bool = True
    allow_anonymous: bool = False
    public_usable: bool = False
    no_metadata: bool = False
    no_optimization: bool = False
    enable_recycle: bool = False
    quota: int | None = None
    file_expiry: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Where bytes live, and under which policy. ``account_id`` is its owner's, None for the
    operator's; ``path`` the folder of its bytes, None for one in the data folder."""

    id: str
    name: str
    policy: Policy
    account_id: str | None
    path: str | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Usage:
    """What is held in one pool, by one account or by all; bytes of content."""

    stored_bytes: int = 0
    reserved_bytes: int = 0
    files: int = 0

    @property
    def total(self) -> int:
        return self.stored_bytes + self.reserved_bytes


@dataclass(frozen=True, slots=True)
class OpenUploads:
    """An account's uploads in progress: how many, and the bytes that they have reserved and
    not received yet."""

    count: int = 0
    unsent_bytes: int = 0


@dataclass(frozen=True, slots=True)
class OpenLimits:
    """The most uploads that an account may have in progress, and the most bytes that they may
    have reserved and not received; None is no limit."""

    count: int | None = None
    unsent_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """The most bytes that a pool, and an account over all pools, may hold; None is no limit.

    ``tells_pool``: whether the caller may know how many bytes everyone holds in the pool.
    """

    pool: int | None = None
    account: int | None = None
    tells_pool: bool = False

    def told(self, pool_used: int) -> int | None:
        """The bytes that everyone holds in the pool, as far as the caller may know them."""
        return pool_used if self.tells_pool else None


NO_LIMIT = Allowance()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an upload's bytes lie: ``size`` bytes under ``key``, in chunks of ``chunk_size``,
    the first of which has ``head`` bytes more in front."""

    key: str
    size: int
    chunk_size: int
    head: int = 0

    @property
    def count(self) -> int:
        return -(-max(0, self.size - self.head) // self.chunk_size)

    def offset(self, index: int) -> int:
        return index * self.chunk_size + (self.head if index else 0)

    def length(self, index: int) -> int:
        """Bytes of chunk ``index``: ``chunk_size``, or what remains for the last one."""
        full = self.chunk_size + (0 if index else self.head)
        return min(full, self.size - self.offset(index))


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


class FileOrder(StrEnum):
    """By what a list of files is sorted. Names: as ``folded``."""

    NEWEST = "newest"
    OLDEST = "oldest"
    NAME = "name"
    NAME_REVERSED = "-name"
    SMALLEST = "size"
    LARGEST = "-size"


@dataclass(frozen=True, slots=True)
class FileQuery:
    """Which files, and in what order: those with ``search`` in their names, in whatever case;
    all when it is empty."""

    search: str = ""
    order: FileOrder = FileOrder.NEWEST


ALL_FILES = FileQuery()


# When something is to end: at an instant, or so long from now by the server's clock.
Ends = datetime | timedelta


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """The options of an upload that may still change while its chunks arrive."""

    file_name: str
    content_type: str
    pool_id: str | None = None
    bundle_id: str | None = None
    expired_at: Ends | None = None


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What a caller asks for; validated in shape, not yet against policy."""

    file_name: str
    file_size: int
    content_type: str
    digest: Digest | None = None
    pool_id: str | None = None
    bundle_id: str | None = None
    password: str | None = field(default=None, repr=False)
    expired_at: Ends | None = None
    chunk_size: int = DEFAULT_CHUNK_SIZE


@dataclass(frozen=True, slots=True)
class Seal:
    """How an open upload is encrypted: the head of its age file, and its file key, wrapped
    under the server's own. ``check`` tells two passwords apart (``core.sealing``)."""

    head: bytes
    wrapped_key: bytes = field(repr=False)
    check: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class UploadTask:
    """An upload under way. ``layout`` is the client's, whatever is stored; ``revision`` counts
    replacements of acknowledged chunks."""

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
    seal: Seal | None = None

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
            *([self.seal.check] if self.seal else []),
        )
        return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Sealed:
    """How an encrypted blob lies: an age file of ``head`` bytes before its first block, written
    in chunks of ``chunk_size`` bytes of content, whose stored bytes have the digest ``check``
    (``core.sealing.fold``)."""

    head: int
    chunk_size: int
    check: str


@dataclass(frozen=True, slots=True)
class Blob:
    """Stored, verified bytes that never change; shared by one account's files.

    ``size`` and ``digests`` are the content's, also when it is ``sealed``. ``facts`` is what
    the content is, as far as that is known; the keys name derived images in the same pool.
    """

    id: str
    pool_id: str
    key: str
    size: int
    digests: dict[str, str]
    created_at: datetime
    sealed: Sealed | None = None
    facts: dict[str, Any] | None = None
    thumbnail_key: str | None = None
    preview_key: str | None = None
    crc32: int | None = None


@dataclass(frozen=True, slots=True)
class CloudFile:
    """A file as its owner sees it. ``digest`` is the declared one, or the server's SHA-256;
    ``recycled_at`` is when it was put into the recycle bin."""

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
    recycled_at: datetime | None = None

    @property
    def size(self) -> int:
        return self.blob.size

    @property
    def encrypted(self) -> bool:
        return self.blob.sealed is not None

    @property
    def has_thumbnail(self) -> bool:
        """Whether one is handed out: nothing is from the recycle bin."""
        return self.blob.thumbnail_key is not None and self.recycled_at is None

    @property
    def has_preview(self) -> bool:
        return self.blob.preview_key is not None and self.recycled_at is None


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files that are shared under one slug. ``passcode_hash`` is Argon2id in PHC form;
    ``revision`` grows with each change of the files in it."""

    id: str
    account_id: str
    slug: str
    name: str
    description: str | None
    passcode_hash: str | None = field(repr=False)
    expired_at: datetime | None
    created_at: datetime
    updated_at: datetime
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Link:
    """A signed link to one file. ``allowance`` is how many bytes it may still hand out, None
    for any number; it was made for ``max_downloads``."""

    id: str
    account_id: str
    file_id: str
    created_at: datetime
    expires_at: datetime
    max_downloads: int | None = None
    allowance: int | None = None


class EventType(StrEnum):
    UPLOAD_CREATED = "upload.created"
    UPLOAD_CANCELLED = "upload.cancelled"
    UPLOAD_EXPIRED = "upload.expired"
    FILE_CREATED = "file.created"
    FILE_UPDATED = "file.updated"
    FILE_RECYCLED = "file.recycled"
    FILE_RESTORED = "file.restored"
    FILE_DELETED = "file.deleted"
    FILE_EXPIRED = "file.expired"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to an upload or a file of an account. ``seq`` grows with every event."""

    seq: int
    account_id: str
    type: EventType
    data: dict[str, Any]
    at: datetime


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where an account's events are posted to. ``events`` are types, none for all of them; the
    signing secret is kept under the server's key only."""

    id: str
    account_id: str
    url: str
    events: tuple[str, ...]
    wrapped_secret: bytes = field(repr=False)
    created_at: datetime
    disabled_at: datetime | None = None


class JobKind(StrEnum):
    PREVIEW = "preview"
    MOVE = "move"
    DELIVER = "deliver"


@dataclass(frozen=True, slots=True)
class NewJob:
    """Work to be done after the transaction that asks for it. ``subject`` is an id; accounts
    take turns, so ``account_id`` says for whom it is done."""

    kind: JobKind
    subject: str
    argument: str = ""
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """Work that waits, is done under a lease, or has ended. ``error`` is the last failure."""

    id: int
    kind: JobKind
    subject: str
    argument: str
    attempts: int
    due_at: datetime
    created_at: datetime
    finished_at: datetime | None = None
    error: str | None = None
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Bytes whose row is gone and that the sweeper may remove."""

    pool_id: str
    key: str


@dataclass(frozen=True, slots=True)
class Noted:
    """One line of a catalog's journal: what became of an account, a token, a pool, a bundle or
    a file.

    ``deleted`` is a file's id, ``removed`` a bundle's, ``revoked`` a token's, all of
    ``account_id``.
    """

    account: Account | None = None
    token: Token | None = None
    pool: Pool | None = None
    bundle: Bundle | None = None
    file: CloudFile | None = None
    deleted: str | None = None
    removed: str | None = None
    revoked: str | None = None
    account_id: str | None = None
