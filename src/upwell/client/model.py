"""What the server answers, read from its JSON and checked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from upwell.client.errors import Refusal, UnexpectedAnswer

T = TypeVar("T")

_ALGORITHM_OF_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


@dataclass(frozen=True, slots=True)
class Digest:
    """``algorithm`` as :mod:`hashlib` names it, and the value in lower-case hex."""

    algorithm: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Digest | None:
        """Read ``hex`` or ``algorithm:hex``; ``None`` when it is neither."""
        value = text.rpartition(":")[2].lower()
        algorithm = _ALGORITHM_OF_LENGTH.get(len(value))
        if algorithm is None or re.fullmatch(r"[0-9a-f]+", value) is None:
            return None
        return cls(algorithm, value)


@dataclass(frozen=True, slots=True)
class CloudFile:
    """A file on the server: ``size`` in bytes, ``created_at`` ISO 8601 UTC.

    ``raw`` is the whole answer, with every field that the server sent.
    """

    id: str
    name: str
    size: int
    hash: str
    mime_type: str
    created_at: str
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> CloudFile:
        """Read a CloudFile; :class:`UnexpectedAnswer` when it is none."""
        fields = _object(answer)
        return cls(
            id=_get(fields, "id", str),
            name=_get(fields, "name", str),
            size=_get(fields, "size", int),
            hash=fields.get("hash") or "",
            mime_type=fields.get("mime_type") or "",
            created_at=fields.get("created_at") or "",
            raw=fields,
        )


@dataclass(frozen=True, slots=True)
class Batched:
    """What became of one file of a batch: a file, a refusal, or neither when it is to be sent."""

    file: CloudFile | None
    existed: bool
    refusal: Refusal | None

    @classmethod
    def of(cls, answer: object) -> Batched:
        fields = _object(answer)
        file, error = fields.get("file"), fields.get("error")
        return cls(
            file=CloudFile.of(file) if file is not None else None,
            existed=fields.get("file_exists") is True,
            refusal=Refusal.of(_object(error)) if error is not None else None,
        )

    @classmethod
    def several(cls, answer: object, count: int) -> list[Batched]:
        """The results of a batch of ``count`` files, in their order."""
        results = _objects(_object(answer), "results")
        if len(results) != count:
            raise UnexpectedAnswer("The server's answer does not fit the batch.")
        return [cls.of(each) for each in results]


@dataclass(frozen=True, slots=True)
class UploadTask:
    """An upload in progress on the server.

    ``chunk_size`` is in bytes; every chunk is of that size, the last one what remains.
    ``missing`` are the indices that the server still needs, ``progress`` is 0 to 100.
    """

    id: str
    chunk_size: int
    chunks_count: int
    missing: tuple[int, ...]
    file_name: str = ""
    file_size: int = 0
    status: str = "in_progress"
    progress: float = 0.0
    raw: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def created(cls, answer: dict[str, Any], file_name: str, file_size: int) -> UploadTask:
        """Read the answer to a create: nothing was sent yet."""
        count = _get(answer, "chunks_count", int)
        task = cls(
            id=_get(answer, "task_id", str),
            chunk_size=_get(answer, "chunk_size", int),
            chunks_count=count,
            missing=(),
            file_name=file_name,
            file_size=file_size,
            raw=answer,
        )
        return task._checked(range(count))

    @classmethod
    def of(cls, answer: object) -> UploadTask:
        """Read a task as resume and the list of tasks give it."""
        fields = _object(answer)
        task = cls(
            id=_get(fields, "task_id", str),
            chunk_size=_get(fields, "chunk_size", int),
            chunks_count=_get(fields, "chunks_count", int),
            missing=(),
            file_name=_get(fields, "file_name", str),
            file_size=_get(fields, "file_size", int),
            status=_get(fields, "status", str),
            progress=float(fields.get("progress") or 0.0),
            raw=fields,
        )
        return task._checked(fields.get("missing_chunks") or ())

    def offset(self, index: int) -> int:
        """Where chunk ``index`` starts in the file, in bytes."""
        return index * self.chunk_size

    def length(self, index: int) -> int:
        """Bytes of chunk ``index``."""
        return min(self.chunk_size, self.file_size - self.offset(index))

    def with_missing(self, missing: object) -> UploadTask:
        """The same task with other chunks to send; refuses indices that it does not have."""
        return self._checked(missing)

    def _checked(self, missing: object) -> UploadTask:
        if self.chunk_size < 1 or self.chunks_count != -(-self.file_size // self.chunk_size):
            raise UnexpectedAnswer("The server's answer does not fit the file: its chunks differ.")
        if not isinstance(missing, (list, tuple, range)):
            raise UnexpectedAnswer("The server's answer lacks the list of missing chunks.")
        if not all(type(index) is int and 0 <= index < self.chunks_count for index in missing):
            raise UnexpectedAnswer("The server asks for chunks that the file does not have.")
        return replace(self, missing=tuple(sorted(set(missing))))


@dataclass(frozen=True, slots=True)
class Pool:
    """Where the server keeps bytes."""

    id: str
    name: str
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> Pool:
        fields = _object(answer)
        return cls(_get(fields, "id", str), _get(fields, "name", str), fields)


@dataclass(frozen=True, slots=True)
class PoolHoldings:
    """What the caller holds in one pool, in bytes of content; ``quota`` is the whole pool's."""

    pool: Pool
    stored: int
    reserved: int
    files: int
    quota: int | None


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the caller holds in all, in bytes of content: ``stored`` of files, ``reserved`` by
    ``open_uploads`` uploads in progress, of which ``unsent`` have not arrived yet.

    ``quota``, ``available``, ``max_open_uploads`` and ``max_unsent`` are None without a limit.
    """

    used: int
    stored: int
    reserved: int
    unsent: int
    open_uploads: int
    quota: int | None
    available: int | None
    max_open_uploads: int | None
    max_unsent: int | None
    pools: list[PoolHoldings]
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, usage: object, quota: object) -> Holdings:
        """Read both answers of ``/api/billing``."""
        held, allowed = _object(usage), _object(quota)
        quotas = {Pool.of(each.get("pool")).id: each for each in _objects(allowed, "pools")}
        pools = []
        for each in _objects(held, "pools"):
            pool = Pool.of(each.get("pool"))
            stored, reserved = _get(each, "stored_bytes", int), _get(each, "reserved_bytes", int)
            limit = quotas.get(pool.id, {}).get("quota")
            pools.append(PoolHoldings(pool, stored, reserved, _get(each, "files", int), limit))
        return cls(
            used=_get(allowed, "used", int),
            stored=_get(held, "stored_bytes", int),
            reserved=_get(held, "reserved_bytes", int),
            unsent=_get(held, "unsent_bytes", int),
            open_uploads=_get(held, "open_uploads", int),
            quota=allowed.get("quota"),
            available=allowed.get("available"),
            max_open_uploads=allowed.get("max_open_uploads"),
            max_unsent=allowed.get("max_unsent_bytes"),
            pools=pools,
            raw={"usage": held, "quota": allowed},
        )


@dataclass(frozen=True, slots=True)
class Move:
    """A move of a file to another pool: ``status`` is waiting, running, done or failed."""

    id: int
    pool_id: str
    status: str
    error: str | None
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> Move:
        fields = _object(answer)
        return cls(
            id=_get(fields, "id", int),
            pool_id=_get(fields, "pool_id", str),
            status=_get(fields, "status", str),
            error=fields.get("error"),
            raw=fields,
        )


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of ``total`` items. ``cursor`` is the ``after`` of the next page, None on the last."""

    items: list[T]
    total: int
    cursor: str | None = None


def _object(answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise UnexpectedAnswer("The answer is not one of an Upwell server.")
    return answer


def _objects(fields: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [_object(each) for each in _get(fields, key, list)]


def _get(fields: dict[str, Any], key: str, kind: type[T]) -> T:
    value = fields.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UnexpectedAnswer(f"The server's answer lacks `{key}`.")
    return value
