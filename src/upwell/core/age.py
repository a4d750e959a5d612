"""The age v1 file format for one password (age-encryption.org/v1, C2SP ``age.md``).

A file is a header of text lines, a nonce of 16 bytes, and the payload: blocks of 64 KiB of
plaintext, each sealed by itself (STREAM), the last one marked. What comes in front of the
first sealed block, header and nonce, is called the head. Only the scrypt recipient is known
here; armor is not.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from upwell.errors import PasswordWrong

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK = 64 << 10  # bytes of plaintext in every block but the last
TAG = 16  # bytes a sealed block is longer than its plaintext
SEALED_BLOCK = BLOCK + TAG
FILE_KEY = 16  # bytes
NONCE = 16  # bytes, between the header and the payload
SALT = 16  # bytes
LOG_N = 16  # scrypt's work factor for what we write: 64 MiB and 0.15 s

_VERSION = b"age-encryption.org/v1"
_SCRYPT = b"age-encryption.org/v1/scrypt"
_COLUMNS = 64  # of a stanza's body; a shorter line ends it
_WORK = re.compile(r"[1-9][0-9]?\Z", re.ASCII)
_ARGUMENT = re.compile(rb"[\x21-\x7e]+\Z")
_ZERO_NONCE = bytes(12)


class Malformed(ValueError):
    """These bytes are not the header of an age file that a password opens."""


class NoRecipient(Malformed):
    """A well-formed header for recipients of other kinds than scrypt."""


class BadMac(Malformed):
    """The header was changed after it was written."""


class Damaged(ValueError):
    """A block is not what was sealed at its place, or the payload was cut or prolonged."""


def hkdf(key: bytes, info: bytes, salt: bytes | None = None, length: int = 32) -> bytes:
    """HKDF-SHA256 (RFC 5869)."""
    return HKDF(SHA256(), length, salt, info).derive(key)


def stretch(password: bytes, salt: bytes, log_n: int) -> bytes:
    """32 bytes by scrypt with r = 8, p = 1 (RFC 7914). Takes ``2 ** (log_n + 10)`` bytes of
    memory; the GIL is released."""
    return Scrypt(salt=salt, length=32, n=1 << log_n, r=8, p=1).derive(password)


# the header


@dataclass(frozen=True, slots=True)
class Stanza:
    """The file key, wrapped for one recipient of the kind that the first argument names."""

    arguments: tuple[str, ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header: ``length`` bytes, the first ``signed`` of which ``mac`` covers."""

    stanzas: tuple[Stanza, ...]
    mac: bytes
    signed: int
    length: int


def make_header(file_key: bytes, password: bytes, salt: bytes, log_n: int) -> bytes:
    """A header that ``password`` opens; ``salt`` is 16 random bytes, used once."""
    wrapping_key = stretch(password, _SCRYPT + salt, log_n)
    body = ChaCha20Poly1305(wrapping_key).encrypt(_ZERO_NONCE, file_key, None)
    stanza = Stanza(("scrypt", _encode(salt), str(log_n)), body)
    signed = _written([stanza])
    return signed + b" " + _encode(header_mac(file_key, signed)).encode() + b"\n"


def header_mac(file_key: bytes, signed: bytes) -> bytes:
    """The MAC over a header's bytes up to and with its ``---``."""
    return hmac.digest(hkdf(file_key, b"header"), signed, "sha256")


def open_header(data: bytes, password: bytes, max_log_n: int = 20) -> tuple[bytes, int]:
    """The file key, and how many of the bytes are the header.

    Raises Malformed, or one of its kinds; PasswordWrong.
    """
    header = parse(data)
    salt, log_n, wrapped = _recipient(header, max_log_n)
    wrapping_key = stretch(password, _SCRYPT + salt, log_n)
    try:
        file_key = ChaCha20Poly1305(wrapping_key).decrypt(_ZERO_NONCE, wrapped, None)
    except InvalidTag:
        raise PasswordWrong("This password does not open the file; check it.") from None
    check_mac(header, data, file_key)
    return file_key, header.length


def check_mac(header: Header, data: bytes, file_key: bytes) -> None:
    """Raises BadMac unless ``header``, parsed from ``data``, was made with this file key."""
    if not hmac.compare_digest(header_mac(file_key, data[: header.signed]), header.mac):
        raise BadMac("the header's MAC does not fit")


def parse(data: bytes) -> Header:
    """The header at the beginning of ``data``, of whatever kind. Raises Malformed."""
    lines = _Lines(data)
    if lines.take() != _VERSION:
        raise Malformed("this is not age-encryption.org/v1")
    stanzas = []
    while (line := lines.take()).startswith(b"->"):
        stanzas.append(Stanza(_arguments(line), _body(lines)))
    if not stanzas:
        raise Malformed("the header has no recipient")
    if not line.startswith(b"--- "):
        raise Malformed("the header does not end with its MAC")
    mac = _decode(line[4:])
    if len(mac) != 32:
        raise Malformed("the header's MAC is not 32 bytes")
    return Header(tuple(stanzas), mac, lines.at - len(line) - 1 + len(b"---"), lines.at)


def _written(stanzas: Sequence[Stanza]) -> bytes:
    """Stanzas as the header's lines, as far as the MAC covers them."""
    lines = [_VERSION]
    for stanza in stanzas:
        lines.append(" ".join(("->", *stanza.arguments)).encode("ascii"))
        text = _encode(stanza.body).encode()
        # One line more when the last one is full: a short line ends the body.
        lines += [text[at : at + _COLUMNS] for at in range(0, len(text) + 1, _COLUMNS)]
    return b"\n".join([*lines, b"---"])


class _Lines:
    """Lines ended by LF, one after the other; ``at`` is where the next one begins."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self) -> bytes:
        end = self._data.find(b"\n", self.at)
        if end < 0:
            raise Malformed("the header is cut off")
        line = self._data[self.at : end]
        self.at = end + 1
        return line


def _arguments(line: bytes) -> tuple[str, ...]:
    arrow, *arguments = line.split(b" ")
    if arrow != b"->" or not arguments or not all(map(_ARGUMENT.match, arguments)):
        raise Malformed("a recipient's first line is malformed")
    return tuple(each.decode("ascii") for each in arguments)


def _body(lines: _Lines) -> bytes:
    """Full lines, and a shorter one, maybe empty, at the end."""
    parts = []
    while len(line := lines.take()) == _COLUMNS:
        parts.append(line)
    if len(line) > _COLUMNS:
        raise Malformed("a recipient's body has a line of more than 64 columns")
    return _decode(b"".join([*parts, line]))


def _recipient(header: Header, max_log_n: int) -> tuple[bytes, int, bytes]:
    """Salt, work factor and wrapped file key of the only recipient, which must be scrypt."""
    kinds = [stanza.arguments[0] for stanza in header.stanzas]
    if "scrypt" not in kinds:
        raise NoRecipient("no password opens this file")
    if len(kinds) > 1:
        raise Malformed("a password must be the only recipient")
    (stanza,) = header.stanzas
    if len(stanza.arguments) != 3:
        raise Malformed("the scrypt recipient needs a salt and a work factor")
    salt = _decode(stanza.arguments[1].encode())
    if len(salt) != SALT:
        raise Malformed("the salt is not 16 bytes")
    if not _WORK.match(stanza.arguments[2]):
        raise Malformed("the work factor is not a number")
    log_n = int(stanza.arguments[2])
    if log_n > max_log_n:
        raise Malformed(f"the work factor is more than {max_log_n}")
    if len(stanza.body) != FILE_KEY + TAG:
        raise Malformed("the wrapped file key is not 32 bytes")
    return salt, log_n, stanza.body


def _encode(data: bytes) -> str:
    """Base64 without padding (RFC 4648)."""
    return base64.b64encode(data).rstrip(b"=").decode("ascii")


def _decode(text: bytes) -> bytes:
    """Canonical Base64 without padding. Raises Malformed for everything else."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("this is not Base64") from None
    if _encode(data).encode() != text:
        raise Malformed("this is not canonical Base64")
    return data


# the payload


def blocks(plain_size: int) -> int:
    """How many blocks: also an empty content has one."""
    return max(1, -(-plain_size // BLOCK))


def sealed_size(plain_size: int, head: int = 0) -> int:
    """Bytes of ``plain_size`` bytes sealed, behind a head of ``head`` bytes."""
    return head + plain_size + TAG * blocks(plain_size)


def plain_size(sealed_size: int, head: int = 0) -> int:
    """What ``sealed_size`` was made of. Raises Damaged when nothing gives that size."""
    payload = sealed_size - head
    full, rest = divmod(payload, SEALED_BLOCK)
    if payload < TAG or (full and 0 < rest <= TAG):
        raise Damaged("the payload was cut off")
    return payload - TAG * (full + (rest > 0))


class Stream:
    """Seals and opens the blocks of one payload, in any order. One thread at a time is the
    fastest; several are safe."""

    __slots__ = ("_cipher",)

    def __init__(self, file_key: bytes, nonce: bytes) -> None:
        self._cipher = ChaCha20Poly1305(hkdf(file_key, b"payload", nonce))

    def seal(self, block: int, plain: memoryview, sealed: memoryview, *, last: bool) -> None:
        """``sealed`` is 16 bytes longer than ``plain``, and elsewhere in memory."""
        self._cipher.encrypt_into(_nonce(block, last=last), plain, None, sealed)

    def open(self, block: int, sealed: memoryview, plain: memoryview, *, last: bool) -> None:
        """Raises Damaged, and then ``plain`` is all zeros."""
        try:
            self._cipher.decrypt_into(_nonce(block, last=last), sealed, None, plain)
        except InvalidTag:
            plain[:] = bytes(len(plain))
            raise Damaged(f"block {block} is not what was sealed") from None

    def seal_all(self, first: int, plain: memoryview, sealed: memoryview, *, last: bool) -> None:
        """Seal adjacent blocks from ``first`` on. ``last``: the payload ends with them;
        otherwise they are all full. ``sealed`` is ``sealed_size(len(plain))`` bytes."""
        count = blocks(len(plain))
        for i in range(count):
            self.seal(
                first + i,
                plain[i * BLOCK : (i + 1) * BLOCK],
                sealed[i * SEALED_BLOCK : (i + 1) * SEALED_BLOCK],
                last=last and i == count - 1,
            )


def _nonce(block: int, *, last: bool) -> bytes:
    """RFC 8439's 12 bytes: the block's number, and whether it is the last."""
    return block.to_bytes(11, "big") + (b"\x01" if last else b"\x00")
