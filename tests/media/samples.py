"""Files as cameras, programs and attackers make them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import av
import pillow_heif
from PIL import Image, ImageDraw
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

PLACE = {"latitude": 48.858222, "longitude": -2.2945, "altitude": 35.0}
CAMERA = "Upwell Optics"


def picture(width: int = 480, height: int = 320, mode: str = "RGB") -> Image.Image:
    """Its corners: red, green, blue, white, clockwise from the upper left."""
    image = Image.new("RGB", (width, height), "gray")
    draw = ImageDraw.Draw(image)
    w, h = width // 2, height // 2
    draw.rectangle((0, 0, w, h), "red")
    draw.rectangle((w, 0, width, h), "lime")
    draw.rectangle((w, h, width, height), "blue")
    draw.rectangle((0, h, w, height), "white")
    return image.convert(mode)


def noise(width: int, height: int) -> Image.Image:
    band = Image.effect_noise((width, height), 90)
    return Image.merge("RGB", (band, band.rotate(180), band.transpose(Image.Transpose.ROTATE_180)))


def exif(orientation: int = 1) -> Image.Exif:
    tags = Image.Exif()
    tags[Base.Orientation] = orientation
    tags[Base.Make] = CAMERA
    tags[Base.Model] = "One\x00hidden"
    tags[Base.Software] = "a\x1bb\x07c"
    shot = tags.get_ifd(IFD.Exif)
    shot[Base.DateTimeOriginal] = "2024:05:01 12:30:00"
    shot[Base.OffsetTimeOriginal] = "+02:00"
    shot[Base.ExposureTime] = IFDRational(1, 250)
    shot[Base.FNumber] = IFDRational(28, 10)
    shot[Base.ISOSpeedRatings] = 400
    shot[Base.FocalLength] = 35
    shot[Base.LensModel] = "35mm f/2.8"
    place = tags.get_ifd(IFD.GPSInfo)
    place[GPS.GPSLatitudeRef] = "N"
    place[GPS.GPSLatitude] = (48.0, 51.0, 29.6)
    place[GPS.GPSLongitudeRef] = "W"
    place[GPS.GPSLongitude] = (2.0, 17.0, 40.2)
    place[GPS.GPSAltitudeRef] = b"\x00"
    place[GPS.GPSAltitude] = 35.0
    return tags


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    tags = options.get("exif")
    if form == "HEIF":
        pillow_heif.register_heif_opener()
        if tags:  # then the plugin turns the image by a property of the container, as cameras do
            options["exif"] = tags.tobytes()
    if form == "TIFF" and tags:
        for part in (IFD.Exif, IFD.GPSInfo):
            tags[part] = dict(tags.get_ifd(part))
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def frames(count: int = 4) -> list[Image.Image]:
    return [picture(120, 80).rotate(90 * number) for number in range(count)]


def recording(
    form: str,
    video: str | None = None,
    audio: str | None = None,
    size: tuple[int, int] = (320, 240),
    seconds: float = 2.0,
    black_until: float = 0.0,
    metadata: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        container.metadata.update(metadata or {})
        film: Any = container.add_stream(video, rate=10) if video else None
        sound: Any = container.add_stream(audio, rate=48_000) if audio else None
        if film:
            film.width, film.height, film.pix_fmt = *size, pix_fmt
            film.gop_size = 5
            for number in range(int(seconds * 10)):
                dark = number < black_until * 10
                shown = Image.new("RGB", size) if dark else picture(*size)
                container.mux(film.encode(av.VideoFrame.from_image(shown)))  # type: ignore[no-untyped-call]
            container.mux(film.encode(None))
        if sound:
            _silence(container, sound, seconds)
    return out.getvalue()


def _silence(container: Any, sound: Any, seconds: float) -> None:
    sound.codec_context.open(strict=False)
    length = sound.codec_context.frame_size or 1024
    for number in range(int(seconds * 48_000 / length)):
        frame = av.AudioFrame(sound.format.name, sound.layout.name, length)
        frame.sample_rate, frame.pts = 48_000, number * length
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(sound.encode(frame))
    container.mux(sound.encode(None))


def turned(mp4: bytes) -> bytes:
    """The same film, its track header asking for a quarter turn clockwise."""
    upright = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    quarter = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    track = mp4.index(b"tkhd")
    return mp4[:track] + mp4[track:].replace(upright, quarter, 1)


def with_cover(mp3: bytes, cover: bytes) -> bytes:
    """An ID3v2.3 tag with a title and an attached picture in front."""

    def frame(name: bytes, body: bytes) -> bytes:
        return name + struct.pack(">IH", len(body), 0) + body

    body = frame(b"TIT2", b"\x00A title") + frame(b"APIC", b"\x00image/jpeg\x00\x03\x00" + cover)
    size = bytes(len(body) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return (
        b"ID3\x03\x00\x00" + size + body + mp3[10:]
        if mp3[:3] == b"ID3"
        else (b"ID3\x03\x00\x00" + size + body + mp3)
    )


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width: int, height: int, *, depth: int = 1, rows: bytes | None = None) -> bytes:
    """A PNG of any size; by default all of its rows are there, and blank."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    if rows is None:
        packer = zlib.compressobj(9)
        line = bytes(1 + (width * depth + 7) // 8)
        rows = b"".join(packer.compress(line) for _ in range(height)) + packer.flush()
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def gif_canvas(width: int, height: int) -> bytes:
    """A GIF whose screen is huge and whose one frame is small."""
    small = saved(Image.new("P", (4, 4)), "GIF")
    return small[:6] + struct.pack("<HH", width, height) + small[10:]


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    """One directory of (tag, type, count, value) in front of nothing."""
    body = struct.pack("<H", len(entries))
    for entry in entries:
        body += struct.pack("<HHII", *entry)
    return b"II*\x00" + struct.pack("<I", 8) + body + struct.pack("<I", 8)


def looping_exif() -> bytes:
    """A JPEG whose EXIF directories name themselves as their parts."""
    entries = [(0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8), (0x010F, 2, 0xFFFFFFF, 8)]
    block = b"Exif\x00\x00" + tiff(*entries)
    plain = saved(picture(64, 64), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + plain[2:]


def absurd_atoms() -> bytes:
    """An MP4 of atoms that claim to be far larger than the file, and nested deep."""
    start = struct.pack(">I4s4sI4s", 20, b"ftyp", b"isom", 0, b"mp42")
    nested = b""
    for _ in range(2000):
        nested = struct.pack(">I4s", len(nested) + 8, b"moov") + nested
    table = struct.pack(">I4sII", 24, b"stsz", 0, 1) + struct.pack(">II", 0xFFFFFFFF, 0)
    endless = struct.pack(">I4sQ", 1, b"moov", 2**62)
    return start + nested + table + endless
