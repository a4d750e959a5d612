"""Signed links: who has one reads one file, and no more often than it says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.world import OTHER_POOL, World, content
from tests.stores import put
from upwell.core.files import Form
from upwell.core.guesses import Asker
from upwell.core.links import NewLink
from upwell.errors import (
    FileNotFound,
    LinkNotFound,
    PasswordRequired,
    PasswordWrong,
    PreviewNotFound,
    ScopeMissing,
    ValidationFailed,
)
from upwell.model import Allowance, Scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.world import Core
    from upwell.core.files import OpenFile
    from upwell.core.links import SignedLink
    from upwell.model import CloudFile

DAY = timedelta(days=1)
ANYONE = Asker(None, "192.0.2.1")


def link_to(world: World, file: CloudFile, most: int | None = None) -> SignedLink:
    return world.links.create(world.me, file.id, NewLink(DAY, most))


def opened(core: Core, signed: SignedLink, **more: Any) -> tuple[OpenFile, Any]:
    return core.files.open_linked(signed.link.id, signed.signature, ANYONE, **more)


def download(core: Core, signed: SignedLink, start: int = 0, length: int | None = None) -> bytes:
    """A range, as the HTTP room reads it."""
    first, take = opened(core, signed)
    length = first.reader.size - start if length is None else length
    try:
        reader = take(length).reader
    except LinkNotFound:
        first.reader.close()
        raise
    with closing(reader):
        return bytes(reader.read_at(start, length))


def test_whoever_has_it_reads_the_file(world: World) -> None:
    data = content(100)
    signed = link_to(world, world.upload(world.me, data))
    for _ in range(3):
        assert download(world, signed) == data
    assert download(world.another(), signed, 10, 5) == data[10:15]
    assert signed.downloads_left is None


def test_it_lives_as_long_as_was_said(small: World) -> None:
    file, now = small.upload(small.me, b"x"), small.clock()
    for ends in (DAY, now + DAY):
        made = small.links.create(small.me, file.id, NewLink(ends))
        assert made.link.expires_at == now + DAY
    for ends in (timedelta(), now, now - DAY):
        with pytest.raises(ValidationFailed):
            small.links.create(small.me, file.id, NewLink(ends))
    small.clock.advance(days=1)
    with pytest.raises(LinkNotFound):
        download(small, made)
    assert small.links.of_file(small.me, file.id, 0, 9).items == []


def test_a_link_is_worth_nothing_without_its_signature(small: World) -> None:
    file, other = small.upload(small.me, b"x"), small.upload(small.me, b"y", file_name="y")
    signed, foreign = link_to(small, file), link_to(small, other)
    for link_id, signature in (
        (signed.link.id, ""),
        (signed.link.id, signed.signature[:-1]),
        (signed.link.id, foreign.signature),
        (signed.link.id, "ä\ud800"),
        ("0" * 32, signed.signature),
        (file.id, signed.signature),
    ):
        with pytest.raises(LinkNotFound):
            small.files.open_linked(link_id, signature, ANYONE)


@pytest.mark.parametrize(
    "away",
    [
        lambda world, file: world.files.delete(world.me, file.id),
        lambda world, _: world.clock.advance(hours=2),
        lambda world, file: world.links.revoke(
            world.me, world.links.of_file(world.me, file.id, 0, 9).items[0].link.id
        ),
    ],
    ids=["deleted", "expired", "revoked"],
)
def test_it_ends_with_its_file_or_its_owners_will(
    world: World, away: Callable[[World, CloudFile], Any]
) -> None:
    file = world.upload(world.me, b"x", expired_at=world.clock() + timedelta(hours=2))
    signed = link_to(world, file)
    away(world, file)
    with pytest.raises(LinkNotFound):
        download(world, signed)


def test_it_does_not_reach_into_the_recycle_bin(small: World) -> None:
    small.set_policy(enable_recycle=True)
    file = small.upload(small.me, b"x")
    signed = link_to(small, file)
    small.files.delete(small.me, file.id)
    with pytest.raises(LinkNotFound):
        download(small, signed)
    small.files.restore(small.me, file.id)
    assert download(small, signed) == b"x"


def test_only_its_owner_makes_lists_and_revokes(small: World) -> None:
    file = small.upload(small.me, b"x")
    signed = link_to(small, file)
    for who, file_id in ((small.stranger, file.id), (small.me, "0" * 32)):
        with pytest.raises(FileNotFound):
            small.links.create(who, file_id, NewLink(DAY))
        with pytest.raises(FileNotFound):
            small.links.of_file(who, file_id, 0, 9)
    for who, link_id in ((small.stranger, signed.link.id), (small.me, "0" * 32)):
        with pytest.raises(LinkNotFound):
            small.links.revoke(who, link_id)
    assert small.links.of_file(small.me, file.id, 0, 9).items == [signed]


def test_each_verb_wants_its_scope(small: World) -> None:
    file = small.upload(small.me, b"x")
    signed = link_to(small, file)
    reader = replace(small.me, scopes=frozenset({Scope.READ}))
    writer = replace(small.me, scopes=frozenset({Scope.WRITE}))
    for act in (
        lambda: small.links.create(reader, file.id, NewLink(DAY)),
        lambda: small.links.revoke(reader, signed.link.id),
        lambda: small.links.of_file(writer, file.id, 0, 9),
    ):
        with pytest.raises(ScopeMissing):
            act()


def test_an_encrypted_file_needs_its_password_too(small: World) -> None:
    signed = link_to(small, small.upload(small.me, b"sealed", password="p"), 1)
    with pytest.raises(PasswordRequired):
        opened(small, signed)
    with pytest.raises(PasswordWrong):
        opened(small, signed, password="q")
    _, take = opened(small, signed, password="p")  # what was refused has cost nothing
    with closing(take(6).reader) as reader:
        assert reader.read_at(0, 6) == b"sealed"


# what it costs


@pytest.mark.parametrize("size", [0, 1, 100])
def test_so_many_downloads_and_no_more(world: World, size: int) -> None:
    file = world.upload(world.me, content(size))
    signed = link_to(world, file, 2)
    for left in (2, 1):
        assert world.links.of_file(world.me, file.id, 0, 9).items[0].downloads_left == left
        assert download(world, signed) == content(size)
    assert world.links.of_file(world.me, file.id, 0, 9).items[0].downloads_left == 0
    for _ in range(2):
        with pytest.raises(LinkNotFound):
            opened(world, signed)


def test_a_download_in_pieces_is_one_download(small: World) -> None:
    data = content(100)
    signed = link_to(small, small.upload(small.me, data), 1)
    assert b"".join(download(small, signed, at, 10) for at in range(0, 100, 10)) == data
    with pytest.raises(LinkNotFound):
        download(small, signed, 0, 1)


def test_what_was_not_handed_out_is_given_back(small: World) -> None:
    data = content(100)
    signed = link_to(small, small.upload(small.me, data), 1)
    reader = opened(small, signed)[1](100).reader
    assert reader.read_at(0, 30) == data[:30]
    with pytest.raises(LinkNotFound):  # all of it is taken
        download(small, signed, 30, 1)
    reader.close()
    assert download(small, signed, 30) == data[30:]


def test_the_kernel_does_not_send_what_is_counted(world: World) -> None:
    file = world.upload(world.me, content(100))
    for most in (None, 1):
        first, take = opened(world, link_to(world, file, most))
        with closing(take(100).reader) as reader:
            by_kernel = reader.fileno() is not None
            assert by_kernel == (first.reader.fileno() is not None and most is None)


@pytest.mark.parametrize("form", [Form.THUMBNAIL, Form.PREVIEW])
def test_a_counted_link_gives_no_images(small: World, form: Form) -> None:
    file = small.upload(small.me, content(100))
    key = put(small.store, b"image")
    assert small.catalog.describe_blob(file.blob.id, {}, key, key)
    first, _ = opened(small, link_to(small, file), form=form)
    with closing(first.reader):
        assert first.reader.read_at(0, 9) == b"image"
    with pytest.raises(PreviewNotFound):
        opened(small, link_to(small, file, 5), form=form)


def test_a_file_that_is_moved_while_it_is_opened(
    small: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = small.upload(small.me, content(9))
    signed = link_to(small, file)
    real = small.store.open

    def late(key: str) -> Any:
        """Its bytes go to another pool between its row and them."""
        monkeypatch.setattr(small.store, "open", real)
        now = small.clock()
        there = put(small.homes[OTHER_POOL].store, content(9))
        blob = replace(file.blob, id="f" * 32, pool_id=OTHER_POOL, key=there)
        moved = small.catalog.move_file(file.id, small.me.account.id, blob, now, Allowance())
        assert moved is not None
        small.store.delete(key)
        return real(key)

    monkeypatch.setattr(small.store, "open", late)
    assert download(small, signed) == content(9)


@dataclass
class Account:
    """What a counted link has handed out, and what is being read through it."""

    most: int
    handed_out: int = 0
    reading: list[tuple[Any, int]] = field(default_factory=list)


acts = st.lists(
    st.tuples(
        st.sampled_from(["begin", "read", "end"]),
        st.integers(0, 30),
        st.integers(1, 30),
        st.integers(0, 5),
    ),
    max_size=40,
)


@pytest.mark.slow
@given(size=st.integers(1, 30), most=st.integers(1, 3), acts=acts)
def test_never_more_than_was_allowed(size: int, most: int, acts: list[Any]) -> None:
    """However ranges, pauses and aborts interleave, in two processes; and in the end the books
    are even."""
    with TemporaryDirectory() as folder:
        world = World(Path(folder), "memory")
        try:
            file = world.upload(world.me, content(size))
            signed = link_to(world, file, most)
            cores: list[Core] = [world, world.another()]
            account = Account(most * size)
            for act in acts:
                _act(cores, signed, account, act)
                assert account.handed_out <= account.most
            for reader, _ in account.reading:
                reader.close()
            link = world.catalog.link(signed.link.id, world.clock())
            assert link is not None
            assert link.allowance == account.most - account.handed_out
        finally:
            world.close()


def _act(cores: list[Core], signed: SignedLink, account: Account, act: Any) -> None:
    kind, start, length, which = act
    if kind == "begin":
        with suppress(LinkNotFound):
            first, take = opened(cores[which % 2], signed)
            start = min(start, first.reader.size - 1)
            account.reading.append((take(min(length, first.reader.size - start)).reader, start))
    elif account.reading:
        at = which % len(account.reading)
        reader, offset = account.reading[at]
        if kind == "end":
            reader.close()
            del account.reading[at]
        else:
            data = reader.read_at(offset, min(length, reader._left))
            account.handed_out += len(data)
            account.reading[at] = (reader, offset + len(data))


def test_many_at_once_in_two_processes(world: World) -> None:
    file = world.upload(world.me, content(50))
    signed = link_to(world, file, 5)
    cores: list[Core] = [world, world.another()]

    def attempt(number: int) -> int:
        try:
            return len(download(cores[number % 2], signed))
        except LinkNotFound:
            return 0

    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(attempt, range(24)))
    assert sorted(got) == [0] * 19 + [50] * 5
