"""Sizes, durations and instants as people write them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from upwell.client.errors import SettingsError

_SIZE = re.compile(r"(?P<number>\d{1,18}(\.\d{1,6})?)\s*(?P<unit>[a-z]*)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:\d{1,9}[smhdw])+|\d{1,9}", re.IGNORECASE | re.ASCII)
_DURATION_PART = re.compile(r"(\d+)([smhdw])", re.IGNORECASE | re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_FACTORS = {"": 1, "b": 1} | {
    name: base**power
    for power, letter in enumerate("kmgt", start=1)
    for name, base in ((letter, 1024), (f"{letter}ib", 1024), (f"{letter}b", 1000))
}


def parse_size(text: str) -> int:
    """Bytes of ``5MiB``, ``8M`` (powers of 1024), ``10MB`` (powers of 1000) or ``5242880``.

    Raises:
        SettingsError: not a size, or not a positive number of bytes.
    """
    match = _SIZE.fullmatch(text.strip())
    factor = _FACTORS.get(match["unit"].lower()) if match else None
    if match is None or factor is None:
        raise SettingsError(f"{text!r} is not a size: write for example 5MiB, 8M or 5242880.")
    size = int(Decimal(match["number"]) * factor)
    if size < 1:
        raise SettingsError(f"{text!r} is less than one byte.")
    return size


def parse_limit(text: str) -> int | None:
    """A size as :func:`parse_size` reads it, ``0``, or ``none`` for no limit."""
    written = text.strip().lower()
    if written == "none":
        return None
    return 0 if written == "0" else parse_size(text)


def parse_duration(text: str) -> timedelta:
    """``90`` (seconds), ``15m``, ``12h``, ``7d``, ``2w`` or a sum such as ``1d12h``.

    Raises:
        SettingsError: not a duration, or longer than a calendar can hold.
    """
    written = text.strip()
    if _DURATION.fullmatch(written) is None:
        raise SettingsError(f"{text!r} is not a duration: write for example 90s, 15m, 12h or 7d.")
    parts = _DURATION_PART.findall(written) or [(written, "s")]
    seconds = sum(int(number) * _SECONDS[unit.lower()] for number, unit in parts)
    try:
        return timedelta(seconds=seconds)
    except OverflowError as error:
        raise SettingsError(f"{text!r} is too long a duration.") from error


def parse_end(text: str) -> datetime | timedelta:
    """The UTC instant, or the duration, that ``text`` names: ``2030-01-31T12:00:00Z``, ``7d``.

    An instant without an offset is in the local time zone. Neither is compared with this
    machine's clock: the server decides what is in the future.

    Raises:
        SettingsError: neither of the two, or no time at all.
    """
    written = text.strip()
    if _DURATION.fullmatch(written) and not written.isdigit():
        if duration := parse_duration(written):
            return duration
        raise SettingsError(f"{text!r} is over at once; ask for a longer duration.")
    try:
        return datetime.fromisoformat(written).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{text!r} is neither an instant (2030-01-31T12:00:00Z) nor a duration (7d, 12h)."
        ) from error


def end_fields(
    expires_at: datetime | None, expires_in: timedelta | None, instant: str = "expired_at"
) -> dict[str, Any]:
    """A request's fields for when something ends; ``instant`` is what it calls an instant.

    Durations are sent as whole seconds, rounded up, and counted by the server.
    """
    return {
        instant: expires_at and expires_at.astimezone(UTC).isoformat(),
        "expires_in": None if expires_in is None else math.ceil(expires_in.total_seconds()),
    }
