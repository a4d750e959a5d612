"""Passwords and passcodes that people make up: how often they may be guessed.

A guess is counted in the catalog before it is looked at, so that neither many processes nor
many requests at once get more of them; a right one is forgiven. While the catalog can't be
written (a read-only or full disk), each process counts by itself: files stay readable, and
guesses stay few.
"""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

from upwell.errors import TooManyGuesses, Unavailable

if TYPE_CHECKING:
    from datetime import datetime

    from upwell.core.ports import Catalog, Clock
    from upwell.model import Principal

BURST = 10  # wrong guesses that one asker may make at once,
INTERVAL = timedelta(seconds=30)  # and then one in this time
STRANGERS_BURST = 100  # all askers without an account together
STRANGERS_INTERVAL = timedelta(seconds=5)
_SITE = 64  # bits of an IPv6 address that name a network: any customer has one (RFC 6177)
_REMEMBERED = 10_000  # subjects that a process counts by itself


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
        """What guesses are counted under: the account, otherwise the address. All addresses of
        an IPv6 network of 64 bits are one, since a single host can use any of them."""
        if self.principal:
            return f"account {self.principal.account.id}"
        return f"address {_source(self.address)}"


def _source(address: str) -> str:
    try:
        ip = ip_address(address)
    except ValueError:
        return address  # a socket without addresses
    if not isinstance(ip, IPv6Address):
        return str(ip)
    return str(ip.ipv4_mapped or IPv6Network((int(ip), _SITE), strict=False))


class Guesses:
    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock
        self._here = _Tally()

    def count(self, thing: str, asker: Asker) -> None:
        """Count a guess at what guards ``thing``. Raises TooManyGuesses."""
        self._count(f"{thing} {asker.who}", INTERVAL, BURST)
        if asker.principal is None:
            self._count(thing, STRANGERS_INTERVAL, STRANGERS_BURST)

    def forgive(self, thing: str, asker: Asker) -> None:
        """The guess was right: the asker's count begins again."""
        subject = f"{thing} {asker.who}"
        self._here.forgive(subject)
        with suppress(Unavailable):
            self._catalog.forgive(subject)

    def _count(self, subject: str, interval: timedelta, burst: int) -> None:
        now = self._clock()
        # Counted here in any case: a disk that fails now and then must not give a new burst.
        free_at = self._here.guess(subject, now, interval, burst)
        with suppress(Unavailable):
            free_at = self._catalog.guess(subject, now, interval, burst)
        if free_at is not None:
            seconds = max(1, math.ceil((free_at - now).total_seconds()))
            raise TooManyGuesses(
                f"Too many wrong guesses; try again in {seconds} seconds.", retry_after=seconds
            )


class _Tally:
    """Guesses counted in this process, as ``LinkRows.guess`` counts them in the catalog."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # deciding and counting are one step
        self._free_at: dict[str, datetime] = {}

    def guess(
        self, subject: str, now: datetime, interval: timedelta, burst: int
    ) -> datetime | None:
        """Count a guess, or tell from when on one may be made."""
        with self._lock:
            free_at = max(now, self._free_at.get(subject, now))
            allowed_at = free_at - (burst - 1) * interval
            if allowed_at > now:
                return allowed_at
            if subject not in self._free_at and not self._has_room(now):
                return now + interval
            self._free_at[subject] = free_at + interval
            return None

    def forgive(self, subject: str) -> None:
        with self._lock:
            self._free_at.pop(subject, None)

    def _has_room(self, now: datetime) -> bool:
        """Room is made by those whose guesses are all free again, never by those who guess."""
        if len(self._free_at) < _REMEMBERED:
            return True
        self._free_at = {name: at for name, at in self._free_at.items() if at > now}
        return len(self._free_at) < _REMEMBERED
