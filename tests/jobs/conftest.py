"""Jobs are tested on the core's worlds."""

from __future__ import annotations

from tests.core.conftest import cheap_passwords, small, world

__all__ = ["cheap_passwords", "small", "world"]
