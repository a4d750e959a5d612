"""Facts and a picture of a video or an audio file. Runs in the worker only."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import av
import av.audio.codeccontext
import av.audio.stream
import av.error
import av.subtitles.codeccontext
import av.subtitles.stream
import av.video.codeccontext
import av.video.stream
from av.stream import AttachmentStream, Disposition

from upwell.media import images
from upwell.media.facts import Facts, clean_text, known

if TYPE_CHECKING:
    from fractions import Fraction

    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from PIL import Image

    from upwell.media.answer import Answer
    from upwell.media.source import Source

# Containers that hold their streams themselves: a playlist is not among them.
_DEMUXERS = "mov,matroska,ogg,mp3,flac,wav,aac,avi,mpegts,mpeg,aiff"
_DECODERS = (
    "h264,hevc,vp8,vp9,libdav1d,av1,mpeg4,mpeg2video,mpeg1video,h263,theora,mjpeg,prores,dvvideo,"
    "ffv1,aac,mp3,mp3float,mp2,mp2float,opus,vorbis,flac,alac,ac3,eac3,"
    "pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,"
    "pcm_f32be,pcm_f64le,pcm_f64be,pcm_alaw,pcm_mulaw"
)
_OPTIONS = {
    "format_whitelist": _DEMUXERS,
    "codec_whitelist": _DECODERS,
    "protocol_whitelist": "none",  # a reference to elsewhere leads nowhere
    "enable_drefs": "0",
    "max_streams": "64",
    "max_pixels": str(images.MOST_PIXELS),
    "threads": "1",
}
_CONTAINERS = {
    "mov,mp4,m4a,3gp,3g2,mj2": "mp4",
    "matroska,webm": "matroska",
}
_POSITIONS = (0.1, 0.3, 0.6)  # of the duration, where to look for a poster
_MOST_PACKETS = 400  # in search of one frame
_FLAT = 16  # a frame whose greys differ by less shows nothing
_PLACE = re.compile(r"([+-]\d{1,2}(?:\.\d+)?)([+-]\d{1,3}(?:\.\d+)?)([+-]\d+(?:\.\d+)?)?")


def examine(source: Source, answer: Answer) -> None:
    """Say what the recording is, and show a frame or its cover. Raises what PyAV raises."""
    with av.open(
        source, "r", options=_OPTIONS, metadata_errors="replace", buffer_size=64 * 1024
    ) as container:
        film = _film(container)
        facts = _describe(container, film)
        if "video" not in facts and "audio" not in facts:
            return
        answer.facts(facts)
        frame = _poster(container, film) if film else None
        if film and frame:
            rotation = _rotation(frame)
            facts |= known(video=_video(film) | {"rotation": rotation})
            picture = _picture(frame, film.sample_aspect_ratio, rotation)
        else:
            cover = _cover(container)
            if cover is None:
                return
            picture = cover
        answer.thumbnail(images.webp(picture, 75))
        answer.facts(facts | known(thumbhash=images.placeholder(picture)))


def _film(container: InputContainer) -> av.video.stream.VideoStream | None:
    """The video stream that is no cover picture."""
    for stream in container.streams.video:
        if not _is_cover(stream):
            return stream
    return None


def _is_cover(stream: av.video.stream.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _describe(container: InputContainer, film: av.video.stream.VideoStream | None) -> Facts:
    sound = next(iter(container.streams.audio), None)
    name = container.format.name
    metadata = _metadata(container, sound)
    return known(
        kind="video" if film else "audio",
        container=_CONTAINERS.get(name, name),
        duration=_positive(container.duration, 1_000_000),
        bit_rate=_positive(container.bit_rate),
        video=_video(film) if film else None,
        audio=_audio(sound) if sound else None,
        tags=known(**{tag: metadata.get(tag) for tag in ("title", "artist", "album")}),
        location=_location(metadata),
    )


def _video(stream: av.video.stream.VideoStream) -> Facts:
    context = _context(stream)
    return known(
        codec=_codec(stream),
        width=_positive(getattr(context, "width", None)),
        height=_positive(getattr(context, "height", None)),
        frame_rate=_positive(stream.average_rate),
    )


def _audio(stream: av.audio.stream.AudioStream) -> Facts:
    context = _context(stream)
    return known(
        codec=_codec(stream),
        sample_rate=_positive(getattr(context, "sample_rate", None)),
        channels=_positive(getattr(context, "channels", None)),
    )


def _context(stream: av.video.stream.VideoStream | av.audio.stream.AudioStream) -> Any:
    """None where FFmpeg knows no decoder."""
    return stream.codec_context


def _codec(stream: av.video.stream.VideoStream | av.audio.stream.AudioStream) -> str:
    context = _context(stream)
    return str(context.codec.canonical_name) if context else "unknown"


def _metadata(
    container: InputContainer, sound: av.audio.stream.AudioStream | None
) -> dict[str, str]:
    """Ogg keeps the tags with its stream, the others with the container."""
    found = {**(sound.metadata if sound else {}), **container.metadata}
    return {key.lower(): value for key, value in islice(found.items(), 500)}


def _location(metadata: dict[str, str]) -> Facts | None:
    for key in ("location", "location-eng", "com.apple.quicktime.location.iso6709"):
        found = _PLACE.match(clean_text(metadata.get(key)) or "")
        if found:
            latitude, longitude, altitude = (float(each or "nan") for each in found.groups())
            if abs(latitude) <= 90 and abs(longitude) <= 180:
                return known(latitude=latitude, longitude=longitude, altitude=altitude)
    return None


def _positive(value: Any, divisor: int = 1) -> float | int | None:
    if value is None or value <= 0:
        return None
    return value if divisor == 1 else value / divisor  # type: ignore[no-any-return] # numbers


def _poster(container: InputContainer, film: av.video.stream.VideoStream) -> VideoFrame | None:
    """The first frame in sight that shows something, else the first in sight."""
    context = _context(film)
    if context is None or context.name not in _DECODERS.split(","):
        return None
    if not images.drawable((context.width, context.height)):
        return None
    context.options = {"max_pixels": str(images.MOST_PIXELS)}
    context.thread_count = 1
    context.skip_frame = "NONKEY"
    first = None
    for position in _POSITIONS if container.duration else (0.0,):
        frame = _frame_at(container, film, position)
        if frame and _shows_something(frame):
            return frame
        first = first or frame
    return first


def _frame_at(
    container: InputContainer, film: av.video.stream.VideoStream, position: float
) -> VideoFrame | None:
    with suppress(Exception):
        if container.duration:
            start = container.start_time or 0
            container.seek(start + int(container.duration * position))
    with suppress(Exception):
        for packet in islice(container.demux(film), _MOST_PACKETS):
            with suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    return frame if images.drawable((frame.width, frame.height)) else None
    return None


def _shows_something(frame: VideoFrame) -> bool:
    greys = _still(frame, (32, 32)).convert("L").tobytes()
    return max(greys) - min(greys) >= _FLAT


def _rotation(frame: VideoFrame) -> int:
    """Degrees clockwise, a multiple of 90."""
    return round(-frame.rotation / 90) * 90 % 360


def _picture(frame: VideoFrame, shape: Fraction | None, rotation: int) -> Image.Image:
    """The frame upright and small, its pixels made square."""
    stretch = float(shape) if shape and 0.2 < shape < 5 else 1.0
    size = images.fitted((frame.width * stretch, frame.height), images.THUMBNAIL)
    picture = _still(frame, size)
    return picture.rotate(-rotation, expand=True) if rotation else picture


def _still(frame: VideoFrame, size: tuple[int, int]) -> Image.Image:
    small = frame.reformat(*size, "rgb24", threads=1)
    return small.to_image(threads=1)  # type: ignore[no-any-return, no-untyped-call]


def _cover(container: InputContainer) -> Image.Image | None:
    with suppress(Exception):
        data = _cover_bytes(container)
        return images.thumbnail_of(io.BytesIO(data)) if data else None
    return None


def _cover_bytes(container: InputContainer) -> bytes | None:
    for stream in container.streams.video:
        if _is_cover(stream):
            return next((bytes(packet) for packet in container.demux(stream)), None)
    for other in container.streams:
        if isinstance(other, AttachmentStream) and (other.mimetype or "").startswith("image/"):
            return other.data
    return None
