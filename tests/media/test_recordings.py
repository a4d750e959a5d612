"""Videos and audio files: what they are, and a picture of them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("av")

import av

from tests.media import samples
from tests.media.test_images import UPRIGHT, corners, facts, seen
from upwell.media import recordings

if TYPE_CHECKING:
    from tests.media.conftest import Examine

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("form", "video", "audio", "mime_type", "codecs"),
    [
        ("mp4", "libx264", "aac", "video/mp4", ("h264", "aac")),
        ("mp4", "mpeg4", None, "video/mp4", ("mpeg4", None)),
        ("mov", "mjpeg", None, "video/quicktime", ("mjpeg", None)),
        ("webm", "libvpx", "libopus", "video/webm", ("vp8", "opus")),
        ("matroska", "libsvtav1", None, "video/x-matroska", ("av1", None)),
        ("avi", "mpeg4", None, "video/x-msvideo", ("mpeg4", None)),
        ("mpegts", "mpeg2video", None, "video/mp2t", ("mpeg2video", None)),
    ],
)
def test_videos(
    examine: Examine,
    form: str,
    video: str,
    audio: str | None,
    mime_type: str,
    codecs: tuple[str, str | None],
) -> None:
    if form == "mov":
        content = samples.recording(form, video, audio, pix_fmt="yuvj420p")
    else:
        content = samples.recording(form, video, audio)
    found = examine(content, mime_type)
    known = facts(found)
    assert known["kind"] == "video"
    assert 1.7 <= known["duration"] <= 2.3
    assert known["video"] == {
        "codec": codecs[0], "width": 320, "height": 240, "rotation": 0, "frame_rate": 10.0,
    }  # fmt: skip
    assert known.get("audio", {}).get("codec") == codecs[1]
    assert len(known["thumbhash"]) > 20
    assert found
    assert found.preview is None
    thumbnail = seen(found.thumbnail)
    assert thumbnail.size == (320, 240)
    assert corners(thumbnail) == UPRIGHT


@pytest.mark.parametrize(
    ("form", "audio", "mime_type", "container"),
    [
        ("mp3", "libmp3lame", "audio/mpeg", "mp3"),
        ("flac", "flac", "audio/flac", "flac"),
        ("wav", "pcm_s16le", "audio/x-wav", "wav"),
        ("ogg", "libopus", "audio/ogg", "ogg"),
        ("mp4", "aac", "audio/mp4", "mp4"),
        ("adts", "aac", "audio/aac", "aac"),
        ("aiff", "pcm_s16be", "audio/aiff", "aiff"),
    ],
)
def test_audio(examine: Examine, form: str, audio: str, mime_type: str, container: str) -> None:
    found = examine(samples.recording(form, None, audio), mime_type)
    known = facts(found)
    assert (known["kind"], known["container"]) == ("audio", container)
    assert 1.7 <= known["duration"] <= 2.3
    assert known["audio"]["sample_rate"] == 48_000
    assert known["audio"]["channels"] == 2
    assert "video" not in known
    assert found
    assert found.thumbnail is None


def test_a_film_comes_upright(examine: Examine) -> None:
    found = examine(samples.turned(samples.recording("mp4", "libx264")), "video/mp4")
    known = facts(found)
    assert known["video"]["rotation"] == 90
    assert (known["video"]["width"], known["video"]["height"]) == (320, 240)
    assert found
    thumbnail = seen(found.thumbnail)
    assert thumbnail.size == (240, 320)
    assert corners(thumbnail) == ["white", "red", "lime", "blue"]


def test_the_poster_shows_something(examine: Examine) -> None:
    found = examine(samples.recording("mp4", "libx264", black_until=1.0, seconds=4), "video/mp4")
    assert found
    assert corners(seen(found.thumbnail)) == UPRIGHT
    found = examine(samples.recording("mp4", "libx264", black_until=4, seconds=4), "video/mp4")
    assert found
    assert max(seen(found.thumbnail).convert("L").tobytes()) < 20


def test_tags_and_cover(examine: Examine) -> None:
    cover = samples.saved(samples.picture(), "JPEG", exif=samples.exif())
    content = samples.with_cover(samples.recording("mp3", None, "libmp3lame"), cover)
    found = examine(content, "audio/mpeg")
    known = facts(found)
    assert known["kind"] == "audio"
    assert known["tags"] == {"title": "A title"}
    assert found
    assert corners(seen(found.thumbnail)) == UPRIGHT


@pytest.mark.parametrize("form", ["ogg", "flac", "matroska"])
def test_tags_of_other_containers(examine: Examine, form: str) -> None:
    codec = "flac" if form == "flac" else "libopus"
    metadata = {"title": "T" * 1000, "artist": "A\nB", "album": "C", "comment": "never shown"}
    found = examine(samples.recording(form, None, codec, metadata=metadata), "audio/ogg")
    assert facts(found)["tags"] == {"title": "T" * 200, "artist": "A B", "album": "C"}


def test_a_film_knows_its_place(examine: Examine) -> None:
    content = samples.recording("mp4", "libx264", metadata={"location": "+48.8582-002.2945/"})
    found = examine(content, "video/mp4")
    assert facts(found)["location"] == {"latitude": 48.8582, "longitude": -2.2945}


def test_references_to_elsewhere_are_not_followed(examine: Examine, tmp_path: Any) -> None:
    film = tmp_path / "film.ts"
    film.write_bytes(samples.recording("mpegts", "mpeg2video"))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{film}\n#EXT-X-ENDLIST\n"
    concat = f"ffconcat version 1.0\nfile {film}\n"
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp2t">'
        f'<Representation id="1" bandwidth="1"><BaseURL>{film}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>"
    )
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    for text in (playlist, concat, dash, sdp):
        for mime_type in ("video/mp4", "audio/mpeg"):
            assert examine(text.encode(), mime_type) is None


def test_only_listed_containers_are_opened(examine: Examine) -> None:
    for form in ("flv", "nut"):
        assert (
            examine(samples.recording(form, "flv1" if form == "flv" else "mpeg4"), "video/x")
            is None
        )


def test_the_demuxers_refuse_what_is_not_listed_by_themselves() -> None:
    """The lists hold without the sandbox around them."""
    flv = samples.recording("flv", "flv1")
    av.open(io.BytesIO(flv), "r").close()
    with pytest.raises(av.error.FFmpegError):
        av.open(io.BytesIO(flv), "r", options=recordings._OPTIONS)
