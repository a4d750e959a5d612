"""The streamed archive: any range of it, with and without known CRC-32s, small and huge; and
names that are harmless to unpack."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import struct
import subprocess
import time
import timeit
import tracemalloc
import unicodedata
import zipfile
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from upwell.core.zips import Archive, Entry, Plan, Plans, archive_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from upwell.core.ports import BlobReader

NOW = datetime(2026, 5, 6, 7, 8, 10, tzinfo=UTC)
GIB = 1 << 30
CENTRAL, LOCAL, DESCRIPTOR, END = b"PK\1\2", b"PK\3\4", b"PK\7\x08", b"PK\5\6"


class Source:
    """Content in memory that counts what is done with it, and gives ``step`` bytes a read."""

    def __init__(self, data: bytes, step: int = 1 << 30) -> None:
        self.data = data
        self.step = step
        self.opened = self.closed = self.read = 0

    def open(self) -> BlobReader:
        self.opened += 1
        return SourceReader(self)


class SourceReader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self.size = len(source.data)

    def read_at(self, offset: int, length: int) -> bytes:
        found = self._source.data[offset : offset + min(length, self._source.step)]
        self._source.read += len(found)
        return found

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        self._source.closed += 1


class Zeros:
    """A reader of as many zeros as asked for, none of them kept."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read_at(self, offset: int, length: int) -> bytes:
        return bytes(max(0, min(length, self.size - offset)))

    def fileno(self) -> int | None:
        return None

    def close(self) -> None: ...


class Seen:
    """What an archive has learnt."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def __call__(self, entry: Entry, crc32: int) -> None:
        self.calls.append((entry.name, crc32))


class File(io.RawIOBase):
    """An archive as ``zipfile`` wants it."""

    def __init__(self, archive: BlobReader) -> None:
        self._archive = archive
        self._at = 0

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._archive.size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        wanted = self._archive.size if size is None or size < 0 else size
        found = self._archive.read_at(self._at, wanted)
        self._at += len(found)
        return found


def entry(name: str, source: Source, *, known: bool = False, modified: datetime = NOW) -> Entry:
    crc = zlib.crc32(source.data) if known else None
    return Entry(name, len(source.data), modified, crc, source.open, f"key of {name}")


def huge(name: str, size: int) -> Entry:
    crc = zlib.crc32(bytes(size)) if size < 100 else 0x12345678
    return Entry(name, size, NOW, crc, lambda: Zeros(size), name)


def nothing_to_learn(entry: Entry, crc32: int) -> None:
    pytest.fail(f"{entry.name} was known already")


def untouched() -> BlobReader:
    pytest.fail("content was read")


def archive_of(entries: Sequence[Entry], learn: Callable[[Entry, int], None]) -> Archive:
    return Archive(Plan(entries), learn)


def whole(archive: Archive, step: int = 1 << 20) -> bytes:
    pieces = [archive.read_at(at, step) for at in range(0, archive.size, step)]
    archive.close()
    return b"".join(pieces)


def unpacked(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        assert found.testzip() is None
        return {name: found.read(name) for name in found.namelist()}


SOME = {
    "a.txt": b"hello",
    "empty": b"",
    "folder/größe ✓.bin": bytes(range(256)) * 20,
    "folder/sub/שלום.txt": b"x",
}


def some(*, known: bool = False) -> list[Entry]:
    return [entry(name, Source(data), known=known) for name, data in SOME.items()]


# The format


def test_zipfile_unpacks_it() -> None:
    assert unpacked(whole(archive_of(some(), Seen()))) == SOME


def test_an_archive_without_entries() -> None:
    archive = archive_of([], nothing_to_learn)
    assert archive.size == 22
    assert unpacked(whole(archive)) == {}


def test_records_say_what_they_should() -> None:
    data = whole(archive_of(some(), Seen()))
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        for info in found.infolist():
            assert info.compress_type == zipfile.ZIP_STORED
            assert info.flag_bits == 0x0808
            assert info.extract_version == 20
            assert info.create_system == 3
            assert info.external_attr == 0o100644 << 16
            assert info.date_time == (2026, 5, 6, 7, 8, 10)
            assert info.extra == struct.pack("<HHBI", 0x5455, 5, 1, int(NOW.timestamp()))
            assert (info.volume, info.internal_attr) == (0, 0)
    assert b"PK\6\6" not in data


def walk(data: bytes) -> dict[str, bytes]:
    """From local header to local header, without the central directory; sizes come from it."""
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        infos = found.infolist()
    at, seen = 0, {}
    for info in infos:
        assert info.header_offset == at
        head = struct.unpack_from("<4sHHHIIIIHH", data, at)
        # APPNOTE 4.4.4: with bit 3 set, CRC-32 and sizes are zero here.
        assert head[:4] == (LOCAL, 20, 0x0808, 0)
        assert head[5:8] == (0, 0, 0)
        at += 30 + head[8] + head[9]
        content = data[at : at + info.file_size]
        at += info.file_size
        expected = (DESCRIPTOR, zlib.crc32(content), info.file_size, info.file_size)
        assert struct.unpack_from("<4sIII", data, at) == expected
        at += 16
        seen[info.filename] = content
    assert data[at : at + 4] == (CENTRAL if infos else END)
    return seen


def test_it_can_be_read_from_the_front() -> None:
    assert walk(whole(archive_of(some(), Seen()))) == SOME


TOOLS = {
    "unzip": ["unzip", "-t"],
    "7z": ["7z", "t"],
    "bsdtar": ["bsdtar", "-xOf"],
    "jar": ["jar", "-tf"],
}


@pytest.fixture(params=TOOLS)
def accepts(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Holds when the program reads these members, or all, without an error or a warning."""
    command = TOOLS[request.param]
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")

    def check(path: Path, *members: str) -> None:
        env = {**os.environ, "LC_ALL": "C.UTF-8"}
        arguments = [*command, str(path), *members]
        done = subprocess.run(arguments, capture_output=True, env=env, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        assert b"warning" not in (done.stdout + done.stderr).lower()

    return check


def test_other_programs_unpack_it(accepts: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(whole(archive_of(some(), Seen())))
    accepts(tmp_path / "a.zip")


def test_other_programs_unpack_what_lies_beyond_4_gib(
    accepts: Callable[..., None], tmp_path: Path
) -> None:
    size = (4 << 30) + 5
    archive = archive_of([huge("large", size), *some(known=True)], nothing_to_learn)
    path = tmp_path / "large.zip"
    with path.open("wb") as file:  # sparse: the zeros between are not written
        file.write(archive.read_at(0, 100))
        file.seek(size)
        file.write(archive.read_at(size, archive.size))
    accepts(path, "a.txt", "empty", "folder/größe ✓.bin")
    path.unlink()


@pytest.mark.parametrize(
    ("modified", "dos", "stamp"),
    [
        (NOW, (2026, 5, 6, 7, 8, 10), True),
        (NOW + timedelta(seconds=1.5), (2026, 5, 6, 7, 8, 10), True),
        (NOW.astimezone(timezone(timedelta(hours=9))), (2026, 5, 6, 7, 8, 10), True),
        (datetime(1970, 1, 1, tzinfo=UTC), (1980, 1, 1, 0, 0, 0), True),
        (datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC), (1980, 1, 1, 0, 0, 0), False),
        (datetime(2038, 1, 19, 3, 14, 7, tzinfo=UTC), (2038, 1, 19, 3, 14, 6), True),
        (datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC), (2038, 1, 19, 3, 14, 8), False),
        (datetime(2107, 12, 31, 23, 59, 59, tzinfo=UTC), (2107, 12, 31, 23, 59, 58), False),
        (datetime.min.replace(tzinfo=UTC), (1980, 1, 1, 0, 0, 0), False),
        (datetime.max.replace(tzinfo=UTC), (2107, 12, 31, 23, 59, 58), False),
        (datetime.max.replace(tzinfo=timezone(-timedelta(hours=9))), (2107, 12, 31, 23, 59, 58), 0),
        (datetime.min.replace(tzinfo=timezone(timedelta(hours=9))), (1980, 1, 1, 0, 0, 0), 0),
    ],
)
def test_instants(modified: datetime, dos: tuple[int, ...], stamp: bool) -> None:
    data = whole(archive_of([entry("a", Source(b"a"), modified=modified)], Seen()))
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        (info,) = found.infolist()
    assert info.date_time == dos
    expected = struct.pack("<HHBI", 0x5455, 5, 1, int(modified.timestamp())) if stamp else b""
    assert info.extra == expected
    name, extra = struct.unpack_from("<HH", data, 26)
    assert data[30 + name :][:extra] == expected


# Ranges


@st.composite
def entries(draw: st.DrawFn) -> list[Entry]:
    names = archive_names(draw(st.lists(st.text(max_size=6), max_size=5)))
    return [
        entry(
            name,
            Source(draw(st.binary(max_size=40)), draw(st.integers(1, 40))),
            known=draw(st.booleans()),
        )
        for name in names
    ]


@given(entries(), st.integers(0, 1 << 16), st.integers(0, 1 << 16))
def test_every_range_is_that_of_the_whole(made: list[Entry], offset: int, length: int) -> None:
    data = whole(archive_of(made, Seen()))
    offset, length = offset % (len(data) + 2), length % (len(data) + 2)
    assert archive_of(made, Seen()).read_at(offset, length) == data[offset : offset + length]


@given(entries(), st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 200)), max_size=20))
def test_ranges_in_any_order(made: list[Entry], ranges: list[tuple[int, int]]) -> None:
    data = whole(archive_of(made, Seen()))
    assert walk(data) == {e.name: _all(e) for e in made}
    archive = archive_of(made, Seen())
    for start, length in ranges:
        offset = start % (len(data) + 2)
        assert archive.read_at(offset, length) == data[offset : offset + length]
    archive.close()


def _all(entry: Entry) -> bytes:
    reader = entry.open()
    data = b""
    while piece := reader.read_at(len(data), 1 << 20):
        data += piece
    return data


@given(entries(), st.integers(1, 100))
def test_the_same_bytes_whether_crcs_are_known_or_not(made: list[Entry], step: int) -> None:
    unknown = archive_of([replace(e, crc32=None) for e in made], Seen())
    known = archive_of([replace(e, crc32=zlib.crc32(_all(e))) for e in made], nothing_to_learn)
    assert (known.etag, known.size) == (unknown.etag, unknown.size)
    data = whole(unknown, step)
    assert len(data) == unknown.size
    assert whole(known) == data


@pytest.mark.slow
def test_every_slice_of_a_small_one() -> None:
    made = [entry("a", Source(b"abc", step=2)), entry("b/é", Source(b"")), entry("c", Source(b"d"))]
    data = whole(archive_of(made, Seen()))
    for known in (False, True):
        known_made = [replace(e, crc32=zlib.crc32(_all(e)) if known else None) for e in made]
        for start in range(len(data) + 1):
            archive = archive_of(known_made, Seen())
            for end in range(start, len(data) + 2):
                assert archive.read_at(start, end - start) == data[start:end]


def test_reading_goes_on_in_another_process_that_knows_nothing() -> None:
    data = whole(archive_of(some(), Seen()))
    for stop in range(0, len(data), 97):
        first, second = archive_of(some(), Seen()), archive_of(some(), Seen())
        assert first.etag == second.etag
        rest = second.read_at(stop, 100) + second.read_at(stop + 100, len(data))
        assert first.read_at(0, stop) + rest == data


def test_it_is_a_blob_reader() -> None:
    reader: BlobReader = archive_of(some(), Seen())
    assert reader.fileno() is None
    assert reader.read_at(reader.size, 10) == b""
    assert reader.read_at(reader.size + 5, 10) == b""
    assert reader.read_at(0, 0) == b""


# What is read, and how often


def test_in_order_everything_is_read_once_by_one_reader_at_a_time() -> None:
    sources = [Source(os.urandom(5000), step=700) for _ in range(4)]
    seen = Seen()
    archive = archive_of([entry(str(i), source) for i, source in enumerate(sources)], seen)
    for at in range(0, archive.size, 512):
        archive.read_at(at, 512)
        assert sum(source.opened - source.closed for source in sources) <= 1
    archive.close()
    archive.close()
    assert [(s.opened, s.closed, s.read) for s in sources] == [(1, 1, 5000)] * 4
    assert seen.calls == [(str(i), zlib.crc32(s.data)) for i, s in enumerate(sources)]


def test_overlapping_reads_still_count_as_in_order() -> None:
    source, seen = Source(os.urandom(3000)), Seen()
    archive = archive_of([entry("a", source)], seen)
    for at in range(0, archive.size, 400):
        archive.read_at(at, 600)
    assert seen.calls == [("a", zlib.crc32(source.data))]
    assert source.read < 2 * 3000


def test_reading_again_does_not_disturb_the_crc() -> None:
    source, seen = Source(os.urandom(5000)), Seen()
    archive = archive_of([entry("a", source)], seen)
    for start, length in ((0, 4000), (100, 200), (3000, 500), (2000, archive.size)):
        archive.read_at(start, length)
    assert seen.calls == [("a", zlib.crc32(source.data))]


def test_a_crc_that_is_missing_is_computed_once_and_told_once() -> None:
    sources = [Source(os.urandom(5000), step=700) for _ in range(3)]
    seen = Seen()
    archive = archive_of([entry(str(i), source) for i, source in enumerate(sources)], seen)
    tail = [archive.read_at(archive.size - 190, 190) for _ in range(3)]
    assert len(set(tail)) == 1
    assert [source.read for source in sources] == [5000] * 3
    assert seen.calls == [(str(i), zlib.crc32(s.data)) for i, s in enumerate(sources)]
    whole(archive)
    assert len(seen.calls) == 3


def test_a_crc_goes_on_from_what_was_streamed() -> None:
    source, seen = Source(os.urandom(5000)), Seen()
    archive = archive_of([entry("a", source)], seen)
    archive.read_at(0, 4000)
    archive.read_at(archive.size - 90, 90)
    assert source.read == 5000
    assert seen.calls == [("a", zlib.crc32(source.data))]


def test_equal_content_is_summed_once() -> None:
    source, seen = Source(b"the same"), Seen()
    made = [replace(entry(name, source), key="one") for name in "abc"]
    archive = archive_of(made, seen)
    archive.read_at(archive.size - 22, 22)
    assert source.read == 0, "the end record needs no CRC-32"
    data = whole(archive)
    assert seen.calls == [("a", zlib.crc32(b"the same"))]
    assert unpacked(data) == dict.fromkeys("abc", b"the same")


def test_a_crc_that_is_known_is_trusted() -> None:
    wrong = replace(entry("a", Source(b"abc")), crc32=77)
    data = whole(archive_of([wrong], nothing_to_learn))
    assert struct.pack("<4sI", DESCRIPTOR, 77) in data
    untouched_one = replace(wrong, open=untouched)
    archive = archive_of([untouched_one], nothing_to_learn)
    after = 30 + 1 + 9 + 3
    assert archive.read_at(after, archive.size) == data[after:]


def test_empty_content_is_not_opened() -> None:
    archive = archive_of([Entry("a", 0, NOW, None, untouched, "")], nothing_to_learn)
    assert unpacked(whole(archive)) == {"a": b""}


def test_the_plan_reads_nothing() -> None:
    archive = archive_of([Entry("a", 10, NOW, None, untouched, "")], nothing_to_learn)
    assert archive.size == 30 + 1 + 9 + 10 + 16 + 46 + 1 + 9 + 22
    archive.close()


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_content_that_ends_early(step: int) -> None:
    source, seen = Source(b"abc"), Seen()
    short = replace(entry("a", source), size=5)
    after = replace(entry("b", Source(b"fine")))
    archive = archive_of([short, after], seen)
    with pytest.raises(OSError, match="'a' ends before its size"):
        whole(archive, step)
    with pytest.raises(OSError, match="'a' ends before its size"):
        archive.read_at(archive.size - 100, 1)  # needs the CRC-32
    archive.close()
    assert seen.calls == []
    assert source.opened == source.closed


def test_content_that_is_longer_is_cut() -> None:
    made = [replace(entry("a", Source(b"abcdef")), size=4), entry("b", Source(b"fine"))]
    assert unpacked(whole(archive_of(made, Seen()))) == {"a": b"abcd", "b": b"fine"}


def test_content_that_cannot_be_read_now_can_be_read_later() -> None:
    source, seen = Source(b"abcdef", step=2), Seen()
    failing = iter([OSError(5, "cannot read")])

    def unreliable() -> BlobReader:
        for error in failing:
            raise error
        return source.open()

    archive = archive_of([replace(entry("a", source), open=unreliable)], seen)
    with pytest.raises(OSError, match="cannot read"):
        archive.read_at(0, archive.size)
    assert unpacked(archive.read_at(0, archive.size)) == {"a": b"abcdef"}
    assert seen.calls == [("a", zlib.crc32(b"abcdef"))]


def test_memory_does_not_grow_with_the_content() -> None:
    size = 64 << 20
    for start in (0, size):  # streamed; summed for the descriptor alone
        archive = archive_of([Entry("a", size, NOW, None, lambda: Zeros(size), "")], Seen())
        tracemalloc.start()
        try:
            for at in range(start, archive.size, 1 << 18):
                archive.read_at(at, 1 << 18)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 3 << 20


# The ETag


def changed(change: Callable[[Entry], Entry]) -> str:
    first, *others = some()
    return archive_of([change(first), *others], Seen()).etag


def test_the_etag_follows_what_the_bytes_depend_on() -> None:
    etag = archive_of(some(), Seen()).etag
    assert etag == archive_of(some(known=True), Seen()).etag
    assert etag.startswith('"')
    assert etag.endswith('"')
    assert etag.isascii()
    others = [
        changed(lambda e: replace(e, name="b.txt")),
        changed(lambda e: replace(e, size=6)),
        changed(lambda e: replace(e, modified=NOW + timedelta(seconds=1))),
        changed(lambda e: replace(e, key="key of a.tx_")),
        archive_of(some()[::-1], Seen()).etag,
        archive_of(some()[:-1], Seen()).etag,
        archive_of([], Seen()).etag,
    ]
    assert len({etag, *others}) == 1 + len(others)


def test_the_etag_tells_where_a_field_ends() -> None:
    old = datetime(1960, 1, 1, tzinfo=UTC)  # its header is ASCII
    one, other = (entry(name, Source(b""), modified=old) for name in "ab")
    header = whole(archive_of([other], Seen()))[:31].decode()
    both = replace(one, key=one.key + header + "\0" * 8 + other.key)
    assert archive_of([both], Seen()).etag != archive_of([one, other], Seen()).etag


# Huge ones


def parsed(archive: Archive) -> zipfile.ZipFile:
    return zipfile.ZipFile(File(archive))


def test_content_over_4_gib() -> None:
    sizes = {"before": 3, "large": 5 * GIB, "after": 3, "last": 5 * GIB + 7}
    archive = archive_of([huge(name, size) for name, size in sizes.items()], nothing_to_learn)
    with parsed(archive) as found:
        assert {info.filename: info.file_size for info in found.infolist()} == sizes
        versions = [info.extract_version for info in found.infolist()]
        assert versions == [20, 45, 45, 45]
        # Just the values that do not fit, no more.
        lengths = [len(info.extra) - 9 for info in found.infolist()]
        assert lengths == [0, 4 + 16, 4 + 8, 4 + 24]
        for info in found.infolist():
            assert huge(info.filename, info.file_size).crc32 == info.CRC
            with found.open(info) as content:
                assert content.read(3) == bytes(3)
            structure(archive, info)
    assert archive.read_at(archive.size - 98, 4) == b"PK\6\6"


def structure(archive: Archive, info: zipfile.ZipInfo) -> None:
    """Local header and descriptor of one entry."""
    large = info.file_size >= 0xFFFFFFFF
    head = struct.unpack("<4sHHHIIIIHH", archive.read_at(info.header_offset, 30))
    size = 0xFFFFFFFF if large else 0
    assert head[:4] == (LOCAL, 45 if large else 20, 0x0808, 0)
    assert head[5:8] == (0, size, size)
    extra = archive.read_at(info.header_offset + 30 + head[8], head[9])
    assert extra[:-9] == (struct.pack("<HHQQ", 1, 16, 0, 0) if large else b"")
    after = info.header_offset + 30 + head[8] + head[9] + info.file_size
    form = struct.Struct("<4sIQQ" if large else "<4sIII")
    found = form.unpack(archive.read_at(after, form.size))
    assert found == (DESCRIPTOR, info.CRC, info.file_size, info.file_size)
    assert archive.read_at(after + form.size, 4) in (LOCAL, CENTRAL)


@pytest.mark.parametrize("size", [0xFFFF_FFFE, 0xFFFF_FFFF, 0x1_0000_0000])
def test_content_around_the_limit(size: int) -> None:
    archive = archive_of([huge("a", size)], nothing_to_learn)
    with parsed(archive) as found:
        (info,) = found.infolist()
        assert info.file_size == info.compress_size == size
        assert info.extract_version == (45 if size >= 0xFFFF_FFFF else 20)
        structure(archive, info)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_an_offset_around_the_limit(beyond: int) -> None:
    around = 30 + 1 + 9 + 16  # what the first entry takes beside its content
    first = huge("a", 0xFFFF_FFFF - around + beyond)
    archive = archive_of([first, huge("b", 5)], nothing_to_learn)
    with parsed(archive) as found:
        a, b = found.infolist()
        assert (a.header_offset, b.header_offset) == (0, 0xFFFF_FFFF + beyond)
        assert len(b.extra) == (9 if beyond < 0 else 9 + 12)
        assert b.extract_version == (20 if beyond < 0 else 45)
        structure(archive, a)
        structure(archive, b)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
def test_a_directory_that_starts_around_the_limit(beyond: int) -> None:
    size = 0xFFFF_FFFF - (30 + 1 + 9 + 16) + beyond
    archive = archive_of([huge("a", size)], nothing_to_learn)
    tail = archive.read_at(archive.size - 98, 98)
    assert (tail[:4] == b"PK\6\6") == (beyond >= 0)
    assert struct.unpack_from("<I", tail, 76 + 16) == (0xFFFF_FFFF + min(beyond, 0),)
    with parsed(archive) as found:
        assert found.start_dir == 0xFFFF_FFFF + beyond


def many(number: int) -> Archive:
    one = huge("x", 1)
    return archive_of([replace(one, name=f"{i:05}") for i in range(number)], nothing_to_learn)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "large"), [(65_534, False), (65_535, True), (70_000, True)])
def test_many_entries(number: int, large: bool) -> None:
    archive = many(number)
    tail = archive.read_at(archive.size - 98, 98)
    assert struct.unpack_from("<4sHHHH", tail, 76) == (END, 0, 0, *[min(number, 65_535)] * 2)
    if large:
        size, start = (number * (46 + 5 + 9), number * (30 + 5 + 9 + 1 + 16))
        expected = (b"PK\6\6", 44, 3 << 8 | 45, 45, 0, 0, number, number, size, start)
        assert struct.unpack_from("<4sQHHIIQQQQ", tail) == expected
        assert struct.unpack_from("<4sIQI", tail, 56) == (b"PK\6\7", 0, start + size, 1)
    else:
        assert b"PK\6\6" not in tail
    with parsed(archive) as found:
        assert found.namelist() == [f"{i:05}" for i in range(number)]
        structure(archive, found.infolist()[-1])


@pytest.mark.slow
def test_other_programs_unpack_many_entries(accepts: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "many.zip").write_bytes(whole(many(70_000)))
    accepts(tmp_path / "many.zip")


# Names


HOSTILE = [
    ("plain.txt", "plain.txt"),
    ("folder/sub/file", "folder/sub/file"),
    ("", "file"),
    (".", "file"),
    ("..", "file"),
    ("///", "file"),
    (" . ", "file"),
    ("../../etc/passwd", "etc/passwd"),
    ("/etc/passwd", "etc/passwd"),
    ("a//./b/../c", "a/b/c"),
    ("folder/", "folder"),
    ("C:/Windows/x", "C_/Windows/x"),
    ("C:\\Windows\\x", "C__Windows_x"),
    ("\\\\server\\share", "__server_share"),
    ("..\\..\\x", ".._.._x"),
    ("a\0b\nc\x7f\x9b", "a_b_c__"),
    ('<>:"|?*', "_______"),
    ("trailing. . ", "trailing"),
    ("dots.../x. /y", "dots/x/y"),
    (".hidden", ".hidden"),
    ("...", "file"),
    ("CON", "_CON"),
    ("nul.txt", "_nul.txt"),
    ("Com1.tar.gz", "_Com1.tar.gz"),
    ("lpt³ .x", "_lpt³ .x"),
    ("aux/prn", "_aux/_prn"),
    ("CON. ", "_CON"),
    ("conin$", "_conin$"),
    ("CONSOLE", "CONSOLE"),
    ("COM10", "COM10"),
    ("photo\u202egpj.exe", "photo_gpj.exe"),
    ("\u2066x\u2069", "_x_"),
    ("שלום עולם.txt", "שלום עולם.txt"),
    ("👨\u200d👩\u200d👧.png", "👨\u200d👩\u200d👧.png"),
    ("lone\ud800.txt", "lone_.txt"),
    ("e\u0301", "é"),
    ("<\u0338", "\u226e"),
    ("x" * 300, "x" * 255),
    ("é" * 200 + ".jpeg", "é" * 125 + ".jpeg"),
    ("NUL" + " " * 300 + "x", "_NUL"),
    ("CON." + "x" * 251, "_CON." + "x" * 250),
    ("a." + "x" * 300, "a." + "x" * 253),
    ("x" * 300 + ".txt. ", "x" * 251 + ".txt"),
    ("\ud800" * 300 + ".txt", "_" * 251 + ".txt"),
]


@pytest.mark.parametrize(("name", "expected"), HOSTILE)
def test_hostile_names(name: str, expected: str) -> None:
    assert archive_names([name]) == [expected]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.txt"] * 3, ["a.txt", "a (2).txt", "a (3).txt"]),
        (["A.txt", "a.TXT"], ["A.txt", "a (2).TXT"]),
        (["é", "e\u0301"], ["é", "é (2)"]),
        (["straße", "STRASSE"], ["straße", "STRASSE (2)"]),
        (["\u0390", "\u03aa\u0301"], ["\u0390", "\u03aa\u0301 (2)"]),
        (["a/x", "A/X"], ["a/x", "A/X (2)"]),
        (["a/x", "b/x"], ["a/x", "b/x"]),
        (["a", "a/b"], ["a (2)", "a/b"]),
        (["a/b", "A"], ["a/b", "A (2)"]),
        (["a", "a/b/c", "a (2)/x"], ["a (3)", "a/b/c", "a (2)/x"]),
        (["a", "a (2)", "a"], ["a", "a (2)", "a (3)"]),
        (["a", "a", "a (2)"], ["a", "a (2)", "a (2) (2)"]),
        (["", "", "file"], ["file", "file (2)", "file (3)"]),
        (["x?", "x*"], ["x_", "x_ (2)"]),
        ([".bashrc"] * 2, [".bashrc", ".bashrc (2)"]),
        (["x" * 255] * 2, ["x" * 255, "x" * 239 + " (2)"]),
        (["x" * 300 + ".txt"] * 2, ["x" * 251 + ".txt", "x" * 235 + " (2).txt"]),
        ([], []),
    ],
)
def test_duplicates(names: list[str], expected: list[str]) -> None:
    assert archive_names(names) == expected


HUGE: dict[str, Callable[[int], list[str]]] = {
    "deep": lambda n: ["a/" * n + "x.txt"],
    "deep and long": lambda n: [("b" * 250 + "/") * (n // 100) + "x.txt"],
    "marks": lambda n: ["e\u0301\u0323" * 10 * n],
    "marks on one letter": lambda n: ["e" + "\u0301\u0323" * 4 * n],
    "equal": lambda n: ["a/b.txt"] * n,
    "numbered": lambda n: [f"a ({i})" for i in range(n // 2)] + ["a"] * (n // 2),
    "cut": lambda n: [f"{'x' * 250}{i:05}" for i in range(n // 2)] * 2,  # all alike once cut
    "case": lambda n: ["".join(c) for c in itertools.islice(itertools.product("aA", repeat=14), n)],
}


@pytest.mark.parametrize("made", HUGE.values(), ids=HUGE)
def test_time_grows_as_the_names_do(made: Callable[[int], list[str]]) -> None:
    """Eight times as much takes some eight times as long, on any machine; squares, 64 times."""
    quick, long = (least_seconds(made(n)) for n in (1_200, 9_600))
    assert long < 24 * max(quick, 0.0005)


def least_seconds(names: list[str]) -> float:
    naming = partial(archive_names, names)
    return min(timeit.repeat(naming, timer=time.thread_time, number=1, repeat=4))


@pytest.mark.parametrize("made", HUGE.values(), ids=HUGE)
def test_huge_names_are_harmless_and_unique(made: Callable[[int], list[str]]) -> None:
    names = made(10_000)
    found = archive_names(names)
    assert all(map(harmless, found[:100]))
    assert len({folded(name) for name in found}) == len(names)


def test_very_deep_and_very_long_names() -> None:
    (found,) = archive_names(["." * 300 + "a"])
    assert harmless(found)
    first, second = archive_names([("b" * 255 + "/") * 300 + "y" * 255] * 2)
    assert harmless(first)
    assert harmless(second)
    assert first != second
    assert len(first.encode()) > 65_000


def harmless(name: str) -> bool:
    parts = name.split("/")
    assert len(name.encode()) <= 65_535
    for part in parts:
        assert 0 < len(part.encode()) <= 255
        assert part not in {".", ".."}
        assert not part.endswith((".", " "))
        assert part.split(".", maxsplit=1)[0].rstrip(" ").upper() not in {
            "CON",
            "NUL",
            "COM1",
            "AUX",
        }
        assert unicodedata.is_normalized("NFC", part)
        assert not set(part) & set('\\<>:"|?*')
        assert not {unicodedata.category(char) for char in part} & {"Cc", "Cs", "Zl", "Zp"}
    return True


def folded(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())


parts = st.one_of(
    st.sampled_from(["", ".", "..", "a", "A", "b.txt", "B.TXT", "a (2)", "é", "e\u0301", "CON"]),
    st.text(st.characters(categories=None), max_size=5),
    st.text("ab. /\\:", max_size=6),
    st.builds(lambda c, n: c * n, st.characters(), st.integers(80, 300)),
)


@given(st.lists(st.lists(parts, max_size=4).map("/".join), max_size=12))
@example(["a/b", "a/b/c", "A/B (2)", "a"])
def test_names_are_harmless_and_unique(names: list[str]) -> None:
    found = archive_names(names)
    assert found == archive_names(names)
    assert len(found) == len(names)
    assert all(map(harmless, found))
    assert len({folded(name) for name in found}) == len(found)
    split = [name.split("/") for name in found]
    folders = {folded("/".join(p[:i])) for p in split for i in range(1, len(p))}
    assert not folders & {folded(name) for name in found}


def test_names_and_archive_together() -> None:
    names = archive_names([name for name, _ in HOSTILE])
    made = [entry(name, Source(name.encode())) for name in names]
    assert unpacked(whole(archive_of(made, Seen()))) == {name: name.encode() for name in names}


def test_plans_are_kept_within_a_bound() -> None:
    plans, made = Plans(5), {name: Plan(some()[:2]) for name in "abc"}
    for name, plan in made.items():
        if name == "c":
            assert plans.get("a", 1, NOW) is made["a"]  # used: "b" is the least used one
        plans.keep(name, 1, None, plan)
    assert [name for name in "abc" if plans.get(name, 1, NOW)] == ["a", "c"]
    assert plans.get("a", 2, NOW) is None  # it changed
    plans.keep("a", 2, NOW + timedelta(seconds=1), made["a"])
    assert plans.get("a", 2, NOW) is made["a"]
    assert plans.get("a", 2, NOW + timedelta(seconds=1)) is None  # a file of it has expired
    plans.keep("large", 1, None, large := Plan([huge(str(i), 1) for i in range(9)]))
    assert plans.get("large", 1, NOW) is large  # more than the bound: alone
    assert plans.get("c", 1, NOW) is None
