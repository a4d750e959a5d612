"""What a camera wrote beside the picture: a chosen few of its tags."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from PIL.ExifTags import GPS, IFD, Base

from upwell.media.facts import Facts, clean_number, clean_text, known

if TYPE_CHECKING:
    from collections.abc import Mapping

    from PIL.Image import Exif


def prepare() -> None:
    """Load what is loaded at first use, while files can still be opened."""
    _instant({Base.DateTimeOriginal: "2000:01:01 00:00:00"})


def orientation(exif: Exif) -> int:
    """1 to 8; 1 when there is none, or it makes no sense."""
    with suppress(Exception):
        value = exif.get(Base.Orientation)
        if isinstance(value, int) and 1 <= value <= 8:
            return value
    return 1


def describe(exif: Exif) -> Facts:
    """``exif`` and ``location``, as far as they can be read. Never raises."""
    return known(exif=_camera(exif), location=_location(exif))


def _camera(exif: Exif) -> Facts:
    shot = _directory(exif, IFD.Exif)
    with suppress(Exception):
        return known(
            make=_text(exif.get(Base.Make)),
            model=_text(exif.get(Base.Model)),
            software=_text(exif.get(Base.Software)),
            lens=_text(shot.get(Base.LensModel)),
            taken_at=_instant(shot),
            exposure=_positive(shot.get(Base.ExposureTime)),
            f_number=_positive(shot.get(Base.FNumber)),
            iso=_positive(_first(shot.get(Base.ISOSpeedRatings))),
            focal_length=_positive(shot.get(Base.FocalLength)),
        )
    return {}


def _location(exif: Exif) -> Facts:
    place = _directory(exif, IFD.GPSInfo)
    with suppress(Exception):
        latitude = _angle(place.get(GPS.GPSLatitude), place.get(GPS.GPSLatitudeRef), "S", 90)
        longitude = _angle(place.get(GPS.GPSLongitude), place.get(GPS.GPSLongitudeRef), "W", 180)
        if latitude is not None and longitude is not None:
            return known(latitude=latitude, longitude=longitude, altitude=_altitude(place))
    return {}


def _directory(exif: Exif, which: IFD) -> Mapping[int, Any]:
    with suppress(Exception):
        return exif.get_ifd(which)
    return {}


def _angle(parts: object, reference: object, negative: str, largest: int) -> float | None:
    """Degrees, minutes and seconds as degrees, six places: a tenth of a metre."""
    if not isinstance(parts, tuple) or not 1 <= len(parts) <= 3:
        return None
    numbers = [clean_number(part) for part in parts]
    degrees = sum(
        float("nan") if number is None else number / 60**power
        for power, number in enumerate(numbers)
    )
    if not 0 <= degrees <= largest:
        return None
    return round(-degrees if _text(reference) == negative else degrees, 6)


def _altitude(place: Mapping[int, Any]) -> float | None:
    metres = clean_number(place.get(GPS.GPSAltitude))
    if metres is None or abs(metres) > 100_000:
        return None
    below = place.get(GPS.GPSAltitudeRef) in {1, b"\x01"}
    return round(-metres if below else metres, 1)


def _instant(shot: Mapping[int, Any]) -> str | None:
    """ISO 8601; with an offset where the camera knew one."""
    text = _text(shot.get(Base.DateTimeOriginal)) or _text(shot.get(Base.DateTimeDigitized))
    if text is None:
        return None
    offset = _text(shot.get(Base.OffsetTimeOriginal)) or ""
    for form, written in (("%Y:%m:%d %H:%M:%S%z", text + offset), ("%Y:%m:%d %H:%M:%S", text)):
        with suppress(ValueError):
            return datetime.strptime(written, form).isoformat()  # noqa: DTZ007 none is known
    return None


def _positive(value: object) -> int | float | None:
    number = clean_number(value)
    return number if number is not None and number > 0 else None


def _first(value: object) -> object:
    return value[0] if isinstance(value, tuple) and value else value


def _text(value: object) -> str | None:
    """Text ends at the first NUL. Pillow reads it as Latin-1, though many cameras write UTF-8."""
    if isinstance(value, str):
        with suppress(UnicodeError):
            value = value.encode("latin-1").decode("utf-8")
    if isinstance(value, bytes):
        return clean_text(value.partition(b"\0")[0])
    return clean_text(value.partition("\0")[0]) if isinstance(value, str) else None
