"""Pools whose disk is not there: refused in a sentence, and no obstacle to the others."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.stores import put
from upwell import app
from upwell.config import Settings
from upwell.core.pools import NewPool
from upwell.errors import NotReady
from upwell.model import DEFAULT_POOL_ID, NewUpload, Policy, Principal, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from upwell.model import Pool


@pytest.fixture
def core(tmp_path: Path) -> Iterator[app.Core]:
    made = app.build(Settings(data=tmp_path / "data"))
    yield made
    made.close()


@pytest.fixture
def gone(core: app.Core, tmp_path: Path) -> Pool:
    """A pool whose disk has been taken away; its mount point is still there."""
    folder = tmp_path / "disk"
    folder.mkdir()
    with app.pool_registry(core.settings) as registry:
        pool = registry.create(NewPool("films", Policy(), path=str(folder)))
    core.homes.renew()
    assert put(core.homes[pool.id].store, b"here")
    shutil.rmtree(folder)
    folder.mkdir()
    return pool


def test_nothing_is_stored_under_a_mount_point(core: app.Core, gone: Pool, tmp_path: Path) -> None:
    restarted = app.open_homes(core.settings, core.catalog)
    with pytest.raises(NotReady, match="films"):
        restarted[gone.id]
    assert list((tmp_path / "disk").iterdir()) == []
    assert put(restarted[DEFAULT_POOL_ID].store, b"as ever")


def test_the_sweeper_and_verify_go_on_with_the_others(core: app.Core, gone: Pool) -> None:
    core.close()
    again = app.build(core.settings)
    try:
        key = put(again.homes[DEFAULT_POOL_ID].store, b"to be freed")
        with pytest.raises(NotReady):
            again.verbs.check()
        again.sweeper.sweep()
        assert again.homes[DEFAULT_POOL_ID].store.open(key)
        with app.verification(again.settings) as work:
            assert work.run().well
    finally:
        again.close()


def test_a_folder_that_is_back_is_used_again(core: app.Core, gone: Pool, tmp_path: Path) -> None:
    homes = app.open_homes(core.settings, core.catalog)
    with pytest.raises(NotReady):
        homes[gone.id]
    (tmp_path / "disk" / "blobs").mkdir()
    assert put(homes[gone.id].store, b"again")


def test_the_sweeper_goes_on_when_a_disk_fails_in_use(core: app.Core, gone: Pool) -> None:
    """Its store was opened before; what was deleted elsewhere is freed all the same."""
    owner = core.accounts.create("ada")
    ada = Principal(owner, frozenset(Scope), "token")
    new = NewUpload("a", 1, "x/y")
    file = core.uploads.store_direct(ada, new, b"a")
    assert core.catalog.delete_file(file.id, owner.id, app.utc_now())
    with pytest.raises(OSError, match="No such file"):
        list(core.homes[gone.id].store.list_keys())
    assert core.sweeper.sweep().freed == 1


def test_the_key_is_made_once(core: app.Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk does not keep a server from starting that has its key."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    assert app.server_key(core.settings).derive("x")
