"""The verbs of a stored file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.core.world import ALL, World, content, new_upload
from upwell.core.guesses import Asker
from upwell.errors import FileNotFound, ScopeMissing
from upwell.model import CloudFile, Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.model import Principal


def _reading(world: World, file_id: str) -> list[Callable[[Principal], object]]:
    return [
        lambda who: world.files.info(who, file_id),
        lambda who: world.files.open(Asker(who), file_id),
    ]


def _writing(world: World, file_id: str) -> list[Callable[[Principal], object]]:
    return [
        lambda who: world.files.rename(who, file_id, "b"),
        lambda who: world.files.set_meta(who, file_id, {"a": 1}),
        lambda who: world.files.set_marks(who, file_id, ["x"]),
        lambda who: world.files.delete(who, file_id),
    ]


def test_a_stranger_an_unknown_id_and_an_expired_file_look_the_same(world: World) -> None:
    until = world.clock() + timedelta(hours=1)
    file = world.upload(world.me, content(9), expired_at=until)
    mine = world.upload(world.me, content(9, 2))
    messages = set()
    verbs = _reading(world, file.id) + _writing(world, file.id)
    unknown = _reading(world, "0" * 32) + _writing(world, "0" * 32)
    for verb in verbs + unknown:
        with pytest.raises(FileNotFound) as refused:
            verb(world.stranger)
        messages.add(str(refused.value))
    world.clock.advance(hours=1)
    for verb in verbs:
        with pytest.raises(FileNotFound) as refused:
            verb(world.me)
        messages.add(str(refused.value))
    assert len(messages) == 1
    assert world.files.delete_many(world.stranger, [file.id, mine.id]) == []
    assert world.files.mine(world.stranger, 0, 10).total == 0
    assert [each.id for each in world.files.mine(world.me, 0, 10).items] == [mine.id]


def test_scopes(world: World) -> None:
    file = world.upload(world.me, content(9))
    reader = replace(world.me, scopes=frozenset({Scope.READ}))
    writer = replace(world.me, scopes=ALL - {Scope.READ})
    for verb in _writing(world, file.id):
        with pytest.raises(ScopeMissing):
            verb(reader)
    with pytest.raises(ScopeMissing):
        world.files.delete_many(reader, [file.id])
    for verb in _reading(world, file.id):
        with pytest.raises(ScopeMissing):
            verb(writer)
    with pytest.raises(ScopeMissing):
        world.files.mine(writer, 0, 10)
    assert world.read(reader, file.id) == content(9)


def test_changes_stay(world: World) -> None:
    file = world.upload(world.me, content(9))
    world.clock.advance(seconds=5)
    world.files.rename(world.me, file.id, "ü\n")
    world.files.set_meta(world.me, file.id, {"a": [1, {"b": None}]})
    changed = world.files.set_marks(world.me, file.id, ["x", "y"])
    assert changed == world.files.info(world.me, file.id)
    assert (changed.name, changed.user_meta) == ("ü\n", {"a": [1, {"b": None}]})
    assert changed.sensitive_marks == ("x", "y")
    assert changed.updated_at == world.clock()
    assert changed.created_at == file.created_at
    assert changed.blob == file.blob


def test_a_renamed_file_is_another_destination(world: World) -> None:
    file = world.upload(world.me, content(9))
    world.files.rename(world.me, file.id, "b")
    again = world.uploads.create(world.me, new_upload(content(9)))
    assert isinstance(again, CloudFile)
    assert (again.id == file.id, again.name) == (False, "a.bin")


def test_deleting_frees_the_bytes_of_the_last_that_shares_them(world: World) -> None:
    """I8."""
    first = world.upload(world.me, content(9))
    second = world.uploads.create(world.me, new_upload(content(9), file_name="b"))
    assert isinstance(second, CloudFile)
    world.files.delete(world.me, first.id)
    assert world.read(world.me, second.id) == content(9)
    with pytest.raises(FileNotFound):
        world.files.delete(world.me, first.id)
    world.files.delete(world.me, second.id)
    assert world.all_keys() == set()
    assert world.catalog.garbage(10) == []


def test_the_row_goes_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: a store that fails leaves bytes for the sweeper, never a row without bytes."""
    file = world.upload(world.me, content(9))

    def broken(_key: str) -> None:
        raise OSError(5, "cannot")

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "delete", broken)
        world.files.delete(world.me, file.id)
    with pytest.raises(FileNotFound):
        world.files.info(world.me, file.id)
    assert world.all_keys() == {file.blob.key}
    assert world.sweeper.sweep().freed == 1
    assert world.all_keys() == set()


def test_reading_goes_on_while_the_file_is_deleted(world: World) -> None:
    data = content(1000)
    file = world.upload(world.me, data)
    opened = world.files.open(Asker(world.me), file.id)
    with closing(opened.reader) as reader:
        assert reader.read_at(0, 10) == data[:10]
        world.files.delete(world.me, file.id)
        assert reader.read_at(10, 990) == data[10:]


def test_a_file_deleted_while_it_is_being_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = world.upload(world.me, content(9))
    real = world.store.open

    def late(key: str) -> object:
        monkeypatch.setattr(world.store, "open", real)
        world.files.delete(world.me, file.id)
        return real(key)

    monkeypatch.setattr(world.store, "open", late)
    with pytest.raises(FileNotFound):
        world.files.open(Asker(world.me), file.id)


def test_delete_many_says_what_it_deleted(world: World) -> None:
    files = [world.upload(world.me, content(9, seed)) for seed in range(3)]
    theirs = world.upload(world.stranger, content(9, 9))
    asked = [files[0].id, "0" * 32, theirs.id, files[0].id, files[2].id]
    assert world.files.delete_many(world.me, asked) == [files[0].id, files[2].id]
    assert world.all_keys() == {files[1].blob.key, theirs.blob.key}


def test_deletes_race(world: World) -> None:
    for seed in range(10):
        file = world.upload(world.me, content(9, seed))
        with ThreadPoolExecutor(4) as threads:
            done = list(
                threads.map(
                    lambda _, id_=file.id: world.files.delete_many(world.me, [id_]), range(4)
                )
            )
        assert sum(len(each) for each in done) == 1
    assert world.all_keys() == set()


def test_a_delete_and_a_share_race(world: World) -> None:
    """I2: whichever comes first, a file that exists has its bytes."""
    for seed in range(20):
        data = content(9, seed)
        file = world.upload(world.me, data)
        with ThreadPoolExecutor(2) as threads:
            deleted = threads.submit(world.files.delete, world.me, file.id)
            made = threads.submit(
                world.uploads.create, world.me, new_upload(data, file_name="other")
            )
        deleted.result()
        other = made.result()
        if isinstance(other, CloudFile):
            assert world.read(world.me, other.id) == data


def test_pages_newest_first(small: World) -> None:
    ids = []
    for seed in range(4):
        small.clock.advance(seconds=1)
        ids.append(small.upload(small.me, content(3, seed)).id)
    page = small.files.mine(small.me, 1, 2)
    assert ([file.id for file in page.items], page.total) == ([ids[2], ids[1]], 4)
