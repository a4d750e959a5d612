"""The server's own key, and the keys for single purposes that are derived from it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64encode

SIZE = 32  # bytes


def new_id() -> str:
    """An unguessable id of 32 characters."""
    return secrets.token_hex(16)


class ServerKey:
    """32 random bytes that never leave the server, and keep its secrets apart from its rows."""

    def __init__(self, root: bytes) -> None:
        if len(root) != SIZE:
            message = f"a server key has {SIZE} bytes, not {len(root)}"
            raise ValueError(message)
        self._root = root

    def derive(self, purpose: str) -> bytes:
        """32 bytes for one purpose (HMAC-SHA256 as a PRF, RFC 2104)."""
        return hmac.digest(self._root, purpose.encode(), hashlib.sha256)

    def sign(self, purpose: str, message: str) -> str:
        """A signature of a message, 43 characters of base64url."""
        mac = hmac.digest(self.derive(purpose), message.encode("utf-8", "surrogatepass"), "sha256")
        return urlsafe_b64encode(mac).rstrip(b"=").decode()

    def is_signed(self, purpose: str, message: str, signature: str) -> bool:
        expected = self.sign(purpose, message)
        return hmac.compare_digest(expected.encode(), signature.encode("utf-8", "surrogatepass"))
