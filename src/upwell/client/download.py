"""Receiving a file: resumed where it stopped, verified before it gets its name."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING
from zipfile import BadZipFile, ZipFile

from upwell.client.errors import (
    ApiError,
    ConnectionFailed,
    ContentMismatch,
    LocalFileError,
    TargetExists,
    UnexpectedAnswer,
)
from upwell.client.model import Digest
from upwell.client.progress import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

    from upwell.client.api import Calls, Download
    from upwell.client.model import CloudFile
    from upwell.client.sharing import Bundle, SharingCalls

MAX_NAME = 255
# Control characters, separators of lines, bidirectional controls, surrogates and what nobody sees.
# Joiners, variation selectors, tags and characters newer than this Python stay: emoji and several
# scripts are written with them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0001]"
)
PART = ".part"
HASH_PIECE = 1024 * 1024
# A connection that breaks after at least this much is progress: it is tried again at once.
WORTHWHILE = 256 * 1024
RANGE_NOT_SATISFIABLE = 416


@dataclass(frozen=True, slots=True)
class Received:
    """What arrived; ``verified`` is false when the server told no digest of it, so that only its
    size could be held against it."""

    file: CloudFile
    verified: bool


@dataclass(frozen=True, slots=True)
class Downloaded(Received):
    """What arrived, and where it is now."""

    path: Path


class Earlier:
    """The files that a run has downloaded so far.

    Known by inode: names that differ in case or in their normal form are one on some systems.
    """

    def __init__(self) -> None:
        self._inodes: set[tuple[int, int]] = set()

    def add(self, path: Path) -> None:
        """A file is there now."""
        status = path.stat()
        self._inodes.add((status.st_dev, status.st_ino))

    def free(self, path: Path) -> Path:
        """``path``, with a number before its extension when an earlier file took it."""
        found, number = path, 1
        while self._has(found):
            number += 1
            suffix = f" ({number}){path.suffix}"
            found = path.with_name(_cut(path.stem, MAX_NAME - len(suffix.encode())) + suffix)
        return found

    def _has(self, path: Path) -> bool:
        try:
            status = path.lstat()
        except OSError:  # nothing is there
            return False
        return (status.st_dev, status.st_ino) in self._inodes


def download_file(
    client: Calls,
    file_id: str,
    target: Path,
    *,
    force: bool = False,
    watcher: Watcher | None = None,
    password: str | None = None,
    earlier: Earlier | None = None,
) -> Downloaded:
    """Download a file to ``target``, or into it under the server's name when it is a folder.

    The bytes collect in ``NAME.part``, which a later call continues; the file gets its name once
    its size and digest are right. ``force`` allows replacing a file, but none of the ``earlier``
    ones of the same run: a name they took gets a number. ``password`` is that of an encrypted file.

    Raises:
        TargetExists: the target is there and ``force`` is not given.
        LocalFileError: something cannot be written here.
        ContentMismatch: what arrived is not the file.
        ClientError: see :class:`Calls`.
    """
    file = client.info(file_id)
    earlier, path = earlier or Earlier(), target
    if target.is_dir():
        path = earlier.free(target / plain_name(file.name, file.id))
    if not force:
        _require_absent(path)
    part = path.with_name(_cut(path.name, MAX_NAME - len(PART)) + PART)
    with _local(path), _Part.open(part) as sink:
        wanted = _Wanted.file(client, file, password)
        verified = _receive_verified(wanted, sink, watcher or Watcher())
        sink.sync()
        _publish(part, path, force=force)
        earlier.add(path)
    return Downloaded(file, verified, path)


def download_zip(
    client: SharingCalls,
    bundle: Bundle,
    target: Path,
    *,
    force: bool = False,
    watcher: Watcher | None = None,
) -> Path:
    """Download all files of a bundle as one ZIP to ``target``, or into it when it is a folder.

    A later call continues it while the bundle is the same; the ZIP gets its name once the
    checksum of every file in it is right.

    Raises:
        TargetExists, LocalFileError, ContentMismatch, ClientError: as :func:`download_file`.
    """
    begin = partial(client.download_bundle, bundle.slug)
    with begin() as first:
        size, etag = first.size, first.etag
    if size is None or etag is None:
        raise UnexpectedAnswer("The server does not say how large the bundle is.")
    wanted = _Wanted(bundle.id, size, None, _retry(client), begin, etag)
    name = plain_name(f"{bundle.name}.zip", f"{bundle.id}.zip")
    path = target / name if target.is_dir() else target
    if not force:
        _require_absent(path)
    # Only a part of this very ZIP is continued: nothing else would tell that it is another's.
    suffix = f".{hashlib.sha256(etag.encode()).hexdigest()[:12]}{PART}"
    part = path.with_name(_cut(path.name, MAX_NAME - len(suffix)) + suffix)
    with _local(path), _Part.open(part) as sink:
        _receive_verified(wanted, sink, watcher or Watcher())
        _require_sound(part)
        sink.sync()
        _publish(part, path, force=force)
    return path


def _require_sound(part: Path) -> None:
    try:
        with ZipFile(part) as archive:
            damaged = archive.testzip()
    except BadZipFile:
        damaged = "its directory"
    if damaged is not None:
        part.unlink(missing_ok=True)
        raise ContentMismatch(f"The ZIP that arrived is damaged ({damaged}); download it again.")


def download_to(
    client: Calls,
    file_id: str,
    stream: BinaryIO,
    *,
    watcher: Watcher | None = None,
    password: str | None = None,
) -> Received:
    """Write a file's content to ``stream``.

    What was written before an error stays written: only a normal return vouches for it.
    """
    file = client.info(file_id)
    wanted = _Wanted.file(client, file, password)
    receiver = _Receiver(wanted, _Stream(stream), watcher or Watcher())
    receiver.run()
    return Received(file, receiver.verify())


def plain_name(name: str, fallback: str) -> str:
    """A name that is safe as a file's name in a folder of one's own.

    Without folders, and without characters that are invisible or act on a terminal or on the
    direction of text; at most 255 bytes of UTF-8, cut before its extension. ``fallback`` when
    nothing but dots and blanks remains.
    """
    for candidate in (name, fallback):
        last = candidate.replace("\\", "/").rpartition("/")[2]
        plain = _cut(_UNSAFE.sub("", last), MAX_NAME)
        if plain.strip().strip(".").strip():
            return plain
    return "download"


def _cut(name: str, limit: int) -> str:
    """``name`` in at most ``limit`` bytes of UTF-8, its extension kept when it is a short one."""
    if len(name.encode()) <= limit:
        return name
    stem, dot, extension = name.rpartition(".")
    suffix = dot + extension
    if not stem or len(suffix.encode()) > 32:
        stem, suffix = name, ""
    room = limit - len(suffix.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + suffix


class _Stream:
    """A sink that cannot go back: a pipe."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, data: bytes) -> None:
        try:
            self._stream.write(data)
        except OSError as error:
            raise LocalFileError(f"The output cannot be written: {error.strerror}.") from error

    def restart(self) -> None:
        raise ContentMismatch("The file changed on the server while it was being received.")


class _Part:
    """The file that collects the bytes; locked, so that two downloads never mix in it."""

    def __init__(self, path: Path, number: int) -> None:
        self.path = path
        self._number = number
        self.size = os.fstat(number).st_size

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[_Part]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        number = os.open(path, flags, 0o666)
        try:
            if not _is_locked(number, path):
                raise LocalFileError(f"Another download is writing {path}.")
            yield cls(path, number)
        finally:
            os.close(number)

    def pieces(self) -> Iterator[bytes]:
        """What an earlier run received; the next write goes behind it."""
        os.lseek(self._number, 0, os.SEEK_SET)
        while piece := os.read(self._number, HASH_PIECE):
            yield piece

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._number, view) :]

    def restart(self) -> None:
        os.ftruncate(self._number, 0)
        os.lseek(self._number, 0, os.SEEK_SET)
        self.size = 0

    def sync(self) -> None:
        os.fsync(self._number)


def _is_locked(number: int, path: Path) -> bool:
    """Lock the file; false when another holds it, or has just published it."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(number), path.lstat())
    except (BlockingIOError, FileNotFoundError):
        return False


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be received: ``size`` in bytes, ``digest`` where one is known; ``open`` begins
    to receive it from a position on, of what has an ETag when that is given."""

    id: str
    size: int
    digest: Digest | None
    retry: Callable[[Callable[[], None]], None]
    open: Callable[[int, str | None], AbstractContextManager[Download]]
    etag: str | None = None

    @classmethod
    def file(cls, client: Calls, file: CloudFile, password: str | None) -> _Wanted:
        def begin(start: int, etag: str | None) -> AbstractContextManager[Download]:
            return client.download(file.id, start=start, etag=etag, password=password)

        return cls(file.id, file.size, Digest.parse(file.hash), _retry(client), begin)


def _retry(client: Calls) -> Callable[[Callable[[], None]], None]:
    return lambda attempt: client.retry.call(attempt, client.stop)


class _Receiver:
    """Receives one file's bytes into a sink, over as many connections as it takes."""

    def __init__(self, wanted: _Wanted, sink: _Stream | _Part, watcher: Watcher) -> None:
        self._wanted = wanted
        self._sink = sink
        self._watcher = watcher
        self._expected = wanted.digest
        self._etag = wanted.etag
        self._begin()

    def _begin(self) -> None:
        self._position = 0
        self._digest = hashlib.new(self._expected.algorithm if self._expected else "sha256")

    def take_over(self, part: _Part) -> None:
        """Count what an earlier run received."""
        for piece in part.pieces():
            self._digest.update(piece)
            self._position += len(piece)

    def run(self) -> None:
        """Receive everything that is missing."""
        self._watcher.begin(self._wanted.size, self._position)
        while self._position < self._wanted.size:
            self._wanted.retry(self._attempt)

    def verify(self) -> bool:
        """Whether there was a digest to compare; :class:`ContentMismatch` when it differs."""
        if self._expected and self._digest.hexdigest() != self._expected.value:
            raise ContentMismatch("What arrived differs from the file. Download it again.")
        return self._expected is not None

    def _attempt(self) -> None:
        start = self._position
        try:
            self._receive()
        except ConnectionFailed:
            if self._position - start < WORTHWHILE:
                raise

    def _receive(self) -> None:
        with self._wanted.open(self._position, self._etag) as download:
            if download.start != self._position:
                self._restart()
            if download.start != self._position:
                raise ContentMismatch("The server sends another part than was asked for.")
            self._etag = download.etag
            for data in download.chunks:
                self._take(data)
        if self._position < self._wanted.size:
            raise ConnectionFailed("The download ended before the file did.")

    def _take(self, data: bytes) -> None:
        if self._position + len(data) > self._wanted.size:
            raise ContentMismatch("What arrives is longer than the file. Download it again.")
        self._sink.write(data)
        self._digest.update(data)
        self._position += len(data)
        self._watcher.advance(len(data))

    def _restart(self) -> None:
        self._watcher.advance(-self._position)
        self._sink.restart()
        self._begin()


def _receive_verified(wanted: _Wanted, part: _Part, watcher: Watcher) -> bool:
    """Receive into ``part``; what an earlier run left in it is tried first, then dropped."""
    if 0 < part.size <= wanted.size:
        watcher.note(f"Continuing {part.path.name}.")
        try:
            return _receive(wanted, part, watcher)
        except ContentMismatch:
            watcher.note("What an earlier download left does not fit; starting again.")
        except ApiError as error:
            if error.status != RANGE_NOT_SATISFIABLE:
                raise
    part.restart()
    try:
        return _receive(wanted, part, watcher)
    except ContentMismatch:
        part.path.unlink(missing_ok=True)
        raise


def _receive(wanted: _Wanted, part: _Part, watcher: Watcher) -> bool:
    receiver = _Receiver(wanted, part, watcher)
    receiver.take_over(part)
    receiver.run()
    return receiver.verify()


def _require_absent(path: Path) -> None:
    if path.is_symlink() or path.exists():
        raise TargetExists(f"{path} is already there; --force replaces it.")


def _publish(part: Path, path: Path, *, force: bool) -> None:
    if force:
        part.replace(path)
    else:
        try:
            # Unlike a rename, a link never replaces what appeared there meanwhile.
            os.link(part, path)
        except FileExistsError:
            _require_absent(path)
            raise
        except OSError:  # a file system without hard links
            _require_absent(path)
            part.rename(path)
        else:
            part.unlink()
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _local(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalFileError.of(path, error) from error
