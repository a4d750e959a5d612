"""Pools whose disk is not there: refused in a sentence, and no obstacle to the others."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from upwell import app
from upwell.config import Settings
from upwell.core.pools import NewPool
from upwell.errors import NotReady
from upwell.model import DEFAULT_POOL_ID, Policy

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
    assert core.homes[pool.id].store.put(b"here")
    shutil.rmtree(folder)
    folder.mkdir()
    return pool


def test_nothing_is_stored_under_a_mount_point(core: app.Core, gone: Pool, tmp_path: Path) -> None:
    restarted = app.open_homes(core.settings, core.catalog)
    with pytest.raises(NotReady, match="films"):
        restarted[gone.id]
    assert list((tmp_path / "disk").iterdir()) == []
    assert restarted[DEFAULT_POOL_ID].store.put(b"as ever")


def test_the_sweeper_and_verify_go_on_with_the_others(core: app.Core, gone: Pool) -> None:
    core.close()
    again = app.build(core.settings)
    try:
        key = again.homes[DEFAULT_POOL_ID].store.put(b"to be freed")
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
    assert homes[gone.id].store.put(b"again")
