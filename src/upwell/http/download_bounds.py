"""What downloads may take up: how slow one may be, how many strangers may have under way from one
address, and how long a credential that was revoked still carries one."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

from upwell.core.guesses import Asker
from upwell.errors import TokenInvalid, TooManyDownloads
from upwell.http.bounds import Places
from upwell.http.guard import address_of, in_thread
from upwell.http.sockets import ConnectionGone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, MutableMapping
    from contextlib import AbstractContextManager

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
        self._strangers = Places(per_address)

    def seconds_for(self, count: int) -> float | None:
        """How long a client may take for so many bytes; None for as long as it moves at all."""
        return GRACE + count / self._min_rate if self._min_rate else None

    def place(self, scope: Scope, length: int) -> AbstractContextManager[None]:
        """Room for a download of so many bytes. Raises TooManyDownloads when it is entered."""
        asker = Asker(scope["state"].get("principal"), address_of(scope))
        if length <= SMALL or asker.principal is not None:
            return nullcontext()
        refusal = TooManyDownloads(
            f"{self._strangers.most} downloads are under way from this address. Wait for one of "
            "them, or log in.",
            retry_after=_RETRY,
        )
        return self._strangers.one(asker.who, refusal)


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
