"""How much of one server process a client may take up at once."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upwell.errors import UpwellError


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings of these names (``config.Settings``), as the routes need them."""

    direct_max_size: int
    streams_per_account: int = 64
    downloads_per_address: int = 64
    min_download_rate: int = 1024


class Places:
    """At most ``most`` things under way at a time for each account or address.

    Used in the event loop only, which is why its counter needs no lock.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken: Counter[str] = Counter()

    @contextmanager
    def one(self, whose: str, refusal: UpwellError) -> Iterator[None]:
        """Hold a place. Raises ``refusal`` when all of them are taken."""
        if self._taken[whose] >= self.most:
            raise refusal
        self._taken[whose] += 1
        try:
            yield
        finally:
            self._taken[whose] -= 1
            if not self._taken[whose]:
                del self._taken[whose]
