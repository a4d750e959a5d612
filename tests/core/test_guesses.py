"""How often a password may be guessed: by whom, and while the catalog cannot be written."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from upwell.core import age, guesses
from upwell.core.guesses import BURST, INTERVAL, STRANGERS_BURST, Asker, Guesses
from upwell.errors import PasswordWrong, StorageFailed, StorageFull, TooManyGuesses

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.world import World


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, "LOG_N", 10)


@dataclass
class Disk:
    """Of a catalog; with an ``error``, guesses cannot be written to it."""

    real: Any
    error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return (
            partial(self._written, name)
            if name in ("guess", "forgive")
            else getattr(self.real, name)
        )

    def _written(self, name: str, *args: Any) -> Any:
        if self.error:
            raise self.error
        return getattr(self.real, name)(*args)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
        ("unix", "other", False),
    ],
)
def test_an_asker_without_an_account_is_an_address_or_a_network(
    one: str, other: str, same: bool
) -> None:
    assert (Asker(None, one).who == Asker(None, other).who) is same


def allowed(guess: Callable[[], None], tries: int = 3 * STRANGERS_BURST) -> int:
    """How many guesses get through before the first one that does not."""
    for count in range(tries):
        try:
            guess()
        except TooManyGuesses:
            return count
    return tries


@pytest.mark.parametrize("error", [StorageFailed("read-only"), StorageFull("full")])
def test_a_disk_that_cannot_be_written_neither_locks_out_nor_lets_guess(
    small: World, error: Exception
) -> None:
    file = small.upload(small.me, b"sealed", password="right")
    small.wire(disk := Disk(small.catalog))

    def wrong() -> None:
        with pytest.raises(PasswordWrong):
            small.open(small.me, file.id, password="wrong")

    wrong()
    disk.error = error
    assert allowed(wrong) == BURST - 1  # what was counted before counts
    with pytest.raises(TooManyGuesses) as caught:
        small.open(small.me, file.id, password="right")
    assert 0 < (caught.value.retry_after or 0) <= INTERVAL.total_seconds()
    disk.error = None
    assert allowed(wrong) == BURST - 1  # the catalog knows of one
    disk.error = error
    assert allowed(wrong) == 0  # no new burst, however often the disk comes and goes
    small.clock.advance(seconds=INTERVAL.total_seconds())
    assert small.open(small.me, file.id, password="right") == b"sealed"
    assert allowed(wrong) == BURST  # forgiven
    assert small.open(small.me, file.id, password="right") == b"sealed"  # known


def test_strangers_together_are_few_without_a_catalog_too(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guesses, "_REMEMBERED", STRANGERS_BURST + 10)
    counted = Guesses(Disk(small.catalog, StorageFailed("")), small.clock)
    numbers = iter(range(10**6))

    def guess(thing: str) -> None:
        counted.count(thing, Asker(None, f"192.0.2.{next(numbers)}"))

    assert allowed(partial(guess, "one")) == STRANGERS_BURST
    assert allowed(partial(guess, "two")) <= 10  # no room: those that guess do not make it
    small.clock.advance(days=1)
    assert allowed(partial(guess, "two")) == STRANGERS_BURST
