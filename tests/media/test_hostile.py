"""Whatever a file holds: the server stays as it is, and what can be said is said."""

from __future__ import annotations

import random
import resource
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("PIL")
pytest.importorskip("av")

from PIL import Image

from tests.media import samples
from tests.media.test_images import facts
from upwell.media.facts import LARGEST_FACTS, clean

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.media.conftest import Examine

pytestmark = pytest.mark.slow

KINDS: dict[str, Callable[[], bytes]] = {
    "image/jpeg": lambda: samples.saved(samples.picture(), "JPEG", exif=samples.exif(6)),
    "image/png": lambda: samples.saved(samples.picture(64, 64), "PNG", exif=samples.exif()),
    "image/gif": lambda: samples.saved(
        samples.picture(64, 64), "GIF", save_all=True, append_images=samples.frames()
    ),
    "image/webp": lambda: samples.saved(samples.picture(), "WEBP", exif=samples.exif()),
    "image/heic": lambda: samples.saved(samples.picture(), "HEIF", exif=samples.exif(3)),
    "image/avif": lambda: samples.saved(samples.picture(), "AVIF", exif=samples.exif(8)),
    "image/tiff": lambda: samples.saved(samples.picture(64, 64), "TIFF", exif=samples.exif()),
    "video/mp4": lambda: samples.recording("mp4", "libx264", "aac"),
    "video/webm": lambda: samples.recording("webm", "libvpx", "libopus"),
    "video/mp2t": lambda: samples.recording("mpegts", "mpeg2video"),
    "audio/mpeg": lambda: samples.recording("mp3", None, "libmp3lame"),
    "audio/ogg": lambda: samples.recording("ogg", None, "libopus"),
    "audio/flac": lambda: samples.recording("flac", None, "flac"),
}


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    return {mime_type: make() for mime_type, make in KINDS.items()}


def check(examine: Examine, content: bytes, mime_type: str) -> None:
    """Nothing, or an answer within its bounds; and this process did not grow."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = examine(content, mime_type)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    if found:
        assert clean(found.facts) == found.facts
        assert len(repr(found.facts)) < LARGEST_FACTS
        for made in (found.thumbnail, found.preview):
            assert made is None or made[8:12] == b"WEBP"


def test_a_decompression_bomb_has_a_size_and_no_picture(examine: Examine) -> None:
    bomb = samples.png(30_000, 30_000)
    assert len(bomb) < 200_000
    found = examine(bomb)
    known = facts(found)
    assert (known["width"], known["height"]) == (30_000, 30_000)
    assert found
    assert (found.thumbnail, found.preview) == (None, None)


LYING_IMAGES = {
    "wide": samples.png(2**31 - 1, 1, rows=b""),
    "high": samples.png(1, 2**31 - 1, rows=b""),
    "both": samples.png(2**31 - 1, 2**31 - 1, rows=b""),
    "empty": samples.png(9_999, 9_999, depth=16, rows=b""),
    "huge canvas": samples.gif_canvas(65_535, 65_535),
    "large canvas": samples.gif_canvas(10_000, 10_000),
    "huge tiff": samples.tiff((256, 4, 1, 2**32 - 1), (257, 4, 1, 2**32 - 1), (273, 4, 2**31, 8)),
    "strips": samples.tiff(
        (256, 3, 1, 64), (257, 3, 1, 64), (273, 4, 2**30, 8), (279, 4, 2**30, 8)
    ),
    "tags": samples.tiff(*[(256 + number, 7, 2**32 - 1, 8) for number in range(500)]),
    "looping exif": samples.looping_exif(),
    "webp": b"RIFF\x1e\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x10\x00\x00\x00" + b"\xff" * 6,
    "heic": b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00heicmif1\x00\x00\x00\x01meta" + b"\xff" * 99,
    "avif": b"\x00\x00\x00\x18ftypavif\x00\x00\x00\x00avifmif1" + b"\xff" * 99,
    "bmp": b"BM" + struct.pack("<IIIIiiHH", 99, 0, 54, 40, 2**31 - 1, -(2**31), 1, 32) + bytes(99),
    "nothing": b"",
    "zeros": bytes(100_000),
    "random": random.Random(7).randbytes(100_000),
}
LYING_RECORDINGS = {
    "atoms": samples.absurd_atoms(),
    "matroska": b"\x1aE\xdf\xa3\x01" + b"\xff" * 7 + b"\x18S\x80g\x01" + b"\xff" * 5000,
    "ogg": b"OggS" + b"\xff" * 5000,
    "id3": b"ID3\x03\x00\x00\x7f\x7f\x7f\x7f" + bytes(5000),
    "avi": b"RIFF\xff\xff\xff\xffAVI LIST\xff\xff\xff\xffhdrl" + b"\xff" * 5000,
    "wav": b"RIFF\xff\xff\xff\xffWAVEfmt \x10\x00\x00\x00" + b"\xff" * 5000,
    "nothing": b"",
    "zeros": bytes(100_000),
    "ones": b"\xff" * 100_000,
    "random": random.Random(9).randbytes(300_000),
}


@pytest.mark.parametrize("lie", LYING_IMAGES)
def test_images_that_lie(examine: Examine, lie: str) -> None:
    check(examine, LYING_IMAGES[lie], "image/png")


@pytest.mark.parametrize("mime_type", ["video/mp4", "audio/mpeg"])
@pytest.mark.parametrize("lie", LYING_RECORDINGS)
def test_recordings_that_lie(examine: Examine, lie: str, mime_type: str) -> None:
    check(examine, LYING_RECORDINGS[lie], mime_type)


def test_the_declared_type_may_be_wrong(examine: Examine, originals: dict[str, bytes]) -> None:
    assert examine(originals["video/mp4"], "image/jpeg") is None
    assert examine(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/png") is None
    assert examine(b"%PDF-1.7\n", "image/png") is None
    assert facts(examine(originals["image/webp"], "image/jpeg"))["format"] == "webp"
    assert facts(examine(originals["audio/mpeg"], "video/mp4"))["kind"] == "audio"


def test_a_photo_cut_short_keeps_its_facts(examine: Examine, originals: dict[str, bytes]) -> None:
    whole = originals["image/jpeg"]
    found = examine(whole[: len(whole) // 2], "image/jpeg")
    assert facts(found)["exif"]["make"] == samples.CAMERA
    assert found
    assert found.thumbnail is None


@pytest.mark.slow
@pytest.mark.parametrize("mime_type", KINDS)
def test_cut_short_anywhere(examine: Examine, originals: dict[str, bytes], mime_type: str) -> None:
    whole = originals[mime_type]
    for part in range(1, 24):
        check(examine, whole[: len(whole) * part // 24], mime_type)


@pytest.mark.slow
@pytest.mark.parametrize("mime_type", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated(
    examine: Examine, originals: dict[str, bytes], mime_type: str, data: st.DataObject
) -> None:
    content = bytearray(originals[mime_type])
    places = st.integers(0, len(content) - 1) | st.integers(0, min(999, len(content) - 1))
    for place in data.draw(st.lists(places, min_size=1, max_size=30)):
        piece = data.draw(st.binary(min_size=1, max_size=4) | st.just(b"\xff\xff\xff\xff"))
        content[place : place + len(piece)] = piece
    check(examine, bytes(content), mime_type)


@pytest.mark.slow
def test_as_large_as_is_drawn_at_all(examine: Examine) -> None:
    """100 megapixels fit into the worker's memory."""
    for image in (Image.new("RGB", (10_000, 10_000), "red"), Image.new("P", (10_000, 10_000))):
        found = examine(samples.saved(image, "PNG", compress_level=1))
        assert found
        assert found.thumbnail
    found = examine(samples.saved(Image.new("CMYK", (10_000, 9_999)), "JPEG"), "image/jpeg")
    assert found
    assert found.thumbnail
