"""Passwords and passcodes that people make up: how often they may be guessed.

A guess is counted in the catalog before it is looked at, so that neither many processes nor
many requests at once get more of them; a right one is forgiven.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from upwell.errors import TooManyGuesses

if TYPE_CHECKING:
    from upwell.core.ports import Catalog, Clock
    from upwell.model import Principal

BURST = 10  # wrong guesses that one asker may make at once,
INTERVAL = timedelta(seconds=30)  # and then one in this time
STRANGERS_BURST = 100  # all askers without an account together
STRANGERS_INTERVAL = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks for bytes, perhaps a stranger: ``address`` is the client's.

    ``passcode`` opens a bundle; ``proof`` tells that it was given before (``Bundles.prove``).
    """

    principal: Principal | None
    address: str = ""
    passcode: str | None = None
    proof: str | None = None

    def __repr__(self) -> str:
        return f"Asker({self.who})"

    @property
    def who(self) -> str:
        if self.principal:
            return f"account {self.principal.account.id}"
        return f"address {self.address}"


class Guesses:
    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def count(self, thing: str, asker: Asker) -> None:
        """Count a guess at what guards ``thing``. Raises TooManyGuesses."""
        self._count(f"{thing} {asker.who}", INTERVAL, BURST)
        if asker.principal is None:
            self._count(thing, STRANGERS_INTERVAL, STRANGERS_BURST)

    def forgive(self, thing: str, asker: Asker) -> None:
        """The guess was right: the asker's count begins anew."""
        self._catalog.forgive(f"{thing} {asker.who}")

    def _count(self, subject: str, interval: timedelta, burst: int) -> None:
        now = self._clock()
        free_at = self._catalog.guess(subject, now, interval, burst)
        if free_at is not None:
            seconds = max(1, math.ceil((free_at - now).total_seconds()))
            raise TooManyGuesses(
                f"Too many wrong guesses; try again in {seconds} seconds.", retry_after=seconds
            )
