"""Jobs are tested on the core's worlds."""

from __future__ import annotations

from tests.core.conftest import small, world

__all__ = ["small", "world"]
