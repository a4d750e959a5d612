"""What downloads may take up: how slow one may be, how many strangers may have under way from one
address, and how long a credential that was revoked still carries one."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import structlog

from upwell.errors import TokenInvalid, TooManyDownloads
from upwell.http.guard import address_of, in_thread
from upwell.http.sockets import ConnectionGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping

    Scope = MutableMapping[str, Any]

SLICE = 8 << 20  # bytes of a file within which a download's rate is judged
GRACE = 60.0  # seconds beyond the time that they take at the lowest rate
RECHECK = 30.0  # seconds between looks whether the credential still counts
SMALL = 256 << 10  # bytes up to which a download is not counted: previews come by the hundred
_RETRY = 5  # seconds

_log = structlog.get_logger("upwell.http")


class Downloads:
    """The downloads of one process. ``min_rate`` is bytes a second, 0 for none; strangers have at
    most ``per_address`` of them under way from an address."""

    def __init__(self, min_rate: int, per_address: int) -> None:
        self._min_rate = min_rate
        self._per_address = per_address
        self._strangers: Counter[str] = Counter()

    def seconds_for(self, count: int) -> float | None:
        """How long a client may take for so many bytes; None for as long as it moves at all."""
        return GRACE + count / self._min_rate if self._min_rate else None

    @contextmanager
    def place(self, scope: Scope, length: int) -> Iterator[None]:
        """Room for a download of so many bytes. Raises TooManyDownloads.

        Called in the event loop only, which is why the counter needs no lock.
        """
        if length <= SMALL or scope["state"].get("principal") is not None:
            yield
            return
        whose = _network_of(address_of(scope))
        if self._strangers[whose] >= self._per_address:
            raise TooManyDownloads(
                f"{self._per_address} downloads are under way from this address. Wait for one of "
                "them, or log in.",
                retry_after=_RETRY,
            )
        self._strangers[whose] += 1
        try:
            yield
        finally:
            self._strangers[whose] -= 1
            if not self._strangers[whose]:
                del self._strangers[whose]


def _network_of(address: str) -> str:
    """An address, or the /64 of an IPv6 address, which is what one customer has."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return f"{int(found) >> 64:x}::/64"
    return address


@asynccontextmanager
async def while_valid(scope: Scope) -> AsyncIterator[None]:
    """Run what is inside for as long as the request's credential counts.

    Raises ConnectionGone, inside, when it was revoked or has expired. A stranger has none.
    """
    recheck: Callable[[], object] | None = scope["state"].get("recheck")
    if recheck is None:
        yield
        return
    task, ended = asyncio.current_task(), False

    async def watch() -> None:
        nonlocal ended
        while not ended:
            await asyncio.sleep(RECHECK)
            ended = await _counts_no_more(recheck)
        if task is not None:
            task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    except asyncio.CancelledError:
        if not ended or task is None or task.uncancel():
            raise  # the server stops, or the client has gone
        _log.info("a download was ended with its credential", trace_id=scope["state"]["trace_id"])
        raise ConnectionGone from None
    finally:
        watcher.cancel()


async def _counts_no_more(recheck: Callable[[], object]) -> bool:
    try:
        await in_thread(recheck)
    except TokenInvalid:
        return True
    except Exception:  # noqa: BLE001 - a catalog that cannot answer now is asked again
        return False
    return False
