"""What a content is, told by its first bytes."""

from __future__ import annotations

from functools import cache

from pure_magic_rs import MagicDb

HEAD_SIZE = 8192  # bytes that are enough to tell
_UNKNOWN = "application/octet-stream"


@cache
def _database() -> MagicDb:
    return MagicDb()


def sniff(head: bytes) -> str | None:
    """The media type of a content that begins with ``head``; None when nothing is known."""
    if not head:
        return None
    found = _database().first_magic_buffer(head[:HEAD_SIZE], None).mime_type
    return None if found == _UNKNOWN else str(found)
