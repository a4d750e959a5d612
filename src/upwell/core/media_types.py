"""Tells the true type of a file from its declared type, its name and its first bytes.

A file keeps the type that was declared for it. Pools, downloads and players go by the true type,
because clients declare odd names (``audio/x-wav``) and types of something else: most declare
``notes.txt.gz`` as text, because it is text after unpacking.
"""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

from upwell.model import GENERIC_TYPE

if TYPE_CHECKING:
    from upwell.core.ports import BlobReader

HEAD = 64 << 10  # bytes of a text that decide its charset

# IANA's name, or the one that browsers know, of types that go by several.
_USUAL = {
    alias: usual
    for usual, aliases in {
        "application/gzip": "application/x-gzip application/gzip-compressed application/x-gunzip",
        "application/pdf": "application/x-pdf application/acrobat text/pdf",
        "application/zip": "application/x-zip application/x-zip-compressed",
        "audio/aac": "audio/x-aac audio/aacp audio/x-hx-aac-adts",
        "audio/flac": "audio/x-flac",
        "audio/mp4": "audio/x-m4a audio/m4a audio/x-mp4 audio/mp4a-latm",
        "audio/mpeg": "audio/mp3 audio/x-mp3 audio/x-mpeg audio/mpeg3 audio/x-mpeg-3",
        "audio/ogg": "audio/x-ogg audio/opus audio/vorbis",
        "audio/wav": "audio/x-wav audio/wave audio/x-pn-wav audio/vnd.wave",
        "image/jpeg": "image/jpg image/pjpeg image/x-jpeg image/x-jpg",
        "image/png": "image/x-png",
        "image/webp": "image/x-webp",
        "text/plain": "text/txt text/x-log",
        "video/mp4": "video/x-m4v video/x-mp4 application/mp4",
        "video/ogg": "video/x-ogg",
        "video/webm": "video/x-webm",
    }.items()
    for alias in aliases.split()
}
_PACKED = {
    ".gz": "application/gzip",
    ".tgz": "application/gzip",
    ".svgz": "application/gzip",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".z": "application/x-compress",
}
_SUFFIX = re.compile(r"\.\w+\Z", re.ASCII)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
# No text has any of these bytes (https://mimesniff.spec.whatwg.org/#binary-data-byte).
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")


def usual(declared: str) -> str:
    """Return a media type under its usual name: lower case, without parameters. An empty one
    becomes ``application/octet-stream``."""
    plain = declared.split(";", maxsplit=1)[0].strip().lower() or GENERIC_TYPE
    return _USUAL.get(plain, plain)


def true_type(declared: str, name: str) -> str:
    """Return a file's type as its declared type and its name tell it. The suffix of a compression
    counts more than what was declared."""
    suffix = _SUFFIX.search(name)
    return (suffix and _PACKED.get(suffix[0].lower())) or usual(declared)


def served_type(declared: str, name: str, content: BlobReader) -> str:
    """Return the type to serve a file under, for a text with its charset.

    The charset is the declared one, otherwise the one that the first bytes show, otherwise none:
    then the browser guesses. Content that is declared as text but holds bytes that no text has is
    served as ``application/octet-stream``.
    """
    kind = true_type(declared, name)
    if not kind.startswith("text/"):
        return kind
    head = content.read_at(0, HEAD)
    mark = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if mark is None and _BINARY.search(head):
        return GENERIC_TYPE
    charset = declared_charset(declared) or mark or _utf8(head, whole=len(head) >= content.size)
    return f"{kind}; charset={charset}" if charset else kind


_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([\w.:+-]+)", re.ASCII | re.IGNORECASE)


def declared_charset(declared: str) -> str | None:
    """Return the charset parameter of a media type, if it has one."""
    found = _CHARSET.search(declared)
    return found[1] if found else None


def _utf8(head: bytes, *, whole: bool) -> str | None:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
    except UnicodeDecodeError:
        return None
    return "utf-8"
