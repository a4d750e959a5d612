"""Reads the head of a form's part: its field, and the name and type of its file.

RFC 7578, and what clients send beyond it: ``filename*`` (RFC 8187; .NET, urllib3 before 2.0) and
encoded words in place of a name (RFC 2047; .NET, mail libraries).
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from multipart import parse_content_disposition

if TYPE_CHECKING:
    from multipart import MultipartSegment

# Encodings of text that clients name. Others that Python knows (punycode, unicode_escape) are slow,
# or no charsets.
_CHARSETS = re.compile(
    r"utf-8|us-ascii|iso-8859-\d{1,2}|windows-125\d|koi8-[ru]|big5|gb2312|gbk|gb18030"
    r"|shift_jis|euc-jp|iso-2022-jp|euc-kr",
    re.IGNORECASE,
)
_WORD = r"=\?[^?\s]+\?[bBqQ]\?[^?\s]*\?="
_WORDS = re.compile(rf"\s*{_WORD}(\s+{_WORD})*\s*\Z")
# The parameter itself, and quoted strings, which may hold what looks like it.
_EXTENDED = re.compile(r'"(?:\\.|[^\\"])*"|;\s*filename\*\s*=\s*"?([^\s";]+)', re.IGNORECASE)
_TYPE = re.compile(r"[\x20-\x7e]{1,255}\Z")
_PLAIN = frozenset({"7bit", "8bit", "binary"})


@dataclass(frozen=True, slots=True)
class Disposition:
    """A part's Content-Disposition, decoded: ``kind`` is lower case; the others are None where
    they are absent, or where the file's name is empty."""

    kind: str
    name: str | None
    filename: str | None


def disposition_of(value: str) -> Disposition:
    """Read a Content-Disposition. ``filename*`` counts more than ``filename`` (RFC 6266 §4.3);
    a name that cannot be decoded is taken as it is."""
    kind, name, plain = parse_content_disposition(value)
    filename = _extended(value) or _text(plain)
    return Disposition(kind.lower(), _text(name), filename or None)


def part_disposition(part: MultipartSegment) -> Disposition:
    """Read the Content-Disposition of a part that the parser has accepted."""
    return disposition_of(part.header("Content-Disposition", ""))


def file_type(part: MultipartSegment) -> str | None:
    """Return the type that a part declares for its file, with its parameters."""
    declared: str | None = part.header("Content-Type")
    if declared is None or _TYPE.match(declared):
        return declared or None
    plain: str | None = part.content_type
    return plain


def is_plain(transfer_encoding: str) -> bool:
    """Whether a Content-Transfer-Encoding leaves a part's bytes as they are (RFC 2045 §6.2)."""
    return transfer_encoding.strip().lower() in _PLAIN


def is_encoded(part: MultipartSegment) -> bool:
    """Whether a part's bytes are something else's encoding, such as base64. RFC 7578 §4.7 lets
    no client of a web server send that."""
    return not all(
        is_plain(value)
        for name, value in part.headerlist
        if name.lower() == "content-transfer-encoding"
    )


def _text(value: str | None) -> str | None:
    return _words(value) if value and _WORDS.match(value) else value


def _words(text: str) -> str:
    with suppress(HeaderParseError, ValueError, LookupError):
        decoded = [
            part if isinstance(part, str) else _decode(part, charset or "us-ascii")
            for part, charset in decode_header(text)
        ]
        return "".join(decoded)
    return text


def _extended(value: str) -> str | None:
    """The ext-value of ``filename*``: charset, language and percent-encoded text."""
    found = next((each for each in _EXTENDED.findall(value) if each), "")
    charset, _, rest = found.partition("'")
    _, quote, text = rest.partition("'")
    with suppress(ValueError, LookupError):
        return _decode(unquote_to_bytes(text), charset) if quote else None
    return None


def _decode(data: bytes, charset: str) -> str:
    """Raises ValueError for what is not in that charset, or for an unusual one."""
    if not _CHARSETS.fullmatch(charset):
        raise ValueError(charset)
    return data.decode(charset)
