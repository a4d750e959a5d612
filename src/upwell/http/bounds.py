"""How much of one server process a client may take up at once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings of these names (``config.Settings``), as the routes need them."""

    direct_max_size: int
    streams_per_account: int = 64
    downloads_per_address: int = 64
    min_download_rate: int = 1024
