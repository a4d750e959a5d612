"""How uploads are sealed: an encrypted file lies in its store as an age v1 file (``core.age``).

The sender's chunks are multiples of age's block, so each is sealed by itself, in any order,
and lies at its place; the head of the age file is in front of the first. A block's nonce is
its number, therefore **a chunk is never sealed from two different contents**: what it is
sealed from is recorded before the first sealed byte leaves the memory (``core.sealed``).

Keys: the password opens the head. While the upload is open, its file key is also kept
wrapped under the server's key; afterwards only the password opens it.
"""

from __future__ import annotations

import errno
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from upwell.core import age, derivations
from upwell.errors import PasswordWrong, ValidationFailed
from upwell.model import Layout

if TYPE_CHECKING:
    from collections.abc import Callable

_NONCE = 12  # bytes (RFC 8439)


# sizes


def align_chunk_size(size: int) -> int:
    """The next multiple of age's block."""
    return age.BLOCK * age.blocks(size)


def stored_layout(layout: Layout, head: int) -> Layout:
    """How the chunks of ``layout``, the sender's, lie when they are sealed.

    Both count the same chunks; an empty upload has none, and is sealed whole. Raises
    ValueError when the chunks are not multiples of age's block.
    """
    if layout.chunk_size % age.BLOCK or layout.head:
        message = f"chunks of {layout.chunk_size} bytes cannot be sealed one by one"
        raise ValueError(message)
    size = age.sealed_size(layout.size, head)
    return Layout(layout.key, size, age.sealed_size(layout.chunk_size), head)


# keys


@dataclass(frozen=True)
class Sealing:
    """The keys of one age file: its head (header and nonce of the payload), and the file key."""

    header: bytes
    file_key: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"Sealing(<{len(self.header)} bytes>)"

    @classmethod
    def new(cls, password: str) -> Sealing:
        """Fresh keys that ``password`` opens. Takes 0.15 s.

        Raises WrongThread, ServerBusy (``derivations.turn``); ValidationFailed.
        """
        secret = _encoded(password)
        file_key = secrets.token_bytes(age.FILE_KEY)
        with derivations.turn():
            header = age.make_header(file_key, secret, secrets.token_bytes(age.SALT), age.LOG_N)
        return cls(header + secrets.token_bytes(age.NONCE), file_key)

    @classmethod
    def unlock(cls, data: bytes, password: str) -> Sealing:
        """Of a file that begins with ``data``; 1 KiB is enough. Takes 0.15 s.

        Raises PasswordWrong; WrongThread, ServerBusy (``derivations.turn``); OSError when this is
        no head of a file of ours.
        """
        try:
            head = head_of(data)
            secret = _encoded(password)
            with derivations.turn():
                file_key, _ = age.open_header(head, secret)
        except ValidationFailed:
            raise PasswordWrong("No file is encrypted with such a password; check it.") from None
        except age.Malformed as error:
            raise damaged(f"the head of an encrypted file is damaged: {error}") from error
        return cls(head, file_key)

    def wrap(self, server_key: bytes, context: str) -> bytes:
        """The file key, sealed under the server's key of 32 bytes, for ``context`` alone."""
        nonce = secrets.token_bytes(_NONCE)
        bound = _bound(context, self.header)
        return nonce + ChaCha20Poly1305(server_key).encrypt(nonce, self.file_key, bound)

    @classmethod
    def unwrap(cls, wrapped: bytes, server_key: bytes, context: str, header: bytes) -> Sealing:
        """Undo ``wrap``. Raises OSError when any of the four is not as it was then."""
        nonce, body = wrapped[:_NONCE], wrapped[_NONCE:]
        try:
            key = ChaCha20Poly1305(server_key).decrypt(nonce, body, _bound(context, header))
        except (InvalidTag, ValueError):
            message = f"the key of the encrypted upload {context} does not open with the server's"
            raise damaged(message) from None
        return cls(header, key)

    def stream(self) -> age.Stream:
        return age.Stream(self.file_key, self.header[-age.NONCE :])

    def memo_key(self) -> bytes:
        """For what is remembered beside the bytes."""
        return age.hkdf(self.file_key, b"upwell memo", self.header[-age.NONCE :])


def head_of(data: bytes) -> bytes:
    """The head at the beginning of ``data``. Raises age.Malformed."""
    length = age.parse(data).length + age.NONCE
    if len(data) < length:
        raise age.Malformed("the head is cut off")
    return data[:length]


def resume_check(password: str, server_key: bytes, context: str) -> str:
    """The same for the same three, in hex; tells nothing of the password without the key.

    As slow as the password's own derivation. Raises WrongThread, ServerBusy, ValidationFailed.
    """
    secret = _encoded(password)
    salt = hmac.digest(server_key, b"upwell resume\0" + context.encode(), "sha256")[: age.SALT]
    with derivations.turn():
        stretched = age.stretch(secret, salt, age.LOG_N)
    return age.hkdf(stretched, b"upwell resume").hex()


def _encoded(password: str) -> bytes:
    try:
        encoded = password.encode()
    except UnicodeEncodeError:
        encoded = b""
    if not encoded:
        why = "must be text, and not empty"
        raise ValidationFailed(f"encrypt_password {why}.", errors={"encrypt_password": [why]})
    return encoded


def _bound(context: str, header: bytes) -> bytes:
    encoded = context.encode()
    return b"upwell file key\0" + len(encoded).to_bytes(8, "big") + encoded + header


class KeyCache:
    """Remembers what passwords have opened, for a short while: a range of a file costs no
    derivation then. Knows neither passwords nor heads, but holds file keys. Thread-safe."""

    def __init__(
        self,
        seconds: float = 300.0,
        most: int = 1000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._secret = secrets.token_bytes(32)
        self._known: derivations.Memo[Sealing] = derivations.Memo(seconds, most, clock)

    def unlock(
        self, data: bytes, password: str, guess: Callable[[], None] = lambda: None
    ) -> Sealing:
        """As ``Sealing.unlock``; ``guess`` is called before a password is tried, and may raise.
        Concurrent callers with the same head and password share one derivation."""
        try:
            head = head_of(data)
        except age.Malformed:
            return Sealing.unlock(data, password)  # and its error

        def derive() -> Sealing:
            guess()
            return Sealing.unlock(data, password)

        return self._known.get(self._name(head, password), derive)

    def _name(self, head: bytes, password: str) -> bytes:
        named = head + password.encode("utf-8", "surrogatepass")  # a head tells its own length
        return hmac.digest(self._secret, named, "sha256")


def seal_whole(sealing: Sealing, data: bytes) -> bytearray:
    """The whole age file of a content held in memory, which may be empty."""
    head = len(sealing.header)
    sealed = bytearray(age.sealed_size(len(data), head))
    sealed[:head] = sealing.header
    sealing.stream().seal_all(0, memoryview(data), memoryview(sealed)[head:], last=True)
    return sealed


def damaged(message: str) -> OSError:
    """What an age file that does not open, but once did, is to its readers."""
    return OSError(errno.EIO, message)
