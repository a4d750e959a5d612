"""Bytes in a store, without a row that names them: what a crash between the two leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upwell.core.ports import BlobStore


def put(store: BlobStore, data: bytes) -> str:
    """Store a blob whole; its key."""
    with store.intake() as intake:
        return intake.put(data)


def reserve(store: BlobStore, size: int) -> str:
    """Make room for an upload; its key."""
    with store.intake() as intake:
        return intake.reserve(size)
