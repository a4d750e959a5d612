"""Images: what they are, and what they look like."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("PIL")

from PIL import Image, ImageCms

from tests.media import samples

if TYPE_CHECKING:
    from tests.media.conftest import Examine
    from upwell.media.facts import Examined

pytestmark = pytest.mark.slow

CORNERS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255,) * 3}
UPRIGHT = ["red", "lime", "blue", "white"]  # clockwise from the upper left


def seen(data: bytes | None) -> Image.Image:
    assert data
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP"
    image.load()
    assert not set(image.info) & {"exif", "xmp", "icc_profile"}
    return image


def corners(image: Image.Image) -> list[str]:
    w, h = image.size
    places = [
        (w // 8, h // 8),
        (w * 7 // 8, h // 8),
        (w * 7 // 8, h * 7 // 8),
        (w // 8, h * 7 // 8),
    ]
    return [_nearest(image.convert("RGB").getpixel(place)) for place in places]


def _nearest(pixel: Any) -> str:
    def distance(name: str) -> int:
        return sum(abs(a - b) for a, b in zip(pixel, CORNERS[name], strict=True))

    return min(CORNERS, key=distance)


def facts(found: Examined | None) -> dict[str, Any]:
    assert found
    return found.facts


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_upright_whatever_its_orientation(examine: Examine, orientation: int) -> None:
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # of Pillow's transpositions
    stored = samples.picture()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(back[orientation]))
    data = samples.saved(stored, "JPEG", exif=samples.exif(orientation), quality=95)
    found = examine(data, "image/jpeg")
    known = facts(found)
    assert (known["width"], known["height"]) == (480, 320)
    assert known["orientation"] == orientation
    assert found
    thumbnail = seen(found.thumbnail)
    assert thumbnail.size == (320, 213)
    assert corners(thumbnail) == UPRIGHT


def test_what_the_camera_wrote(examine: Examine) -> None:
    data = samples.saved(
        samples.noise(2400, 1600), "JPEG", exif=samples.exif(), xmp=b"<x>48.858222</x>"
    )
    found = examine(data, "image/jpeg")
    known = facts(found)
    assert known["exif"] == {
        "make": samples.CAMERA,
        "model": "One",
        "software": "abc",
        "lens": "35mm f/2.8",
        "taken_at": "2024-05-01T12:30:00+02:00",
        "exposure": 0.004,
        "f_number": 2.8,
        "iso": 400,
        "focal_length": 35,
    }
    assert known["location"] == samples.PLACE
    assert known["format"] == "jpeg"
    assert len(known["thumbhash"]) > 20
    assert found
    assert seen(found.preview).size == (2048, 1365)
    for made in (found.thumbnail, found.preview):
        assert made
        assert b"EXIF" not in made
        assert b"XMP " not in made
        assert samples.CAMERA.encode() not in made
    json.dumps(known)


@pytest.mark.parametrize(
    ("form", "mime_type", "options"),
    [
        ("PNG", "image/png", {}),
        ("WEBP", "image/webp", {}),
        ("HEIF", "image/heic", {}),
        ("AVIF", "image/avif", {}),
        ("TIFF", "image/tiff", {"compression": "tiff_lzw"}),
        ("TIFF", "image/tiff", {}),
        ("BMP", "image/bmp", {}),
        ("MPO", "image/jpeg", {"save_all": True, "append_images": [samples.picture()]}),
        ("JPEG", "image/unknown", {"progressive": True}),
    ],
)
def test_formats(examine: Examine, form: str, mime_type: str, options: dict[str, Any]) -> None:
    tagged = form != "BMP" and "compression" not in options  # else Pillow cannot write them
    if tagged:
        options = options | {"exif": samples.exif()}
    data = samples.saved(samples.picture(), form, **options)
    found = examine(data, mime_type)
    known = facts(found)
    assert known["format"] == {"MPO": "jpeg"}.get(form, form.lower())
    assert (known["width"], known["height"]) == (480, 320)
    assert not known["animated"]
    if tagged:
        assert known["exif"]["make"] == samples.CAMERA
        assert known["location"] == samples.PLACE
    assert found
    assert corners(seen(found.thumbnail)) == UPRIGHT
    assert (found.preview is not None) == (form in {"HEIF", "AVIF", "TIFF", "BMP"})


@pytest.mark.parametrize("form", ["HEIF", "AVIF", "TIFF"])
def test_other_formats_come_upright_too(examine: Examine, form: str) -> None:
    stored = samples.picture().transpose(Image.Transpose.ROTATE_90)
    found = examine(samples.saved(stored, form, exif=samples.exif(6)), f"image/{form.lower()}")
    known = facts(found)
    assert (known["width"], known["height"], known["orientation"]) == (480, 320, 6)
    assert found
    assert corners(seen(found.thumbnail)) == UPRIGHT
    assert corners(seen(found.preview)) == UPRIGHT


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_what_moves_the_first_frame_is_shown(examine: Examine, form: str) -> None:
    first, *others = samples.frames()
    data = samples.saved(first, form, save_all=True, append_images=others, duration=100)
    found = examine(data, f"image/{form.lower()}")
    known = facts(found)
    assert known["animated"] is True
    assert known["frames"] == 4
    assert found
    assert corners(seen(found.thumbnail)) == UPRIGHT
    assert found.preview is None


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "I;16", "I", "F", "CMYK", "RGBA"])
def test_modes(examine: Examine, mode: str) -> None:
    if mode == "I;16":
        image = samples.picture(mode="I").point(lambda value: value * 256).convert("I;16")
    else:
        image = samples.picture(mode="RGB").convert(mode)
    form = "TIFF" if mode in {"CMYK", "F", "I"} else "PNG"
    found = examine(samples.saved(image, form))
    assert facts(found)["thumbhash"]
    assert found
    grey = seen(found.thumbnail).convert("L")
    w, h = grey.size
    assert _at(grey, w // 4, h * 3 // 4) > 240  # white
    assert _at(grey, w * 3 // 4, h * 3 // 4) < 60  # blue


def _at(image: Image.Image, x: int, y: int) -> int:
    value = image.getpixel((x, y))
    return value if isinstance(value, int) else -1


def test_a_cmyk_photo_shows_its_colours(examine: Examine) -> None:
    found = examine(samples.saved(samples.picture(mode="CMYK"), "JPEG"), "image/jpeg")
    assert found
    assert corners(seen(found.thumbnail)) == UPRIGHT


def test_what_is_transparent_stays_so(examine: Examine) -> None:
    image = samples.picture(mode="RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    palette = image.convert("RGB").quantize(8)
    data = samples.saved(palette, "PNG", transparency=palette.getpixel((1, 1)))
    for each in (samples.saved(image, "PNG"), data):
        found = examine(each)
        assert facts(found)["thumbhash"]
        assert found
        assert min(seen(found.thumbnail).convert("RGBA").getchannel("A").tobytes()) < 10


def test_colours_of_another_space_are_brought_to_srgb(examine: Examine) -> None:
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = plain.replace(b"rXYZ", b"tmp!", 1).replace(b"gXYZ", b"rXYZ", 1)
    swapped = swapped.replace(b"tmp!", b"gXYZ", 1)  # whose red is what sRGB calls green
    for image in (samples.picture(), samples.picture(mode="RGBA")):
        found = examine(samples.saved(image, "PNG", icc_profile=swapped))
        assert found
        assert corners(seen(found.thumbnail)) == ["lime", "red", "blue", "white"]


def test_a_profile_that_is_none_is_ignored(examine: Examine) -> None:
    other = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    for profile in (other, b"not a profile", b""):
        found = examine(samples.saved(samples.picture(), "PNG", icc_profile=profile))
        assert found
        assert corners(seen(found.thumbnail)) == UPRIGHT


def test_a_preview_must_be_worth_it(examine: Examine) -> None:
    light = samples.saved(samples.picture(), "JPEG", quality=30)
    heavy = samples.saved(samples.noise(800, 600), "PNG")
    found = examine(light)
    assert found
    assert found.preview is None
    found = examine(heavy)
    assert found
    assert found.preview
    assert len(found.preview) < 0.7 * len(heavy)


def test_a_strip_has_facts_and_no_picture(examine: Examine) -> None:
    for size in ((1, 60_000), (60_000, 1)):
        found = examine(samples.saved(Image.new("L", size), "PNG"))
        known = facts(found)
        assert (known["width"], known["height"]) == size
        assert found
        assert found.thumbnail is None
