"""Facts and pictures of an image. Runs in the worker only."""

from __future__ import annotations

import base64
import io
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import pillow_heif
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
from thumbhash import rgba_to_thumb_hash  # type: ignore[import-untyped] # ships no types

from upwell.media import exif
from upwell.media.facts import Facts, known

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

    from upwell.media.answer import Answer

MOST_PIXELS = 100_000_000
LARGEST_FILE = 256 * 1024 * 1024  # bytes; some formats are read whole
THUMBNAIL, PREVIEW = 320, 2048  # the longer edge
_MOST_ONE_SIDED = 100  # a strip longer than so many widths has no useful picture
_LIGHT = 128 * 1024  # bytes; what a browser shows itself needs no preview below
_LARGEST_PROFILE = 1024 * 1024

# Pillow looks for plugins when it needs one; the worker cannot open files by then.
_PLUGINS = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIF", "TIFF", "BMP")
_FORMAT_NAMES = {"MPO": "jpeg"}  # a JPEG with more pictures behind the first
_OF_THE_WEB = {"jpeg", "png", "gif", "webp"}
_MOVING = {"png", "gif", "webp", "avif"}  # in the others further frames are pages, or a burst

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def prepare() -> None:
    """Load all that a picture may need, while files can still be opened."""
    exif.prepare()
    Image.preinit()
    for plugin in _PLUGINS:
        assert plugin  # noqa: S101 they are imported for their effect
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.register_heif_opener(
        thumbnails=False, depth_images=False, aux_images=False, decode_threads=1
    )
    webp(Image.new("RGB", (1, 1)), 75)


def examine(file: IO[bytes], size: int, answer: Answer) -> None:
    """Say what the image in ``file`` is, and what it looks like. Raises what Pillow raises."""
    if size > LARGEST_FILE:
        return
    image = _open(file)
    tags = _exif(image)
    turned = exif.orientation(tags)
    facts = _header(image, turned) | exif.describe(tags)
    answer.facts(facts)
    original = image.size
    if not drawable(image.size):
        return
    picture = _draw(image, turned, PREVIEW)
    thumbnail = picture.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    answer.thumbnail(webp(thumbnail, 75))
    facts |= known(thumbhash=placeholder(thumbnail))
    answer.facts(facts)
    shrunk = max(original) > PREVIEW
    if _wants_preview(facts, size, shrunk=shrunk):
        preview = webp(picture, 80)
        if _serves_better(preview, facts, size, shrunk=shrunk):
            answer.preview(preview)
    # The last, because for some formats counting means reading through the file.
    answer.facts(facts | known(frames=getattr(image, "n_frames", 1)))


def thumbnail_of(file: IO[bytes]) -> Image.Image:
    """A small upright picture of the image in ``file``. Raises what Pillow raises."""
    image = _open(file)
    if not drawable(image.size):
        raise ValueError("not drawable")
    return _draw(image, exif.orientation(_exif(image)), THUMBNAIL)


def fitted(size: tuple[float, float], edge: int) -> tuple[int, int]:
    """A size of the same form, at least one pixel each way, in a square of that edge."""
    scale = min(1.0, edge / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def webp(picture: Image.Image, quality: int) -> bytes:
    """WebP of the pixels alone: no metadata comes along."""
    picture.info.clear()
    out = io.BytesIO()
    picture.save(out, "WEBP", quality=quality, method=4)
    return out.getvalue()


def placeholder(picture: Image.Image) -> str:
    """The ThumbHash of a picture, in base64.

    On white where it is transparent: the library fails on alpha.
    """
    small = picture.copy()
    small.thumbnail((32, 32))
    flat = Image.new("RGBA", small.size, "white")
    flat.alpha_composite(small.convert("RGBA"))
    code = bytes(rgba_to_thumb_hash(flat.width, flat.height, flat.tobytes()))
    return base64.b64encode(code).decode("ascii")


def _open(file: IO[bytes]) -> ImageFile:
    """Only its header is read. Later, pixels beyond the limit are refused."""
    Image.MAX_IMAGE_PIXELS = None  # the size of a giant is a fact too
    try:
        return Image.open(file, formats=_FORMATS)
    finally:
        Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns from here, refuses at twice


def _exif(image: ImageFile) -> Image.Exif:
    # Without this tag in its header Pillow would decode a PNG whole to look behind it.
    if image.format == "PNG" and "exif" not in image.info:
        return Image.Exif()
    with suppress(Exception):
        return image.getexif()
    return Image.Exif()


def _header(image: ImageFile, turned: int) -> Facts:
    form = _format(image)
    width, height = image.size
    if turned > 4 and image.format != "TIFF":  # Pillow turns these itself
        width, height = height, width
    before = image.info.get("original_orientation")  # HEIF comes upright
    return known(
        kind="image",
        format=form,
        width=width,
        height=height,
        orientation=before if before in _UPRIGHT else turned,
        animated=form in _MOVING and _moves(image),
    )


def _moves(image: ImageFile) -> bool:
    with suppress(Exception):
        return bool(getattr(image, "is_animated", False))
    return False


def _format(image: ImageFile) -> str:
    name = image.format or "unknown"
    return _FORMAT_NAMES.get(name, name.lower())


def drawable(size: tuple[int, int]) -> bool:
    """Whether so many pixels are worth a picture, and safe to have in memory."""
    width, height = size
    if min(size) < 1 or width * height > MOST_PIXELS:
        return False
    return max(size) <= _MOST_ONE_SIDED * min(size)


def _draw(image: ImageFile, turned: int, edge: int) -> Image.Image:
    """The image upright, in sRGB, as RGB or RGBA, fitted into a square; the first frame."""
    image.draft(None, fitted(image.size, edge))  # a large JPEG comes smaller out of its decoder
    image.load()
    profile = image.info.get("icc_profile")
    if image.format == "TIFF":
        turned = 1
    picture = _scalable(image)
    # Small first: turning and colours then cost a fraction of the time and the memory.
    picture.thumbnail((edge, edge), Image.Resampling.BICUBIC, reducing_gap=2.0)
    picture = _coloured(picture, profile)
    # Either way no longer tied to the file, as what Pillow opened is.
    return picture.transpose(_UPRIGHT[turned]) if turned in _UPRIGHT else picture.copy()


def _scalable(image: Image.Image) -> Image.Image:
    """In a mode whose pixels can be averaged."""
    mode = image.mode
    if mode in {"P", "PA"}:
        clear = mode == "PA" or "transparency" in image.info
        return image.convert("RGBA" if clear else "RGB")
    if mode in {"RGB", "L", "RGBA"} and "transparency" in image.info:
        return image.convert("RGBA")
    if mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L")
    if mode in {"I", "F"}:
        return _stretched(image)
    return image.convert("L") if mode == "1" else image


def _stretched(image: Image.Image) -> Image.Image:
    """Numbers of no known range as greys: the least black, the greatest white."""
    low, high = (float(each) for each in image.getextrema())  # type: ignore[arg-type] # one band
    scale = 255 / (high - low) if high > low else 0.0
    return image.convert("F").point(lambda value: value * scale - low * scale).convert("L")


def _coloured(picture: Image.Image, profile: object) -> Image.Image:
    """In sRGB. A profile that cannot be applied is as none."""
    target = "RGBA" if picture.mode in {"RGBA", "LA", "RGBa", "La"} else "RGB"
    if isinstance(profile, bytes) and len(profile) <= _LARGEST_PROFILE:
        with suppress(Exception):
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            wanted = ImageCms.createProfile("sRGB")
            changed = ImageCms.profileToProfile(picture, own, wanted, outputMode=target)
            if changed is not None:
                return changed
    return picture if picture.mode == target else picture.convert(target)


def _wants_preview(facts: Facts, size: int, *, shrunk: bool) -> bool:
    # A still would hide that the original moves.
    if facts.get("animated"):
        return False
    return shrunk or facts.get("format") not in _OF_THE_WEB or size > _LIGHT


def _serves_better(preview: bytes, facts: Facts, size: int, *, shrunk: bool) -> bool:
    """Than the original of ``size`` bytes, in a browser."""
    if facts.get("format") not in _OF_THE_WEB:
        return True
    return len(preview) < (size if shrunk else 0.7 * size)
