"""Every limit that is counted holds when all who come at once saw that there was room."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import KEY, OTHER_POOL, World, content, new_upload
from tests.harness import together
from upwell.core.bundles import NewBundle
from upwell.core.creating import Limits
from upwell.core.events import MAX_WEBHOOKS, Events
from upwell.core.files import Form
from upwell.core.guesses import BURST, Asker
from upwell.core.links import Links, NewLink, cost_of
from upwell.core.pools import NewPool, Registry
from upwell.core.uploads import Uploads
from upwell.errors import (
    AccountExists,
    LinkNotFound,
    LoginInvalid,
    PoolExists,
    QuotaExceeded,
    SlugTaken,
    TooManyGuesses,
    TooManyOpenUploads,
    TooManyUnsentBytes,
    UpwellError,
    ValidationFailed,
)
from upwell.model import (
    Allowance,
    JobKind,
    OpenLimits,
    OpenUploads,
    Policy,
    Principal,
    UploadTask,
)
from upwell.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

RACERS = 4
_WRITES = {
    "add_account",
    "add_bundle",
    "add_files",
    "add_job",
    "add_pool",
    "add_task",
    "add_webhook",
    "guess",
    "move_file",
    "spend_link",
    "take_login",
}


class Meeting:
    """A catalog whose callers have all looked before the first of them writes."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self._barrier = threading.Barrier(RACERS)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._real, name)
        if name not in _WRITES:
            return method

        def meet_first(*given: Any, **named: Any) -> Any:
            with suppress(threading.BrokenBarrierError):
                self._barrier.wait(5)
            return method(*given, **named)

        return meet_first


class Race:
    """A world whose verbs meet before they write, and what each racer is to try."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.racing = world.another(Meeting(world.catalog))
        self.me = world.me

    def with_quota(self, quota: int) -> Principal:
        account = self.me.account
        self.world.catalog.set_quota(account.id, quota)
        return replace(self.me, account=replace(account, quota=quota))

    def uploads(self, limits: OpenLimits) -> Uploads:
        core = self.racing
        return Uploads(
            core.catalog, core.homes, core.clock, KEY, limits=Limits(hash_threads=1, open=limits)
        )


def webhooks(race: Race) -> Callable[[int], object]:
    for _ in range(MAX_WEBHOOKS - 1):
        Events(race.world.catalog, race.world.clock, KEY).add_webhook(race.me, "http://a.example")
    events = Events(race.racing.catalog, race.world.clock, KEY)
    return lambda _: events.add_webhook(race.me, "http://a.example")


def open_uploads(race: Race) -> Callable[[int], object]:
    race.world.uploads.create(race.me, new_upload(b"", digest=None))
    uploads = race.uploads(OpenLimits(count=2))
    return lambda _: uploads.create(race.me, new_upload(b"", digest=None))


def unsent_bytes(race: Race) -> Callable[[int], object]:
    uploads = race.uploads(OpenLimits(unsent_bytes=100))
    return lambda _: uploads.create(race.me, new_upload(content(60), digest=None))


def quota_of_the_account(race: Race) -> Callable[[int], object]:
    me = race.with_quota(100)
    return lambda _: race.racing.uploads.create(me, new_upload(content(60), digest=None))


def quota_of_the_account_by_direct(race: Race) -> Callable[[int], object]:
    me = race.with_quota(100)

    def store(at: int) -> object:
        data = content(60, at)
        return race.racing.uploads.store_direct(me, new_upload(data), data)

    return store


def quota_of_the_pool(race: Race) -> Callable[[int], object]:
    race.world.set_policy(quota=100)
    return lambda _: race.racing.uploads.create(race.me, new_upload(content(60), digest=None))


def quota_by_moves_of_shared_bytes(race: Race) -> Callable[[int], object]:
    data, account = content(60), race.me.account.id
    named = [new_upload(data, file_name=str(at)) for at in range(RACERS + 1)]
    files = [race.world.uploads.store_direct(race.me, each, data) for each in named]

    def move(at: int) -> object:
        blob = replace(files[at].blob, id=str(at), key=str(at), pool_id=OTHER_POOL)
        room, now = Allowance(account=120), race.world.clock()
        return race.racing.catalog.move_file(files[at].id, account, blob, now, room)

    return move


def downloads_of_a_link(race: Race) -> Callable[[int], object]:
    file = race.world.upload(race.me, content(30))
    link = race.world.links.create(race.me, file.id, NewLink(timedelta(days=1), 1))
    links = Links(race.racing.catalog, race.world.clock, KEY)

    def download(_: int) -> object:
        found, linked = links.open(link.link.id, link.signature)
        opened = race.racing.files.open(Asker(race.me), linked.id, Form.CONTENT, None)
        return links.metered(found, opened, cost_of(linked.size))

    return download


def login_codes(race: Race) -> Callable[[int], object]:
    code = race.world.accounts.invite(race.me.account)
    return lambda _: race.racing.accounts.log_in(code)


def guesses(race: Race) -> Callable[[int], object]:
    asker = Asker(race.me)
    for _ in range(BURST - 1):
        race.world.bundles._guesses.count("thing", asker)
    return lambda _: race.racing.bundles._guesses.count("thing", asker)


def folders_of_pools(race: Race) -> Callable[[int], object]:
    homes: Any = race.racing.homes
    homes.make_store = lambda _: MemoryStore(clock=race.world.clock)
    registry = Registry(race.racing.catalog, homes, race.world.clock)
    folder = race.world.folder / "shared"
    return lambda at: registry.create(NewPool(str(at), Policy(), str(folder / str(at) / "..")))


def names_of_pools(race: Race) -> Callable[[int], object]:
    homes: Any = race.racing.homes
    registry = Registry(race.racing.catalog, homes, race.world.clock)
    return lambda _: registry.create(NewPool("same", Policy()))


def names_of_accounts(race: Race) -> Callable[[int], object]:
    return lambda _: race.racing.accounts.create("same")


def slugs(race: Race) -> Callable[[int], object]:
    return lambda _: race.racing.bundles.create(race.me, NewBundle("b", slug="same"))


LIMITS = [
    (webhooks, QuotaExceeded),
    (open_uploads, TooManyOpenUploads),
    (unsent_bytes, TooManyUnsentBytes),
    (quota_of_the_account, QuotaExceeded),
    (quota_of_the_account_by_direct, QuotaExceeded),
    (quota_of_the_pool, QuotaExceeded),
    (quota_by_moves_of_shared_bytes, QuotaExceeded),
    (downloads_of_a_link, LinkNotFound),
    (login_codes, LoginInvalid),
    (guesses, TooManyGuesses),
    (folders_of_pools, ValidationFailed),
    (names_of_pools, PoolExists),
    (names_of_accounts, AccountExists),
    (slugs, SlugTaken),
]


@pytest.mark.parametrize(("limit", "refusal"), LIMITS, ids=lambda each: each.__name__)
def test_a_limit_holds_when_all_come_at_once(
    small: World, limit: Callable[[Race], Callable[[int], object]], refusal: type[UpwellError]
) -> None:
    """There is room for one more, and each of four sees that before the first takes it."""
    attempt = limit(Race(small))

    def outcome(at: int) -> type[UpwellError] | None:
        try:
            attempt(at)
        except UpwellError as error:
            return type(error)
        return None

    outcomes = together([lambda at=at: outcome(at) for at in range(RACERS)])  # type: ignore[misc]
    assert sorted(outcomes, key=str) == sorted([None, *[refusal] * (RACERS - 1)], key=str)


def test_a_move_that_waits_is_asked_for_once(small: World) -> None:
    file = small.upload(small.me, content(20))
    small.set_policy(OTHER_POOL, accept_types=())
    racing = small.another(Meeting(small.catalog))
    jobs = together([lambda: racing.pools.move(small.me, file.id, OTHER_POOL)] * RACERS)
    assert len({job.id for job in jobs}) == 1
    assert small.catalog.jobs(JobKind.MOVE, file.id, 0, 9).total == 1


@pytest.fixture
def capped(small: World) -> World:
    """A world in which an account may have two uploads in progress, of 100 bytes unsent."""
    limits = Limits(hash_threads=1, open=OpenLimits(2, 100))
    small.uploads.close()
    small.uploads = Uploads(small.catalog, small.homes, small.clock, KEY, limits=limits)
    return small


def held(world: World, who: Principal) -> OpenUploads:
    return world.catalog.open_uploads(who.account.id, world.clock())


def begin(world: World, who: Principal, data: bytes) -> UploadTask:
    made = world.uploads.create(who, new_upload(data))
    assert isinstance(made, UploadTask)
    return made


def test_uploads_in_progress_are_limited(capped: World) -> None:
    first, _ = begin(capped, capped.me, content(10, 1)), begin(capped, capped.me, content(10, 2))
    with pytest.raises(TooManyOpenUploads) as refused:
        begin(capped, capped.me, content(10, 3))
    assert refused.value.meta == {"limit": 2, "open_uploads": 2}
    assert refused.value.retry_after
    assert len(capped.all_keys()) == 2
    begin(capped, capped.stranger, content(10, 3))
    data = content(10, 4)
    capped.uploads.store_direct(capped.me, new_upload(data), data)

    assert begin(capped, capped.me, content(10, 1)).id == first.id
    capped.uploads.cancel(capped.me, first.id)
    begin(capped, capped.me, content(10, 3))
    capped.clock.advance(days=8)  # what has expired does not count, swept or not
    assert held(capped, capped.me) == OpenUploads()
    begin(capped, capped.me, content(10, 5))


def test_bytes_that_were_not_sent_are_limited(capped: World) -> None:
    """One upload may be of any size. What was sent leaves room for the next."""
    data = content(150)
    large = begin(capped, capped.me, data)
    with pytest.raises(TooManyUnsentBytes) as refused:
        begin(capped, capped.me, content(1, 1))
    assert refused.value.meta == {"limit": 100, "unsent_bytes": 150, "needed": 1}
    assert begin(capped, capped.me, data).id == large.id
    empty = begin(capped, capped.me, b"")
    assert held(capped, capped.me) == OpenUploads(2, 150)
    capped.uploads.complete(capped.me, empty.id)
    capped.send_all(capped.me, large, data, range(10))
    assert held(capped, capped.me) == OpenUploads(1, 70)
    with pytest.raises(TooManyUnsentBytes):
        begin(capped, capped.me, content(31, 1))
    begin(capped, capped.me, content(30, 1))
    assert held(capped, capped.me) == OpenUploads(2, 100)


def test_the_same_upload_asked_for_by_many_is_one_at_the_limit(small: World) -> None:
    """Those who come second find the task of the first, which took the last room."""
    race = Race(small)
    uploads = race.uploads(OpenLimits(1, 10))
    made = together([lambda: uploads.create(small.me, new_upload(content(20)))] * RACERS)
    assert len({each.id for each in made}) == 1
    assert held(small, small.me) == OpenUploads(1, 20)
