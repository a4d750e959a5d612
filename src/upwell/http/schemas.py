"""What goes over the wire as JSON. Answers are snake_case; requests may be camelCase too."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel

from upwell.http.errors import ErrorBody  # noqa: TC001 - pydantic reads the annotations
from upwell.model import (
    DEFAULT_CHUNK_SIZE,
    GENERIC_TYPE,
    CloudFile,
    Digest,
    Ends,
    NewUpload,
    Pool,
    TaskStatus,
    UploadOptions,
    UploadTask,
)

# Bytes; beyond every disk, within every integer on the way, and written the same as a float.
MAX_SIZE = 10**18
META_LIMIT = 64 << 10
META_DEPTH = 100  # well within what every JSON library takes

Instant = Annotated[
    datetime,
    PlainSerializer(
        lambda value: value.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        return_type=str,
        when_used="json",
    ),
]


def _written_out(value: Any) -> Any:
    if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[Tt ]", value):
        return value
    message = "must be an ISO 8601 instant, such as 2030-01-31T12:00:00Z"
    raise ValueError(message)


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 7.0 is 7."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        message = "is beyond the calendar"
        raise ValueError(message) from None


AskedInstant = Annotated[AwareDatetime, BeforeValidator(_written_out), AfterValidator(_in_utc)]
WHOLE = BeforeValidator(_whole)  # after the bounds: else the description does not show them
LONGEST_LIFE = 100 * 366 * 86_400  # seconds: well within the calendar
Life = Annotated[int, Field(strict=True, ge=1, le=LONGEST_LIFE), WHOLE]


def one_end(life: int | None, info: ValidationInfo) -> int | None:
    """Let ``expires_in`` through unless an instant is given too."""
    for instant in ("expired_at", "expires_at"):
        if life is not None and info.data.get(instant) is not None:
            message = f"cannot be given together with {instant}"
            raise ValueError(message)
    return life


def end_asked(instant: datetime | None, life: int | None) -> Ends | None:
    """What a caller asks for by an instant or by ``life`` in seconds."""
    return timedelta(seconds=life) if life is not None else instant


# U+0000 cannot be stored as text by every database.
Name = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]+$")]
Mark = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00]+$")]
AnyId = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00]*$")]
MediaType = Annotated[str, StringConstraints(max_length=255, pattern=r"^[\x20-\x7e]*$")]
FileSize = Annotated[int, Field(strict=True, ge=0, le=MAX_SIZE, description="Bytes."), WHOLE]
Secret = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


def _storable(meta: dict[str, Any]) -> dict[str, Any]:
    if _depth(meta, META_DEPTH) > META_DEPTH:
        message = f"must be nested at most {META_DEPTH} deep"
        raise ValueError(message)
    try:
        size = len(json.dumps(meta, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, RecursionError):
        message = "must be JSON text without lone surrogates or NaN"
        raise ValueError(message) from None
    if size > META_LIMIT:
        message = f"must be at most {META_LIMIT} bytes as JSON"
        raise ValueError(message)
    return meta


def _depth(value: Any, limit: int) -> int:
    """How deep objects and arrays are nested; beyond ``limit``, some number above it."""
    if not isinstance(value, (dict, list)):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max((_depth(each, limit - 1) for each in inner), default=0) if limit > 0 else 1


class RequestBody(BaseModel):
    """Accepts snake_case and camelCase keys; ``null`` means the same as an absent key."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = _in_camel_case(cls)
        return {known.get(key, key): item for key, item in value.items() if item is not None}


@cache
def _in_camel_case(model: type[BaseModel]) -> dict[str, str]:
    return {to_camel(name): name for name in model.model_fields}


_CREATE_EXAMPLE: dict[str, Any] = {
    "hash": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "file_name": "holiday.mp4",
    "file_size": 12000000,
    "content_type": "video/mp4",
    "chunk_size": DEFAULT_CHUNK_SIZE,
}


class ResumeUpload(RequestBody):
    """The options that an upload continues with. An absent one is as it is when absent in
    create."""

    file_name: Name
    content_type: MediaType | None = None
    pool_id: Annotated[
        UUID | None, Field(description="The default pool when absent. An upload keeps its pool.")
    ] = None
    bundle_id: Annotated[UUID | None, Field(description="A bundle of the caller's.")] = None
    expired_at: Annotated[
        AskedInstant | None, Field(description="In the future; the file is gone from then on.")
    ] = None
    expires_in: Annotated[
        Life | None,
        Field(description="Seconds from now by the server's clock, instead of `expired_at`."),
    ] = None

    _one_end = field_validator("expires_in")(one_end)

    def options(self) -> UploadOptions:
        return UploadOptions(
            file_name=self.file_name,
            content_type=self.content_type or GENERIC_TYPE,
            pool_id=str(self.pool_id) if self.pool_id else None,
            bundle_id=str(self.bundle_id) if self.bundle_id else None,
            expired_at=end_asked(self.expired_at, self.expires_in),
        )


class CreateUpload(ResumeUpload):
    """What to upload, and where to."""

    model_config = ConfigDict(json_schema_extra={"examples": [_CREATE_EXAMPLE]})

    hash: Annotated[
        str | None,
        Field(
            description="The whole file's digest: hex, the algorithm told by its length (32 MD5, "
            "40 SHA-1, 64 SHA-256, 128 SHA-512), or algorithm:hex. Left out by a client that "
            "reads its file only once.",
            pattern=(
                r"^([mM][dD]5:)?[0-9a-fA-F]{32}$|^([sS][hH][aA]-?1:)?[0-9a-fA-F]{40}$"
                r"|^([sS][hH][aA]-?256:)?[0-9a-fA-F]{64}$"
                r"|^([sS][hH][aA]-?512:)?[0-9a-fA-F]{128}$"
            ),
        ),
    ] = None
    file_size: FileSize
    pool_id: Annotated[UUID | None, Field(description="The default pool when absent.")] = None
    encrypt_password: Annotated[
        Secret | None,
        Field(
            description="What is stored is a standard age file under it; the pool must allow it.",
        ),
    ] = None
    chunk_size: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=MAX_SIZE), WHOLE] | None,
        Field(description="Bytes, 5 MiB when absent; the answer has the last word."),
    ] = None

    def command(self) -> NewUpload:
        options = self.options()
        return NewUpload(
            file_name=options.file_name,
            file_size=self.file_size,
            content_type=options.content_type,
            digest=Digest.parse(self.hash) if self.hash else None,
            pool_id=options.pool_id,
            bundle_id=options.bundle_id,
            password=self.encrypt_password,
            expired_at=options.expired_at,
            chunk_size=self.chunk_size or DEFAULT_CHUNK_SIZE,
        )


class DirectUpload(CreateUpload):
    """The form fields of a direct upload; text, as forms are, and empty means absent. What
    is absent, the file itself tells."""

    file_size: Annotated[int, Field(ge=0, le=MAX_SIZE, description="Bytes.")]
    expires_in: Annotated[
        int | None,
        Field(
            ge=1,
            le=LONGEST_LIFE,
            description="Seconds from now by the server's clock, instead of `expired_at`.",
        ),
    ] = None
    chunk_size: Annotated[
        int | None, Field(ge=1, le=MAX_SIZE, description="Has no effect here.")
    ] = None

    @classmethod
    def form_schema(cls) -> dict[str, Any]:
        """The form, for OpenAPI: it has no null, and an empty field is an absent one."""
        form = cls.model_json_schema()
        properties = {name: _or_empty(field) for name, field in form["properties"].items()}
        properties["file"] = {"type": "string", "format": "binary"}
        return {"type": "object", "properties": properties, "required": ["file"]}


def _or_empty(field: dict[str, Any]) -> dict[str, Any]:
    told = {key: field.pop(key) for key in ("title", "description") if key in field}
    field.pop("default", None)
    full: dict[str, Any] = field.pop("anyOf", [field])[0]
    if full["type"] != "string" or "format" in full:
        return told | {"anyOf": [full, {"type": "string", "maxLength": 0}]}
    full.pop("minLength", None)
    pattern = {"pattern": f"{full['pattern']}|^$"} if "pattern" in full else {}
    return told | full | pattern


class BatchItem(CreateUpload):
    """One file of a batch: the fields of create. Encrypted files go by direct or by chunks."""

    encrypt_password: Annotated[None, Field(description="Not in a batch.")] = None
    chunk_size: Annotated[
        int | None, Field(ge=1, le=MAX_SIZE, description="Has no effect here.")
    ] = None


class BatchItemSize(RequestBody):
    """What must be known of each file of a batch to find the bytes of the others."""

    file_size: FileSize


BATCH_MAX = 1000  # files
_LENGTH = Field(min_length=1, max_length=BATCH_MAX)
BATCH_ITEMS: TypeAdapter[list[BatchItem]] = TypeAdapter(Annotated[list[BatchItem], _LENGTH])
BATCH_LIST: TypeAdapter[list[Any]] = TypeAdapter(Annotated[list[Any], _LENGTH])


class Rename(RequestBody):
    name: Name


class Describe(RequestBody):
    description: Annotated[
        str,
        StringConstraints(max_length=4096, pattern=r"^[^\x00]*$"),
        Field(description="Of the file, in words; empty takes it away."),
    ]


class SetMeta(RequestBody):
    user_meta: Annotated[
        dict[str, Any], AfterValidator(_storable), Field(description="Any JSON object, to 64 KiB.")
    ]


class SetMarks(RequestBody):
    sensitive_marks: Annotated[
        list[Mark], Field(max_length=100, description="All of them, in place of those before.")
    ]


class BatchDelete(RequestBody):
    file_ids: Annotated[
        list[AnyId], Field(max_length=1000, description="Of the files that are to be deleted.")
    ]


class PoolRef(BaseModel):
    id: UUID
    name: str


class ObjectOut(BaseModel):
    """The stored bytes, as newer clients decode them."""

    id: str
    size: int = Field(description="Bytes of the content.")
    meta: dict[str, Any] = Field(description="The file's `file_meta`.")
    mime_type: str
    hash: str = Field(description="The file's `hash`.")
    has_compression: bool = Field(description="There is a `?preview=true`.")
    has_thumbnail: bool = Field(description="There is a `?thumbnail=true`.")
    file_replicas: list[Any] = Field(description="Always empty.")
    created_at: Instant
    updated_at: Instant


class CloudFileOut(BaseModel):
    """A stored, verified file."""

    id: str = Field(max_length=32)
    name: str
    description: str | None = Field(description="The user's own.")
    file_meta: dict[str, Any] = Field(
        description="What the content is, as far as that is known: dimensions, duration, …"
    )
    user_meta: dict[str, Any] = Field(description="The user's own.")
    sensitive_marks: list[str] = Field(description="The user's own.")
    mime_type: str
    hash: str = Field(description="Hex; the declared algorithm, or SHA-256.")
    size: int = Field(description="Bytes of the content.")
    expired_at: Instant | None = Field(description="From when on it is gone.")
    uploaded_at: Instant = Field(description="When its content was complete.")
    has_compression: bool = Field(description="There is a `?preview=true`.")
    has_thumbnail: bool = Field(description="There is a `?thumbnail=true`.")
    is_encrypted: bool = Field(description="It is read with its password.")
    pool: PoolRef
    pool_id: UUID
    bundle_id: UUID | None = Field(description="The bundle that it is in.")
    is_marked_recycle: bool = Field(description="It is in the recycle bin.")
    storage_id: str = Field(description="Of the stored bytes, which files may share.")
    storage_url: str | None = Field(description="Always null: this server alone hands out bytes.")
    references: list[Any] = Field(description="Always empty: nothing but its bundle uses it.")
    account_id: str
    resource_identifier: str = Field(description="`file:{id}`")
    created_at: Instant
    updated_at: Instant
    deleted_at: Instant | None = Field(description="Since when it is in the recycle bin.")
    indexed: bool = Field(description="Always true.")
    is_folder: bool = Field(description="Always false.")
    object: ObjectOut

    @classmethod
    def of(cls, file: CloudFile, pool: Pool) -> CloudFileOut:
        return cls(
            id=file.id,
            name=file.name,
            description=file.description,
            file_meta=file.blob.facts or {},
            user_meta=file.user_meta,
            sensitive_marks=list(file.sensitive_marks),
            mime_type=file.mime_type,
            hash=file.digest.hex,
            size=file.size,
            expired_at=file.expired_at,
            uploaded_at=file.created_at,
            has_compression=file.has_preview,
            has_thumbnail=file.has_thumbnail,
            is_encrypted=file.encrypted,
            pool=PoolRef(id=UUID(pool.id), name=pool.name),
            pool_id=UUID(file.pool_id),
            bundle_id=UUID(file.bundle_id) if file.bundle_id else None,
            is_marked_recycle=file.recycled_at is not None,
            storage_id=file.blob.id,
            storage_url=None,
            references=[],
            account_id=file.account_id,
            resource_identifier=f"file:{file.id}",
            created_at=file.created_at,
            updated_at=file.updated_at,
            deleted_at=file.recycled_at,
            indexed=True,
            is_folder=False,
            object=_object_of(file),
        )


def _object_of(file: CloudFile) -> ObjectOut:
    return ObjectOut(
        id=file.blob.id,
        size=file.size,
        meta=file.blob.facts or {},
        mime_type=file.mime_type,
        hash=file.digest.hex,
        has_compression=file.has_preview,
        has_thumbnail=file.has_thumbnail,
        file_replicas=[],
        created_at=file.blob.created_at,
        updated_at=file.blob.created_at,
    )


class FileExists(BaseModel):
    """The account already holds this content: nothing to send."""

    file_exists: Annotated[Literal[True], Field(description="Tells the two answers apart.")] = True
    file: CloudFileOut


class BatchResult(BaseModel):
    """What became of one file of a batch: ``file``, ``error``, or none of them when its content
    is to be sent."""

    file_exists: bool = Field(description="The account held this content already.")
    file: CloudFileOut | None
    error: ErrorBody | None = Field(description="Why this one was refused; the others were not.")


class BatchOut(BaseModel):
    results: list[BatchResult] = Field(description="In the order of `items`.")


class TaskCreated(BaseModel):
    """Send ``chunks_count`` chunks of ``chunk_size`` bytes, the last one what remains."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "file_exists": False,
                    "task_id": "6b0c1f0e5d7a4c53b1f2a9d8e7c6b5a4",
                    "chunk_size": DEFAULT_CHUNK_SIZE,
                    "chunks_count": 3,
                }
            ]
        }
    )

    file_exists: Annotated[Literal[False], Field(description="Tells the two answers apart.")] = (
        False
    )
    task_id: str = Field(description="Names the upload from now on.")
    chunk_size: int = Field(description="Bytes; perhaps another one than was asked for.")
    chunks_count: int = Field(description="0 for an empty file.")

    @classmethod
    def of(cls, task: UploadTask) -> TaskCreated:
        layout = task.layout
        return cls(task_id=task.id, chunk_size=layout.chunk_size, chunks_count=layout.count)


class TaskOut(BaseModel):
    """An upload and how far it is."""

    task_id: str = Field(description="From create.")
    file_name: str
    file_size: int = Field(description="Bytes.")
    content_type: str
    hash: str | None = Field(description="Hex; null when none was declared.")
    pool_id: UUID
    bundle_id: UUID | None = Field(description="The bundle that the file goes into.")
    expired_at: Instant | None = Field(
        description="From when on the file is gone; its bundle may end it earlier."
    )
    status: TaskStatus
    chunk_size: int = Field(description="Bytes.")
    chunks_count: int = Field(description="In all.")
    chunks_uploaded: int = Field(description="Those that are acknowledged.")
    uploaded_bytes: int = Field(description="In those.")
    progress: float = Field(ge=0, le=100, description="Percent of the bytes received.")
    file_id: str | None = Field(description="The file it became.")
    created_at: Instant
    updated_at: Instant
    expires_at: Instant = Field(description="When the task expires if nothing more comes.")

    @classmethod
    def fields_of(cls, task: UploadTask) -> dict[str, Any]:
        return {
            "task_id": task.id,
            "file_name": task.file_name,
            "file_size": task.layout.size,
            "content_type": task.content_type,
            "hash": task.digest.hex if task.digest else None,
            "pool_id": task.pool_id,
            "bundle_id": task.bundle_id,
            "expired_at": task.expired_at,
            "status": task.status,
            "chunk_size": task.layout.chunk_size,
            "chunks_count": task.layout.count,
            "chunks_uploaded": task.received_count,
            "uploaded_bytes": task.received_bytes,
            "progress": task.progress,
            "file_id": task.file_id,
            "created_at": task.created_at,
            "updated_at": task.updated_at,
            "expires_at": task.expires_at,
        }

    @classmethod
    def of(cls, task: UploadTask) -> TaskOut:
        return cls(**cls.fields_of(task))


class ResumeOut(TaskOut):
    """An upload with what is here and what is missing, ascending."""

    uploaded_chunks: list[int] = Field(description="Indices of those that need not come again.")
    missing_chunks: list[int] = Field(description="Indices of those that are to be sent.")

    @classmethod
    def with_chunks(cls, task: UploadTask, uploaded: list[int], missing: list[int]) -> ResumeOut:
        return cls(**cls.fields_of(task), uploaded_chunks=uploaded, missing_chunks=missing)


class Deleted(BaseModel):
    deleted: list[str] = Field(description="The ids that were deleted.")


class Health(BaseModel):
    status: Literal["ok"] = "ok"
