"""Where the bytes of an upload come from: a file, a file object, an iterator."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

from upwell.client.errors import ClientError, FileChanged, LocalFileError
from upwell.client.state import Fingerprint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from contextlib import AbstractContextManager
    from typing import IO, Self

HASH_PIECE = 1024 * 1024
DEFAULT_NAME = "file"
MADE_UP = 64 * 1024  # bytes that a file without blocks on a disk may claim and not have
# Of a content that is no file: nothing tells whether it is the same another time, but its digest.
_NO_FILE = (0, 0)


class Source(Protocol):
    """Bytes of a known size. ``once``: they can be read from start to end only, and only once.

    ``name`` is what the file is called when nobody says otherwise.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def once(self) -> bool: ...
    @property
    def fingerprint(self) -> Fingerprint: ...

    def hold(self) -> None:
        """Read all of it into memory: from now on it cannot change, and can be read again."""

    def again(self) -> None:
        """It is about to be read once more; :class:`LocalFileError` when it cannot."""

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill ``view`` from ``offset`` on; :class:`FileChanged` when there is less."""

    def sha256(self) -> str:
        """The digest of the whole content, in hex."""

    def require_unchanged(self) -> None:
        """Raise :class:`FileChanged` when what was read is no longer what it is."""


class _Held:
    """What sources have in common: they can be held in memory."""

    name: str
    size: int
    once = False

    def __init__(self) -> None:
        self._held: bytearray | None = None

    def hold(self) -> None:
        content = bytearray(self.size)
        self.read_into(memoryview(content), 0)
        self.require_unchanged()
        self._held = content

    def again(self) -> None:
        if self.once and self._held is None:
            raise LocalFileError(
                f"{self.name} must be sent once more, and an iterator of a known size is read only "
                "once; upload it again, or leave the size out to have it kept meanwhile."
            )

    def read_into(self, view: memoryview, offset: int) -> None:
        if self._held is not None:
            view[:] = self._held[offset : offset + len(view)]
            return
        done = 0
        while done < len(view):
            count = self._read(view[done:], offset + done)
            if count == 0:
                raise self._changed()
            done += count

    def sha256(self) -> str:
        digest = hashlib.sha256()
        buffer = bytearray(min(HASH_PIECE, self.size))
        for offset in range(0, self.size, HASH_PIECE):
            view = memoryview(buffer)[: self.size - offset]
            self.read_into(view, offset)
            digest.update(view)
        return digest.hexdigest()

    def require_unchanged(self) -> None:
        if self._held is None and not self._is_unchanged():
            raise self._changed()

    def _read(self, view: memoryview, offset: int) -> int:
        raise NotImplementedError

    def _is_unchanged(self) -> bool:
        raise NotImplementedError

    def _changed(self) -> FileChanged:
        return FileChanged(f"{self.name} changed while it was being sent; upload it again.")


class FileSource(_Held):
    """A regular file; knows when it was changed meanwhile."""

    def __init__(self, path: Path, number: int, name: str = "") -> None:
        super().__init__()
        self.path = path
        self.name = name or path.name
        self._number = number
        self.fingerprint = Fingerprint.of(os.fstat(number))
        self.size = self.fingerprint.size

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open ``path``; :class:`LocalFileError` when it is not a readable regular file."""
        with local(path):
            # Asked before opening: opening a named pipe would wait for its writer.
            _require_regular(path, path.stat().st_mode)
            number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(number)
            _require_regular(path, status.st_mode)
            if not _is_made_up(path, number, status):
                yield cls(path, number)
                return
            with _spool() as copy:
                for piece in _pieces_of(cast("BinaryIO", io.FileIO(number, closefd=False)), path):
                    with local(_spools()):
                        copy.write(piece)
                copy.flush()
                yield cls(path, copy.fileno())
        finally:
            os.close(number)

    def content(self) -> bytearray:
        """All of it, held in memory."""
        self.hold()
        return self._held or bytearray()

    def _read(self, view: memoryview, offset: int) -> int:
        with local(self.path):
            return os.preadv(self._number, [view], offset)

    def _is_unchanged(self) -> bool:
        return Fingerprint.of(os.fstat(self._number)) == self.fingerprint

    def _changed(self) -> FileChanged:
        return FileChanged(f"{self.path} changed while it was being sent; upload it again.")


class SeekableSource(_Held):
    """An open file object that can seek, from where it stands to its end."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__()
        self.name = name
        self._file = file
        with local(Path(name)):
            self._start = file.tell()
            self.size = max(0, self._end() - self._start)
        self.fingerprint = Fingerprint(self.size, *_NO_FILE)

    def is_sized(self) -> bool:
        """Whether its end is where it says; see :func:`_is_made_up`. Leaves the file object where
        it stood."""
        last = min(self.size, 1)
        with local(Path(self.name)):
            self._file.seek(self._start + self.size - last)
            found = _read(self._file, last + 1, self.name)
            self._file.seek(self._start)
        return len(found) == last

    def _end(self) -> int:
        # Not what seek returns: that of an mmap is None before Python 3.13.
        self._file.seek(0, io.SEEK_END)
        return self._file.tell()

    def _read(self, view: memoryview, offset: int) -> int:
        with local(Path(self.name)):
            self._file.seek(self._start + offset)
            data = _read(self._file, len(view), self.name)
        view[: len(data)] = data
        return len(data)

    def _is_unchanged(self) -> bool:
        with local(Path(self.name)):
            return self._end() - self._start == self.size


class OnceSource(_Held):
    """Pieces of bytes of ``size`` in all, read as they are sent and kept nowhere."""

    once = True

    def __init__(self, pieces: Iterable[bytes], name: str, size: int) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.fingerprint = Fingerprint(size, *_NO_FILE)
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")
        self._position = 0

    def _read(self, view: memoryview, offset: int) -> int:
        if offset != self._position:
            raise LocalFileError(f"{self.name} can be read only once, from start to end.")
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = memoryview(piece).cast("B")
        count = min(len(view), len(self._piece))
        view[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        self._position += count
        return count

    def _is_unchanged(self) -> bool:
        """Nothing may be left over."""
        return not self._piece and not any(map(len, self._pieces))

    def _changed(self) -> FileChanged:
        return FileChanged(f"{self.name} is not the {self.size} bytes that were said.")


Content = str | os.PathLike[str] | BinaryIO | io.IOBase | bytes | bytearray


@contextmanager
def source_of(content: object, name: str | None, size: int | None) -> Iterator[Source]:
    """The source of a path, of bytes, of a file object, or of an iterable of bytes.

    A file object needs no more than ``read``. It is read from where it stands, and stays open.
    Content that cannot seek and comes without its ``size`` is kept in a temporary file first,
    because an upload begins with its size.

    Raises:
        LocalFileError: it cannot be read.
        TypeError: it is none of these.
    """
    if isinstance(content, (str, os.PathLike)):
        with FileSource.open(Path(content)) as file:
            yield file
        return
    if isinstance(content, (bytes, bytearray, memoryview)):
        content = io.BytesIO(content)
    name = name or _name_of(content)
    if hasattr(content, "read"):
        stream = cast("BinaryIO", content)
        seekable = _seekable(stream, name)
        if seekable is not None:
            yield seekable
            return
        content = _pieces_of(stream, name)
    if not hasattr(content, "__iter__") or isinstance(content, dict):
        raise TypeError(f"{type(content).__name__} is no path, file object or iterable of bytes")
    pieces = cast("Iterable[bytes]", content)
    if size is not None:
        yield OnceSource(pieces, name, size)
        return
    with _spool() as spool:
        for piece in pieces:
            with local(_spools()):
                spool.write(piece)
        spool.seek(0)
        yield SeekableSource(cast("BinaryIO", spool), name)


def _pieces_of(stream: BinaryIO, name: object) -> Iterator[bytes]:
    with local(Path(str(name))):
        while piece := _read(stream, HASH_PIECE, name):
            yield piece


def _read(stream: BinaryIO, count: int, name: object) -> bytes:
    """Some bytes of a stream, none at its end; :class:`LocalFileError` when it does not wait."""
    data: bytes | None = stream.read(count)
    if data is None:
        raise LocalFileError(
            f"{name} is a stream that does not wait for its bytes. Set it to blocking, and upload "
            "it again."
        )
    return data


def _seekable(stream: BinaryIO, name: str) -> SeekableSource | None:
    """A file object that can seek and has an end, as far as that is known without reading it."""
    told = getattr(stream, "seekable", lambda: hasattr(stream, "seek") and hasattr(stream, "tell"))
    if not told():
        return None
    try:
        source = SeekableSource(stream, name)
        return source if source.is_sized() else None
    except LocalFileError:  # files in /proc have no end to seek; reading tells of other problems
        return None


def _is_made_up(path: Path, number: int, status: os.stat_result) -> bool:
    """Whether a file holds more or less than its status says, as the kernel's own in ``/proc`` and
    ``/sys`` do: they have no blocks on a disk, and claim to be empty or of a page."""
    if status.st_size and (status.st_blocks or status.st_size > MADE_UP):
        return False
    with local(path):
        found = len(os.pread(number, status.st_size + 1, 0))
        # A file that another program is writing tells its new size.
        return found != status.st_size and os.fstat(number).st_size == status.st_size


def _spool() -> AbstractContextManager[IO[bytes]]:
    return tempfile.TemporaryFile(prefix="upwell-")


def _spools() -> Path:
    return Path(tempfile.gettempdir())


def _name_of(content: object) -> str:
    told = getattr(content, "name", None)
    return Path(told).name if isinstance(told, str) and Path(told).name else DEFAULT_NAME


@contextmanager
def local(path: Path) -> Iterator[None]:
    """Tell what the operating system has against ``path`` as a :class:`LocalFileError`."""
    try:
        yield
    except ClientError:
        raise
    except OSError as error:
        raise LocalFileError.of(path, error) from error


def _require_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise LocalFileError(f"{path} is a folder.")
    if not stat.S_ISREG(mode):
        raise LocalFileError(f"{path} is not a regular file.")
