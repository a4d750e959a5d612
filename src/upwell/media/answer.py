"""The worker's answer on its way to the server: framed, and bounded at both ends.

A frame is a kind (one byte), a length (four, big-endian) and so many bytes. Facts come first
and may come again, more complete; so a worker that dies over the pixels has already said what
the header told. Nothing in an answer is trusted: it was made from a stranger's file.
"""

from __future__ import annotations

import json
import os
import struct
from typing import TYPE_CHECKING

from upwell.media.facts import LARGEST_FACTS, Examined, Facts, clean

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = struct.Struct(">cI")
_FACTS, _THUMBNAIL, _PREVIEW = b"f", b"t", b"p"
_LARGEST = {_FACTS: LARGEST_FACTS, _THUMBNAIL: 256 * 1024, _PREVIEW: 8 * 1024 * 1024}
_MOST_FRAMES = 8
LARGEST_ANSWER = sum(_LARGEST.values()) + _MOST_FRAMES * (LARGEST_FACTS + _HEAD.size)


class Nonsense(Exception):
    """The answer is not of the form that a worker gives."""


class Answer:
    """The worker's end: says one thing after another on a pipe. What is too large stays unsaid."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def facts(self, facts: Facts) -> None:
        self._say(_FACTS, json.dumps(clean(facts)).encode())

    def thumbnail(self, picture: bytes) -> None:
        self._say(_THUMBNAIL, picture)

    def preview(self, picture: bytes) -> None:
        self._say(_PREVIEW, picture)

    def _say(self, kind: bytes, payload: bytes) -> None:
        if len(payload) > _LARGEST[kind]:
            return
        left = memoryview(_HEAD.pack(kind, len(payload)) + payload)
        while left:
            left = left[os.write(self._descriptor, left) :]


def understand(answer: bytes) -> Examined | None:
    """The server's end: what was said in full; None when that is nothing. Raises Nonsense."""
    facts: Facts = {}
    pictures: dict[bytes, bytes] = {}
    for number, (kind, payload) in enumerate(_frames(answer)):
        if number == _MOST_FRAMES:
            raise Nonsense
        if kind == _FACTS:
            facts = _facts(payload)
        else:
            pictures[kind] = _picture(payload)
    if not facts:
        return None
    return Examined(facts, pictures.get(_THUMBNAIL), pictures.get(_PREVIEW))


def _frames(answer: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position + _HEAD.size <= len(answer):
        kind, length = _HEAD.unpack_from(answer, position)
        position += _HEAD.size
        if length > _LARGEST.get(kind, -1):
            raise Nonsense
        if position + length > len(answer):
            return
        yield kind, answer[position : position + length]
        position += length


def _facts(payload: bytes) -> Facts:
    try:
        facts = json.loads(payload)
    except (ValueError, RecursionError):
        raise Nonsense from None
    if not isinstance(facts, dict) or facts.get("kind") not in {"image", "video", "audio"}:
        raise Nonsense
    return clean(facts)


def _picture(payload: bytes) -> bytes:
    """Only what a browser takes for WebP: these bytes are served under that type."""
    whole = len(payload) == int.from_bytes(payload[4:8], "little") + 8
    if payload[:4] != b"RIFF" or payload[8:12] != b"WEBP" or not whole:
        raise Nonsense
    return payload
