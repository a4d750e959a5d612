"""Passcodes of bundles: Argon2id (RFC 9106), verified a few at a time, remembered for a while."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from upwell.core import derivations

if TYPE_CHECKING:
    from collections.abc import Callable

# The second recommended option of RFC 9106, section 4 (64 MiB, three passes), in one lane instead
# of four. OpenSSL computes several lanes with threads that all derivations of the process share,
# and two that each wait for the other's threads wait forever.
_MEMORY, _PASSES, _LANES = 64 << 10, 3, 1
_PARAMETERS = re.compile(r"\$argon2id\$v=19\$m=\d+,t=\d+,p=(\d+)\$", re.ASCII)
_several_lanes = threading.Lock()


def hash_of(passcode: str) -> str:
    """A salted hash in PHC form. Raises WrongThread, ServerBusy (``derivations.turn``)."""
    with derivations.turn():
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
        self._right: derivations.Memo[bool] = derivations.Memo()

    def is_right(self, passcode: str, phc: str, guess: Callable[[], None]) -> bool:
        """Whether ``phc`` is a hash of a passcode; ``guess`` is called before one that is not
        known is tried, and may raise. Raises WrongThread, ServerBusy (``derivations.turn``)."""

        def verify() -> bool:
            guess()
            _verify(passcode, phc)
            return True

        try:
            return self._right.get(self._mark(passcode, phc), verify)
        except InvalidKey:
            return False

    def _mark(self, passcode: str, phc: str) -> bytes:
        return hmac.digest(self._key, phc.encode() + b"\0" + _bytes(passcode), hashlib.sha256)


def _verify(passcode: str, phc: str) -> None:
    """Raises InvalidKey."""
    # One hash of several lanes at a time: see above. One lane needs no shared thread.
    with derivations.turn(), _several_lanes if _lanes(phc) > 1 else nullcontext():
        Argon2id.verify_phc_encoded(_bytes(passcode), phc)


def _lanes(phc: str) -> int:
    found = _PARAMETERS.match(phc)
    return int(found[1]) if found else 0


def _bytes(passcode: str) -> bytes:
    return passcode.encode("utf-8", "surrogatepass")
