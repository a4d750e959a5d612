"""What is known about a file: values that are safe to store and to show."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, Union

if TYPE_CHECKING:
    from collections.abc import Mapping

Json: TypeAlias = Union[str, int, float, bool, dict[str, "Json"]]  # noqa: UP007 it names itself
Facts: TypeAlias = dict[str, Json]

LONGEST_TEXT = 200  # characters
LARGEST_FACTS = 16 * 1024  # bytes of JSON, every character beyond ASCII escaped
_LARGEST_NUMBER = 2**53 - 1  # beyond it JSON's readers disagree
_MOST_KEYS = 32
_DEEPEST = 3
_KEY = re.compile(r"[a-z][a-z0-9_]{0,39}")
_UNSAFE = {"Cc", "Cs", "Co", "Cn", "Zl", "Zp"}
# These reorder the text around them: a title could disguise what stands beside it.
_REORDERING = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Examined:
    """The facts of a file, and its pictures as WebP where there are any.

    ``thumbnail`` fits 320 x 320. ``preview`` fits 2048 x 2048 and stands in for an original
    that is larger than that, no browser's format, or much heavier. Neither holds metadata.

    Facts of an image: ``kind`` "image", ``format``, ``width``, ``height`` (as seen, the
    orientation applied), ``orientation`` (1 to 8, as stored), ``animated``, ``frames``,
    ``thumbhash`` (base64), ``exif`` {make, model, lens, software, taken_at (ISO 8601; without
    an offset where the camera knew none), exposure (seconds), f_number, iso, focal_length
    (mm)}, ``location`` {latitude, longitude, altitude (m)}.

    Facts of a recording: ``kind`` "video" or "audio", ``container``, ``duration`` (seconds),
    ``bit_rate``, ``video`` {codec, width, height (as stored), rotation (degrees clockwise),
    frame_rate}, ``audio`` {codec, sample_rate, channels}, ``tags`` {title, artist, album},
    ``thumbhash``, ``location``.

    Every key but ``kind`` may be absent.
    """

    facts: Facts
    thumbnail: bytes | None = None
    preview: bytes | None = None


def without_location(facts: Mapping[str, Json]) -> Facts:
    """The facts that strangers may see."""
    return {key: value for key, value in facts.items() if key != "location"}


def clean_text(value: object) -> str | None:
    """A text out of a file as one line of at most 200 characters; None when nothing is left."""
    if isinstance(value, bytes):
        value = value[: 8 * LONGEST_TEXT].decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    kept = (
        " " if _breaks(char) else char
        for char in value[: 8 * LONGEST_TEXT]
        if _breaks(char) or not (unicodedata.category(char) in _UNSAFE or char in _REORDERING)
    )
    return " ".join("".join(kept).split())[:LONGEST_TEXT].rstrip() or None


def clean_number(value: object) -> int | float | None:
    """A number out of a file; None when it is not finite or beyond what JSON can say."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if abs(value) <= _LARGEST_NUMBER else None
    try:
        number = float(value)  # type: ignore[arg-type] # fractions of every library come here
    except (TypeError, ValueError, ArithmeticError):
        return None
    if not math.isfinite(number) or abs(number) > _LARGEST_NUMBER:
        return None
    return round(number, 6)


def known(**values: object) -> Facts:
    """The clean ones among these."""
    return _clean_mapping(values, 0)


def clean(facts: Mapping[str, object]) -> Facts:
    """Facts of any origin, made fit to store: what is not of the right form is left out."""
    kept = _clean_mapping(facts, 0)
    for heavy in ("tags", "exif"):
        if len(json.dumps(kept)) > LARGEST_FACTS:
            kept.pop(heavy, None)
    return kept if len(json.dumps(kept)) <= LARGEST_FACTS else {}


def _breaks(char: str) -> bool:
    return char in "\t\n\r"


def _clean_mapping(values: Mapping[str, object], depth: int) -> Facts:
    kept: Facts = {}
    for key, value in list(values.items())[:_MOST_KEYS]:
        found = _clean(value, depth)
        if found is not None and isinstance(key, str) and _KEY.fullmatch(key):
            kept[key] = found
    return kept


def _clean(value: object, depth: int) -> Json | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str | bytes):
        return clean_text(value)
    if isinstance(value, dict):
        return (_clean_mapping(value, depth + 1) or None) if depth < _DEEPEST else None
    return clean_number(value)
