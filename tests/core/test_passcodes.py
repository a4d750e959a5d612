"""Hashes of passcodes: how they are made, and how those of an earlier version are replaced."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from tests.harness import together
from upwell.core import passcodes
from upwell.core.bundles import NewBundle
from upwell.core.guesses import Asker
from upwell.errors import PasscodeWrong, StorageFull

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.world import World
    from upwell.model import Bundle

RIGHT = "öpen sesame"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of a millisecond."""
    monkeypatch.setattr(passcodes, "_MEMORY", 64)
    monkeypatch.setattr(passcodes, "_PASSES", 1)


def outdated(passcode: str = RIGHT) -> str:
    """A hash as an earlier version made it: of four lanes."""
    kdf = Argon2id(salt=b"s" * 16, length=32, iterations=1, lanes=4, memory_cost=64)
    return kdf.derive_phc_encoded(passcode.encode())


def with_outdated(world: World) -> Bundle:
    made = world.bundles.create(world.me, NewBundle("old"))
    which = (made.id, made.account_id, world.clock())
    old = world.catalog.update_bundle(*which, lambda b: replace(b, passcode_hash=outdated()))
    assert old is not None
    return old


def test_any_number_of_derivations_at_once_end() -> None:
    """OpenSSL's threads are shared by the process: two hashes of several lanes, computed at the
    same time, waited for each other forever."""
    known, phc = passcodes.Passcodes(), outdated()

    def old(passcode: str) -> None:
        for _ in range(20):
            assert known.is_right(passcode, phc, lambda: None) == (passcode == RIGHT)

    def new() -> None:
        for _ in range(20):
            assert passcodes.hash_of(RIGHT).startswith("$argon2id$v=19$m=64,t=1,p=1$")

    works: list[Callable[[], None]] = [partial(old, RIGHT), partial(old, "wrong"), new, new]
    together(works, seconds=30)


def test_an_outdated_hash_is_replaced_once_the_passcode_was_right(small: World) -> None:
    bundle = with_outdated(small)
    with pytest.raises(PasscodeWrong):
        small.bundles.open(bundle.slug, Asker(None, passcode="wrong"))
    assert small.bundles.get(small.me, bundle.id) == bundle
    opened = small.bundles.open(bundle.slug, Asker(None, passcode=RIGHT))
    assert opened.passcode_hash
    assert not passcodes.is_outdated(opened.passcode_hash)
    assert small.bundles.get(small.me, bundle.id) == opened
    proof = small.bundles.prove(opened)
    for known in ({"passcode": RIGHT}, {"proof": proof}):
        assert small.another().bundles.open(bundle.slug, Asker(None, **known)) == opened
    with pytest.raises(PasscodeWrong):
        small.another().bundles.open(bundle.slug, Asker(None, passcode="wrong"))


def test_a_catalog_that_cannot_be_written_does_not_lock_anyone_out(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_outdated(small)

    def full(*_: object) -> None:
        raise StorageFull("full")

    monkeypatch.setattr(small.catalog, "update_bundle", full)
    assert small.bundles.open(bundle.slug, Asker(None, passcode=RIGHT)) == bundle
