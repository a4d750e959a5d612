"""Makes a server forget to sync the bytes of uploads, so that a campaign can show that it would
notice. Folders and the catalog are still synced."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import HasFileno


def _nothing(fd: int | HasFileno) -> None:
    """Sync nothing."""


os.fdatasync = _nothing
