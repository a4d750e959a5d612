"""Many files as one ZIP archive that is never stored: PKWARE's APPNOTE.TXT 6.3, method STORED.

Where every byte lies follows from names, sizes and instants alone, so the archive's size is
known before any content is read, and any range of it can be read. CRC-32s stand behind the
content they are of (general purpose bit 3): the bytes are the same whether or not they are
known beforehand.
"""

from __future__ import annotations

import hashlib
import re
import struct
import threading
import unicodedata
import zlib
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate, count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from upwell.core.ports import BlobReader

_LAYOUT = b"upwell-zip-1\0"  # change it when other bytes are written: ETags must change with them
_PIECE = 1 << 20
_MAX16, _MAX32 = 0xFFFF, 0xFFFF_FFFF  # these values mean: look in the zip64 records

_LOCAL = struct.Struct("<4s3HI3I2H")
_CENTRAL = struct.Struct("<4s4HI3I5H2I")
_DESCRIPTOR, _DESCRIPTOR64 = struct.Struct("<4s3I"), struct.Struct("<4sI2Q")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_END = struct.Struct("<4s4H2IH")
_FLAGS = 1 << 3 | 1 << 11  # sizes and CRC-32 follow the content; the name is UTF-8
_VERSION, _VERSION64 = 20, 45
_MADE_BY = 3 << 8 | _VERSION64  # Unix: whose modes the external attributes hold
_MODE = 0o100644 << 16

_EARLIEST = datetime(1980, 1, 1, tzinfo=UTC)
_LATEST = datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC)

# Control characters, what Windows forbids, line separators, controls of the writing direction
# (they can show exe.txt for a txt.exe), and code points that are no characters.
_UNSAFE = re.compile(
    r'[\x00-\x1f\x7f-\x9f\\<>:"|?*\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f'
    r"\ud800-\udfff\ufffe\uffff]"
)
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *(\.|$)", re.IGNORECASE)
_LONGEST_NAME, _LONGEST_PART = 65_535, 255  # bytes
_LONGEST_EXTENSION = 64
_ROOM = 16  # bytes kept for the number of a duplicate
_SANE = 4 * _LONGEST_PART  # normalizing takes the square of the marks in a row


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an archive.

    ``name`` comes from ``archive_names``; ``modified`` is timezone-aware; ``key`` identifies
    the content: entries with equal keys have equal bytes. ``crc32`` is None while unknown.
    """

    name: str
    size: int
    modified: datetime
    crc32: int | None
    open: Callable[[], BlobReader]
    key: str


class Plan:
    """Where every byte of an archive of ``entries``, in their order, is. It can be shared.

    ``etag`` is a strong validator: equal ones mean equal bytes, in every process, whichever
    CRC-32s are known. ``crcs`` are those, by key; an archive adds what it learns, for all that
    come after it. ``starts`` has the offset of each part: entries, their central records, the
    end; ``size`` is where that ends.
    """

    __slots__ = ("crcs", "end", "entries", "etag", "size", "starts")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        self.crcs = {entry.key: 0 for entry in self.entries if entry.size == 0}
        self.crcs |= {e.key: e.crc32 for e in self.entries if e.crc32 is not None}
        digest = hashlib.sha256(_LAYOUT)
        lengths = []
        for entry in self.entries:
            header, key = _local_header(entry), entry.key.encode()
            # Each field tells its length or has a fixed one: no two plans hash the same bytes.
            digest.update(header + struct.pack("<2Q", entry.size, len(key)) + key)
            lengths.append(len(header) + entry.size + len(_descriptor(entry, 0)))
        starts = list(accumulate(lengths, initial=0))
        placed = zip(self.entries, starts, strict=False)  # the last start is the directory's
        records = [len(_central_record(entry, at, 0)) for entry, at in placed]
        starts.extend(accumulate(records, initial=starts.pop()))
        self.end = _end_records(len(records), starts[len(records)], starts[-1])
        self.etag = f'"{digest.hexdigest()}"'
        self.size = starts[-1] + len(self.end)
        self.starts = starts


class Archive:
    """The archive of a plan; a ``BlobReader`` for one caller at a time.

    ``learn(entry, crc32)`` is called with each CRC-32 that was found, once for each key; those
    given are trusted. Content longer than its ``size`` is cut there.
    """

    def __init__(self, plan: Plan, learn: Callable[[Entry, int], None]) -> None:
        self._entries, self._starts = plan.entries, plan.starts
        self._end, self._crcs = plan.end, plan.crcs
        self._learn = learn
        self._index: int | None = None  # the entry that ``_reader`` reads
        self._reader: BlobReader | None = None
        self._summed = self._sum = 0  # how much of its beginning went into this CRC-32
        self.etag, self.size = plan.etag, plan.size

    def read_at(self, offset: int, length: int) -> bytes:
        """All ``length`` bytes from ``offset``, fewer only at the archive's end.

        Quick in ascending order. Where a CRC-32 is needed that is not known, and the content
        before it was not just read from its start, all of that content is read first.
        Raises OSError when content ends before its size.
        """
        parts = []
        end = min(offset + length, self.size)
        while offset < end:
            index = bisect_right(self._starts, offset) - 1
            part = self._part(index, offset - self._starts[index], end - offset)
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        """Idempotent."""
        reader, self._reader, self._index = self._reader, None, None
        if reader is not None:
            reader.close()

    def _part(self, index: int, start: int, length: int) -> bytes:
        """Some bytes of a part, at least one."""
        number = len(self._entries)
        if index < number:
            return self._of_entry(index, start, length)
        if index < 2 * number:
            index -= number
            entry, at = self._entries[index], self._starts[index]
            record = _central_record(entry, at, self._crc_of(index))
        else:
            record = self._end
        return record[start : start + length]

    def _of_entry(self, index: int, start: int, length: int) -> bytes:
        entry = self._entries[index]
        behind = self._starts[index + 1] - self._starts[index] - len(_descriptor(entry, 0))
        if start >= behind:
            found = _descriptor(entry, self._crc_of(index))
            return found[start - behind :][:length]
        before = behind - entry.size
        if start >= before:
            return self._content(index, start - before, min(length, behind - start))
        return _local_header(entry)[start : start + length]

    def _content(self, index: int, start: int, length: int) -> bytes:
        data = self._turn_to(index).read_at(start, length)
        if not data:
            message = f"the content of {self._entries[index].name!r} ends before its size"
            raise OSError(message)
        self._follow(self._entries[index], start, data)
        return data

    def _turn_to(self, index: int) -> BlobReader:
        """The reader of an entry, kept until another one is asked for."""
        if self._reader is None or self._index != index:
            self.close()
            self._reader = self._entries[index].open()
            self._index = index
            self._summed = self._sum = 0
        return self._reader

    def _follow(self, entry: Entry, start: int, data: bytes) -> None:
        """Take the CRC-32 further if these bytes join on to those it is of."""
        end = start + len(data)
        if entry.key in self._crcs or not start <= self._summed < end:
            return
        self._sum = zlib.crc32(memoryview(data)[self._summed - start :], self._sum)
        self._summed = end
        if end == entry.size:
            self._crcs[entry.key] = self._sum
            self._learn(entry, self._sum)

    def _crc_of(self, index: int) -> int:
        entry = self._entries[index]
        while entry.key not in self._crcs:
            self._turn_to(index)
            self._content(index, self._summed, min(_PIECE, entry.size - self._summed))
        return self._crcs[entry.key]


class Plans:
    """Plans that are kept until what they are of changes, the least used of them dropped first.

    They have at most ``most`` entries together, or there is only one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()  # a lookup moves its entry: two threads would tear the order

    def get(self, subject: str, version: int, now: datetime) -> Plan | None:
        """The plan of a subject as it is in this version and at this instant."""
        with self._lock:
            kept = self._kept.get(subject)
            if kept is None or kept.version != version or not kept.holds(now):
                return None
            self._kept.move_to_end(subject)
            return kept.plan

    def keep(self, subject: str, version: int, until: datetime | None, plan: Plan) -> None:
        """Keep a plan that holds until then, or for as long as the version does."""
        with self._lock:
            self._kept[subject] = _Kept(version, until, plan)
            self._kept.move_to_end(subject)
            count = sum(len(each.plan.entries) for each in self._kept.values())
            while count > self._most and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                count -= len(dropped.plan.entries)


@dataclass(frozen=True, slots=True)
class _Kept:
    version: int
    until: datetime | None
    plan: Plan

    def holds(self, now: datetime) -> bool:
        return self.until is None or now < self.until


def _local_header(entry: Entry) -> bytes:
    name = entry.name.encode()
    large = entry.size >= _MAX32
    extra = (_zip64(0, 0) if large else b"") + _timestamp(entry.modified)  # zeros: bit 3
    size, version = (_MAX32, _VERSION64) if large else (0, _VERSION)
    fixed = (version, _FLAGS, 0, _dos_time(entry.modified), 0, size, size, len(name), len(extra))
    return _LOCAL.pack(b"PK\3\4", *fixed) + name + extra


def _descriptor(entry: Entry, crc32: int) -> bytes:
    """8-byte sizes just where the local header has a zip64 field (APPNOTE 4.3.9.2)."""
    form = _DESCRIPTOR64 if entry.size >= _MAX32 else _DESCRIPTOR
    return form.pack(b"PK\7\x08", crc32, entry.size, entry.size)


def _central_record(entry: Entry, offset: int, crc32: int) -> bytes:
    name = entry.name.encode()
    size = min(entry.size, _MAX32)
    beyond = [value for value in (entry.size, entry.size, offset) if value >= _MAX32]
    extra = _zip64(*beyond) + _timestamp(entry.modified)
    fixed = _CENTRAL.pack(
        b"PK\1\2",
        _MADE_BY,
        _VERSION64 if beyond else _VERSION,
        _FLAGS,
        0,
        _dos_time(entry.modified),
        crc32,
        *(size, size),
        len(name),
        len(extra),
        *(0, 0, 0),
        _MODE,
        min(offset, _MAX32),
    )
    return fixed + name + extra


def _end_records(number: int, start: int, end: int) -> bytes:
    """What follows the central directory that lies from ``start`` to ``end``."""
    size = end - start
    plain = (*[min(number, _MAX16)] * 2, min(size, _MAX32), min(start, _MAX32))
    last = _END.pack(b"PK\5\6", 0, 0, *plain, 0)
    if number < _MAX16 and max(size, start) < _MAX32:
        return last
    full = (_END64.size - 12, _MADE_BY, _VERSION64, 0, 0, number, number, size, start)
    return _END64.pack(b"PK\6\6", *full) + _LOCATOR64.pack(b"PK\6\7", 0, end, 1) + last


def _zip64(*values: int) -> bytes:
    """The zip64 extra field. It holds nothing that stands in the record itself (4.5.3)."""
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values) if values else b""


def _timestamp(modified: datetime) -> bytes:
    """The extended timestamp field, where readers that take its 32 bits for signed and those
    that do not agree."""
    seconds = int(modified.timestamp())
    return struct.pack("<2HBI", 0x5455, 5, 1, seconds) if 0 <= seconds < 1 << 31 else b""


def _dos_time(modified: datetime) -> int:
    """Date and time in steps of two seconds. The format knows no zone: UTC, so that the bytes
    are the same everywhere."""
    at = min(max(modified, _EARLIEST), _LATEST).astimezone(UTC)
    date = at.year - 1980 << 9 | at.month << 5 | at.day
    return date << 16 | at.hour << 11 | at.minute << 5 | at.second // 2


def archive_names(names: Sequence[str]) -> list[str]:
    """Names for an archive's entries, in the same order: harmless wherever they are unpacked,
    recognisable, and different from each other also to those who ignore case.

    ``/`` separates folders; none leads out of the place, none is also a file. A duplicate
    becomes ``name (2).ext``; folders keep their names. In NFC, 65,535 bytes of UTF-8 at the
    most, 255 of them in a component.
    """
    root = _Folder()
    paths = [_path(name) for name in names]
    folders = [root.descend(path[:-1]) for path in paths]
    return [
        "/".join([*path[:-1], folder.claim(path[-1])])
        for path, folder in zip(paths, folders, strict=True)
    ]


class _Folder:
    """Which names are taken in a folder, by folders (all of them first) and files."""

    __slots__ = ("_numbers", "_taken")

    def __init__(self) -> None:
        self._taken: dict[str, _Folder | None] = {}
        self._numbers: dict[str, int] = {}  # where the search for a free number goes on

    def descend(self, path: Iterable[str]) -> _Folder:
        folder = self
        for part in map(_folded, path):
            folder = folder._taken.get(part) or folder._add(part)
        return folder

    def _add(self, folded: str) -> _Folder:
        added = self._taken[folded] = _Folder()
        return added

    def claim(self, name: str) -> str:
        """The name, or one with a number, for a file."""
        if _folded(name) in self._taken:
            name = self._numbered(name)
        self._taken[_folded(name)] = None
        return name

    def _numbered(self, name: str) -> str:
        extension = _extension(name)
        stem = name.removesuffix(extension)
        # Cut before counting: names that differ in what is cut must not count from 2 each.
        stem = _clip(stem, _LONGEST_PART - _ROOM - len(extension.encode()))
        same = _folded(stem + extension)
        for number in count(self._numbers.get(same, 2)):
            name = f"{stem} ({number}){extension}"
            if _folded(name) not in self._taken:
                self._numbers[same] = number + 1
                break
        return name


def _path(name: str) -> list[str]:
    """The components of a name, at least one, each of them harmless."""
    parts = [part for part in map(_component, name.split("/")) if part]
    *folders, file = parts or ["file"]
    room = _LONGEST_NAME - _LONGEST_PART
    lengths = accumulate(len(folder.encode()) + 1 for folder in folders)
    return [*(f for f, end in zip(folders, lengths, strict=True) if end <= room), file]


def _component(part: str) -> str:
    """A component made harmless; empty when nothing remains of it."""
    part = unicodedata.normalize("NFC", _cut(part, _SANE))
    part = _cut(_UNSAFE.sub("_", part).rstrip(" ."), _LONGEST_PART).rstrip(" .")
    return _cut(f"_{part}", _LONGEST_PART) if _DEVICE.match(part) else part


def _cut(part: str, longest: int) -> str:
    """A component of at most so many bytes that keeps its extension."""
    if len(part.encode(errors="replace")) <= longest:
        return part
    extension = _extension(part)
    stem = part.removesuffix(extension)
    return _clip(stem, longest - len(extension.encode(errors="replace"))) + extension


def _clip(text: str, longest: int) -> str:
    return text.encode(errors="replace")[:longest].decode(errors="ignore")


def _extension(part: str) -> str:
    """With its dot; nothing when it is too long to be one."""
    stem, dot, last = part.rpartition(".")
    short = len(last.encode(errors="replace")) < _LONGEST_EXTENSION
    return dot + last if short and stem.strip(".") else ""


def _folded(part: str) -> str:
    """Equal for names that some file system takes for the same (Unicode, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", part).casefold())
