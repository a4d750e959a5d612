"""Sending a file: read once, hashed on the way, resumed where an earlier run stopped."""

from __future__ import annotations

import hashlib
import mimetypes
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from upwell.client.api import NewFile
from upwell.client.errors import (
    ApiError,
    ClientError,
    ContentMismatch,
    FileChanged,
)
from upwell.client.model import CloudFile, Digest, UploadTask
from upwell.client.progress import Watcher
from upwell.client.senders import Senders
from upwell.client.sources import FileSource
from upwell.client.state import Claim, UploadKey

if TYPE_CHECKING:
    import os
    import threading
    from collections.abc import Iterable
    from datetime import timedelta

    from upwell.client.api import Calls
    from upwell.client.sources import Source
    from upwell.client.state import UploadStates

DEFAULT_CHUNK_SIZE = 5 * 1024 * 1024
# What is small enough is held in memory while it is hashed and sent, unless chunks are huge.
MAX_HELD = 16 * 1024 * 1024
COMPLETE_ROUNDS = 4
COMPLETED = "completed"
GENERIC_TYPE = "application/octet-stream"
DEFAULT_POOL_ID = "00000000-0000-4000-8000-000000000001"
NOT_FOUND, CLOSED = "TASK_NOT_FOUND", "TASK_CLOSED"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadOptions:
    """How a file is to be stored, and how it gets there.

    ``name`` and ``content_type`` are taken from the path when absent; ``expires_at`` carries its
    time zone, ``expires_in`` is counted by the server's clock; ``chunk_size`` is in bytes, and the
    server may choose another one. ``check_first`` reads the
    file twice so that content which the account already holds is not sent. With ``password``, a
    secret that is kept out of ``repr``, the server stores the file encrypted.
    """

    name: str | None = None
    content_type: str | None = None
    pool_id: str | None = None
    bundle_id: str | None = None
    expires_at: datetime | None = None
    expires_in: timedelta | None = None
    chunk_size: int | None = None
    check_first: bool = False
    password: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The file on the server; ``existing`` when its content was there already."""

    file: CloudFile
    existing: bool


def upload_file(
    client: Calls,
    path: str | os.PathLike[str],
    options: UploadOptions | None = None,
    *,
    watcher: Watcher | None = None,
    states: UploadStates | None = None,
) -> Uploaded:
    """Upload the file at ``path`` and verify what the server stored.

    With ``states``, an upload that was interrupted goes on where it stopped, an encrypted one
    only under the same password. Returns once the server holds the whole file.

    Raises:
        LocalFileError: the file cannot be read, is not a regular file, or changed meanwhile.
        ContentMismatch: the server stored something else.
        ClientError: see :class:`Calls`.
    """
    options = options or UploadOptions()
    watcher = watcher or Watcher()
    with FileSource.open(Path(path)) as source:
        if states is None:
            return upload_source(client, source, options, watcher=watcher)
        key = _key_of(client, source, options)
        busy = "Another run is sending this file; waiting for it."
        with states.claim(key, lambda: watcher.note(busy)) as claim:
            return upload_source(client, source, options, watcher=watcher, claim=claim)


def upload_source(
    client: Calls,
    source: Source,
    options: UploadOptions,
    *,
    watcher: Watcher | None = None,
    claim: Claim | None = None,
) -> Uploaded:
    """Upload what ``source`` gives; ``claim`` remembers the upload, so that it can go on.

    Raises what :func:`upload_file` raises.
    """
    name = _name_of(source, options)
    return _Upload(client, source, name, options, watcher or Watcher(), claim or Claim()).run()


@dataclass(frozen=True, slots=True)
class _Upload:
    """One run for one file."""

    _client: Calls
    _source: Source
    _name: str
    _options: UploadOptions
    _watcher: Watcher
    _claim: Claim

    def run(self) -> Uploaded:
        task = self._recalled() or self._created()
        if isinstance(task, CloudFile):
            return Uploaded(task, existing=True)
        try:
            digest = self._send_all(task)
            file = self._completed(task)
        except FileChanged:
            self._abandon(task)
            raise
        self._verify(file, digest)
        self._claim.forget()
        return Uploaded(file, existing=False)

    def _recalled(self) -> UploadTask | None:
        """The task of an earlier run, when it still is for this very file."""
        remembered = self._claim.recall()
        if remembered is None:
            return None
        if remembered.fingerprint != self._source.fingerprint:
            self._watcher.note("The file changed since its upload was interrupted; starting again.")
            self._cancel(remembered.task_id)
            self._claim.forget()
            return None
        task = self._asked(remembered.task_id)
        if task is None:
            self._watcher.note("The server no longer has the interrupted upload; starting again.")
            self._claim.forget()
            return None
        return task if self._is_under_password(task) else None

    def _asked(self, task_id: str) -> UploadTask | None:
        """The task of an earlier run, with the options that are asked for now."""
        wanted = new_file(self._options, self._name, self._source.size, None)
        try:
            task = self._client.resume_with(task_id, wanted)
        except ApiError as error:
            if error.code == CLOSED:
                return self._ended(task_id, wanted)
            if error.code != NOT_FOUND:
                raise
            return None
        return task if task.file_size == self._source.size else None

    def _ended(self, task_id: str, wanted: NewFile) -> UploadTask | None:
        """A task that was completed unheard, when its file is there and as it is wanted."""
        task = self._client.resume(task_id)
        if task.status != COMPLETED:
            return None
        try:
            self._client.complete(task_id)  # is its file still there?
        except ApiError as error:
            if error.code != NOT_FOUND:
                raise
            return None
        if task.file_size == self._source.size and _is_as_wanted(task, wanted):
            return task
        # Its content is there, so that asking by the hash sends nothing.
        self._claim.waited = True
        return None

    def _is_under_password(self, task: UploadTask) -> bool:
        """Whether an encrypted upload can go on by its task: nothing remembers its password.

        A file is opened with it. For the rest create finds the task by hash and password, but
        needs the hash beforehand; what is read only once is taken at the caller's word.
        """
        if self._options.password is None:
            return True
        if task.status != COMPLETED:
            return self._source.once
        file = self._client.complete(task.id)
        return file.raw.get("is_encrypted") is True and self._opens(file, self._options.password)

    def _opens(self, file: CloudFile, password: str) -> bool:
        def attempt() -> None:
            with self._client.download(file.id, password=password):
                pass

        try:
            self._client.retry.call(attempt, self._client.stop)
        except ApiError as error:
            if error.code != "PASSWORD_WRONG":
                raise
            return False
        return True

    def _created(self) -> UploadTask | CloudFile:
        digest = self._hash_beforehand()
        created = self._client.create_upload(
            new_file(self._options, self._name, self._source.size, digest)
        )
        if isinstance(created, CloudFile):
            return created
        self._claim.remember(created.id, self._source.fingerprint)
        # For a known hash it may be a task of an earlier run that this machine knows nothing of.
        return self._client.resume(created.id) if digest and created.chunks_count > 1 else created

    def _hash_beforehand(self) -> str | None:
        if self._source.size <= min(self._options.chunk_size or DEFAULT_CHUNK_SIZE, MAX_HELD):
            self._source.hold()
        elif self._source.once or not self._looks_first():
            return None
        return self._source.sha256()

    def _looks_first(self) -> bool:
        # After another run sent the same file, it is likely to be there already; an encrypted
        # upload is found again by its hash and its password alone.
        return bool(self._options.check_first or self._options.password or self._claim.waited)

    def _send_all(self, task: UploadTask) -> str:
        """Read the file once from start to end, send what is missing; its SHA-256 in hex."""
        missing = frozenset(task.missing)
        self._watcher.begin(task.file_size, task.file_size - sum(map(task.length, missing)))
        digest = hashlib.sha256()
        with self._senders(task, len(missing)) as senders:
            for index in range(task.chunks_count):
                buffer = senders.borrow()
                view = self._read(task, index, buffer)
                digest.update(view)
                if index in missing:
                    senders.submit(index, buffer, len(view))
                else:
                    senders.give_back(buffer)
            senders.finish()
        self._source.require_unchanged()
        return digest.hexdigest()

    def _send_some(self, task: UploadTask, indices: Iterable[int]) -> None:
        self._source.again()
        task = task.with_missing(tuple(indices))
        with self._senders(task, len(task.missing)) as senders:
            for index in task.missing:
                buffer = senders.borrow()
                senders.submit(index, buffer, len(self._read(task, index, buffer)))
            senders.finish()
        self._source.require_unchanged()

    def _read(self, task: UploadTask, index: int, buffer: bytearray) -> memoryview:
        view = memoryview(buffer)[: task.length(index)]
        self._source.read_into(view, task.offset(index))
        return view

    def _senders(self, task: UploadTask, chunks: int) -> Senders:
        def send(index: int, data: memoryview, stop: threading.Event) -> None:
            sent = self._watcher.advance
            self._client.put_chunk(task.id, index, data, sent=sent, stop=stop)

        return Senders(
            send,
            stop=self._client.stop,
            threads=min(self._client.connections, chunks),
            size=min(task.chunk_size, task.file_size),
        )

    def _completed(self, task: UploadTask) -> CloudFile:
        """Complete; send again what the server lacks, and once everything when it differs."""
        resent = False
        for _ in range(COMPLETE_ROUNDS):
            try:
                return self._client.complete(task.id)
            except ApiError as error:
                if error.code == "CHUNKS_MISSING":
                    self._send_some(task, self._named_missing(task, error))
                elif error.code != "HASH_MISMATCH":
                    raise
                elif resent:
                    break
                else:
                    self._resend(task)
                    resent = True
        self._abandon(task)
        raise ContentMismatch("What the server receives keeps differing from the file; gave up.")

    def _named_missing(self, task: UploadTask, error: ApiError) -> tuple[int, ...]:
        named = error.meta.get("missing_chunks")
        if isinstance(named, list) and named:
            return task.with_missing(named).missing
        return self._client.resume(task.id).missing

    def _resend(self, task: UploadTask) -> None:
        self._watcher.note("The server's copy differs; sending everything once more.")
        self._watcher.begin(task.file_size, 0)
        self._send_some(task, range(task.chunks_count))

    def _verify(self, file: CloudFile, digest: str) -> None:
        stored = Digest.parse(file.hash)
        if stored == Digest("sha256", digest) and file.size == self._source.size:
            return
        self._claim.forget()
        if stored is None or stored.algorithm != "sha256":
            raise ContentMismatch(f"The server gave no SHA-256 of {file.id}: it is not verified.")
        # Known to be wrong: left there, it would pass for the file.
        with suppress(ClientError):
            self._client.delete(file.id)
        raise ContentMismatch(
            "The server stored something else than was sent; that was deleted. Upload it again."
        )

    def _abandon(self, task: UploadTask) -> None:
        self._claim.forget()
        self._cancel(task.id)

    def _cancel(self, task_id: str) -> None:
        with suppress(ClientError):
            self._client.cancel(task_id)


def new_file(options: UploadOptions, name: str, size: int, digest: str | None) -> NewFile:
    """What a create asks for; ``name`` is that of the source."""
    name = _text(options.name or name)
    return NewFile(
        name=name,
        size=size,
        hash=digest,
        content_type=options.content_type or type_of(name),
        pool_id=options.pool_id,
        bundle_id=options.bundle_id,
        expires_at=options.expires_at,
        expires_in=options.expires_in,
        chunk_size=options.chunk_size,
        password=options.password,
    )


def _is_as_wanted(task: UploadTask, wanted: NewFile) -> bool:
    """Whether a task that ended had these options; a duration cannot be compared."""
    had, ends = task.raw, task.raw.get("expired_at")
    if wanted.expires_in is not None or (ends is None) != (wanted.expires_at is None):
        return False
    if wanted.expires_at is not None and datetime.fromisoformat(str(ends)) != wanted.expires_at:
        return False
    pairs = [
        (had.get("file_name"), wanted.name),
        (had.get("content_type"), wanted.content_type or GENERIC_TYPE),
        (had.get("pool_id"), wanted.pool_id or DEFAULT_POOL_ID),
        (had.get("bundle_id"), wanted.bundle_id),
    ]
    return all(one == other for one, other in pairs)


# What a compressed file is, whatever is inside.
_PACKED = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/x-brotli",
}


def type_of(name: str) -> str | None:
    """A file's media type as its name tells it: ``notes.txt.gz`` is a gzip file, not a text."""
    kind, packed = mimetypes.guess_type(name)
    return _PACKED.get(packed) if packed else kind


def _key_of(client: Calls, source: FileSource, options: UploadOptions) -> UploadKey:
    name, resolved = _name_of(source, options), str(source.path.resolve())
    return UploadKey(
        client.server,
        resolved,
        name,
        options.pool_id,
        options.bundle_id,
        encrypted=options.password is not None,
    )


def _name_of(source: Source, options: UploadOptions) -> str:
    return _text(options.name or source.name)


def _text(name: str) -> str:
    """A name as the server can take it: bytes that are not UTF-8 become question marks."""
    return name.encode("utf-8", "replace").decode("utf-8")
