"""Passcodes of bundles: Argon2id (RFC 9106), verified a few at a time, remembered for a while."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from upwell.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Iterator

# The second recommended option of RFC 9106, section 4 (64 MiB, three passes), in one lane instead
# of four. OpenSSL computes several lanes with threads that all derivations of the process share,
# and two that each wait for the other's threads wait forever.
_MEMORY, _PASSES, _LANES = 64 << 10, 3, 1
_PARAMETERS = re.compile(r"\$argon2id\$v=19\$m=\d+,t=\d+,p=(\d+)\$", re.ASCII)
_several_lanes = threading.Lock()
_AT_ONCE = threading.BoundedSemaphore(2)
_WAIT = 30.0  # seconds for a turn
_REMEMBERED = 1000
_SECONDS = 300.0


def hash_of(passcode: str) -> str:
    """A salted hash in PHC form. Raises NotReady when too many are computed."""
    with _turn():
        kdf = Argon2id(
            salt=secrets.token_bytes(16),
            length=32,
            iterations=_PASSES,
            lanes=_LANES,
            memory_cost=_MEMORY,
        )
        return kdf.derive_phc_encoded(_bytes(passcode))


def is_outdated(phc: str) -> bool:
    """Whether a hash was made with several lanes: ``hash_of`` makes a better one."""
    return _lanes(phc) != _LANES


class Passcodes:
    """Verifies passcodes; a right one is known again for five minutes without the work."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._right: dict[bytes, float] = {}

    def knows(self, passcode: str, phc: str) -> bool:
        """Whether this was found right lately."""
        return self._right.get(self._mark(passcode, phc), 0.0) > time.monotonic()

    def is_right(self, passcode: str, phc: str) -> bool:
        """Raises NotReady when too many are verified."""
        try:
            # One hash of several lanes at a time: see above. One lane needs no shared thread.
            with _turn(), _several_lanes if _lanes(phc) > 1 else nullcontext():
                Argon2id.verify_phc_encoded(_bytes(passcode), phc)
        except InvalidKey:
            return False
        if len(self._right) >= _REMEMBERED:
            self._right.clear()
        self._right[self._mark(passcode, phc)] = time.monotonic() + _SECONDS
        return True

    def _mark(self, passcode: str, phc: str) -> bytes:
        return hmac.digest(self._key, phc.encode() + b"\0" + _bytes(passcode), hashlib.sha256)


def _lanes(phc: str) -> int:
    found = _PARAMETERS.match(phc)
    return int(found[1]) if found else 0


def _bytes(passcode: str) -> bytes:
    return passcode.encode("utf-8", "surrogatepass")


@contextmanager
def _turn() -> Iterator[None]:
    """Each takes 64 MiB: a few at once are enough."""
    if not _AT_ONCE.acquire(timeout=_WAIT):
        raise NotReady("Too many passcodes are being verified; try again.", retry_after=5)
    try:
        yield
    finally:
        _AT_ONCE.release()
