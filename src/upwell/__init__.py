"""Upwell: a self-hosted upload server that never loses a byte.

The client is here by name, and loaded when it is asked for:

>>> from upwell import Client
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upwell.client import AsyncClient as AsyncClient
    from upwell.client import Client as Client

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "__version__"]


def __getattr__(name: str) -> object:
    if name in ("AsyncClient", "Client"):
        from upwell import client  # noqa: PLC0415 - importing upwell stays cheap

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
