"""Running digests whose state can be saved and taken up again, by another process too.

hashlib cannot do that. OpenSSL's own functions can: their contexts are plain structures
without pointers (openssl/sha.h, openssl/md5.h), so a copy of the bytes is a copy of the
state. Where libcrypto is not to be had, or computes something else than hashlib, hashlib
serves, and states are None: then a digest starts again from the content's beginning.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from typing import Any, Protocol

_CONTEXT_SIZE = 256  # bytes; the largest, SHA512_CTX, has 216
_NAMES = {"md5": "MD5", "sha1": "SHA1", "sha256": "SHA256", "sha512": "SHA512"}


class RunningDigest(Protocol):
    """A digest of what it has been given so far."""

    def update(self, data: memoryview) -> None:
        """``data`` is writable memory. The GIL is released meanwhile."""
        ...

    def hexdigest(self) -> str: ...

    def state(self) -> bytes | None:
        """What ``start`` goes on from; None when it cannot."""
        ...


class _Plain:
    def __init__(self, algorithm: str) -> None:
        self._hash = hashlib.new(algorithm)

    def update(self, data: memoryview) -> None:
        self._hash.update(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def state(self) -> bytes | None:
        return None


class _Resumable:
    def __init__(self, algorithm: str, state: bytes | None) -> None:
        self._update, self._final, init = _functions(algorithm)
        self._size = hashlib.new(algorithm).digest_size
        self._context = ctypes.create_string_buffer(_CONTEXT_SIZE)
        if state is None:
            init(self._context)
        else:
            self._context.raw = state

    def update(self, data: memoryview) -> None:
        self._update(self._context, (ctypes.c_char * len(data)).from_buffer(data), len(data))

    def hexdigest(self) -> str:
        copy = ctypes.create_string_buffer(self._context.raw, _CONTEXT_SIZE)
        digest = ctypes.create_string_buffer(self._size)
        self._final(digest, copy)
        return digest.raw.hex()

    def state(self) -> bytes | None:
        return self._context.raw


@cache
def _functions(algorithm: str) -> tuple[Any, Any, Any]:
    """OpenSSL's update, final and init. Raises OSError or AttributeError without them."""
    library = ctypes.CDLL("libcrypto.so.3")
    update, final, init = (
        getattr(library, f"{_NAMES[algorithm]}_{step}") for step in ("Update", "Final", "Init")
    )
    update.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    final.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    init.argtypes = [ctypes.c_void_p]
    return update, final, init


@cache
def resumable(algorithm: str) -> bool:
    """Whether states can be saved: the functions are there and agree with hashlib."""
    try:
        first = _Resumable(algorithm, None)
        first.update(memoryview(bytearray(b"up" * 99)))
        second = _Resumable(algorithm, first.state())
    except (OSError, AttributeError):
        return False
    second.update(memoryview(bytearray(b"well" * 99)))
    return second.hexdigest() == hashlib.new(algorithm, b"up" * 99 + b"well" * 99).hexdigest()


def start(algorithm: str, state: bytes | None = None) -> RunningDigest:
    """A new running digest, or one that goes on from a saved state."""
    if resumable(algorithm):
        return _Resumable(algorithm, state)
    return _Plain(algorithm)
