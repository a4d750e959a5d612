"""The verbs of a bundle."""

from __future__ import annotations

import io
import re
import zipfile
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.core.world import ALL, Recorder, content, new_upload, open_catalog
from upwell.core import age, passcodes
from upwell.core.bundles import NewBundle, public_facts
from upwell.core.creating import Senses
from upwell.core.files import Form
from upwell.core.guesses import BURST, INTERVAL, Asker
from upwell.errors import (
    AuthRequired,
    BundleNotFound,
    FileNotFound,
    PasscodeRequired,
    PasscodeWrong,
    ScopeMissing,
    SlugTaken,
    StorageFull,
    TaskNotFound,
    TooManyGuesses,
    ValidationFailed,
)
from upwell.jobs.moves import Moves
from upwell.jobs.runner import Runner, Work
from upwell.model import CloudFile, JobKind, Policy, Principal, Scope, UploadTask

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.world import Core, World
    from upwell.core.zips import Plan
    from upwell.model import Bundle

GUID = "5d1f0a52-73c4-4d5e-9f4e-0d8f6a1c2b3d"
UNKNOWN = "00000000-0000-4000-8000-0000000000ff"
WRONG = "not it"
RIGHT = "öpen sesame"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes and derivations of a millisecond."""
    monkeypatch.setattr(passcodes, "_MEMORY", 64)
    monkeypatch.setattr(passcodes, "_PASSES", 1)
    monkeypatch.setattr(age, "LOG_N", 10)


def make(world: World, name: str = "holiday", **fields: Any) -> Bundle:
    return world.bundles.create(world.me, NewBundle(name, **fields))


def put_in(world: World, bundle: Bundle, data: bytes, **fields: Any) -> CloudFile:
    return world.upload(world.me, data, bundle_id=bundle.id, **fields)


def someone(address: str = "192.0.2.1", **known: Any) -> Asker:
    return Asker(None, address, **known)


def test_a_slug_is_made_up_and_hard_to_guess(small: World) -> None:
    slugs = {make(small).slug for _ in range(50)}
    assert len(slugs) == 50
    assert all(re.fullmatch("[a-z0-9]{14}", slug) for slug in slugs)


def test_a_slug_is_taken_once_until_its_bundle_expires(small: World) -> None:
    first = make(small, slug="trip", expired_at=small.clock() + timedelta(hours=1))
    with pytest.raises(SlugTaken):
        small.bundles.create(small.stranger, NewBundle("mine", slug="trip"))
    other = make(small, slug="other")
    with pytest.raises(SlugTaken):
        small.bundles.update(small.me, other.id, {"slug": "trip"})
    small.clock.advance(hours=1)
    taken = small.bundles.create(small.stranger, NewBundle("mine", slug="trip"))
    assert small.bundles.open("trip", someone()) == taken != first


@pytest.mark.parametrize(
    "verb",
    [
        lambda core, who, id_: core.bundles.get(who, id_),
        lambda core, who, id_: core.bundles.files(who, id_, 0, 9),
        lambda core, who, id_: core.bundles.update(who, id_, {"name": "x", "passcode": "y"}),
        lambda core, who, id_: core.bundles.delete(who, id_),
    ],
)
def test_a_strangers_bundle_is_unknown(
    small: World, verb: Callable[[Core, Principal, str], Any]
) -> None:
    bundle = make(small)
    for who, id_ in ((small.stranger, bundle.id), (small.me, UNKNOWN)):
        with pytest.raises(BundleNotFound, match="of yours"):
            verb(small, who, id_)
    small.clock.advance(seconds=1)
    assert small.bundles.get(small.me, bundle.id) == bundle
    verb(small, small.me, bundle.id)


def test_each_verb_wants_its_scope(small: World) -> None:
    bundle = make(small)
    reader = replace(small.me, scopes=frozenset({Scope.READ}))
    writer = replace(small.me, scopes=ALL - {Scope.READ})
    for act in (
        lambda: small.bundles.create(reader, NewBundle("x")),
        lambda: small.bundles.update(reader, bundle.id, {"name": "x"}),
        lambda: small.bundles.delete(reader, bundle.id),
        lambda: small.bundles.place(reader, "x", None),
        lambda: small.bundles.get(writer, bundle.id),
        lambda: small.bundles.mine(writer, 0, 9),
    ):
        with pytest.raises(ScopeMissing):
            act()


def test_an_end_lies_ahead(small: World) -> None:
    now = small.clock()
    with pytest.raises(ValidationFailed):
        make(small, expired_at=now)
    bundle = make(small)
    with pytest.raises(ValidationFailed):
        small.bundles.update(small.me, bundle.id, {"expired_at": now})


def test_its_files_do_not_outlive_it(small: World) -> None:
    soon, later = small.clock() + timedelta(hours=1), small.clock() + timedelta(hours=2)
    bundle = make(small, expired_at=soon)
    inside = put_in(small, bundle, b"inside", expired_at=later)
    placed = small.upload(small.me, b"placed", file_name="p")
    assert small.bundles.place(small.me, placed.id, bundle.id).expired_at == soon
    assert small.files.info(small.me, inside.id).expired_at == soon
    small.bundles.update(small.me, bundle.id, {"expired_at": later})
    assert small.files.info(small.me, inside.id).expired_at == later
    small.clock.advance(hours=2)
    with pytest.raises(BundleNotFound):
        small.bundles.get(small.me, bundle.id)
    with pytest.raises(BundleNotFound):
        small.bundles.open(bundle.slug, someone())
    for file in (inside, placed):
        with pytest.raises(FileNotFound):
            small.files.info(small.me, file.id)


def test_a_file_goes_in_and_out(small: World) -> None:
    bundle, file = make(small), small.upload(small.me, b"x")
    with pytest.raises(AuthRequired):
        small.open(None, file.id)
    assert small.bundles.place(small.me, file.id, bundle.id).bundle_id == bundle.id
    assert small.open(None, file.id) == b"x"
    assert small.bundles.count(bundle) == 1
    assert small.bundles.place(small.me, file.id, None).bundle_id is None
    with pytest.raises(AuthRequired):
        small.open(None, file.id)
    assert small.bundles.count(bundle) == 0


@pytest.mark.parametrize("asked", [None, timedelta(days=3)])
def test_an_upload_in_progress_outlives_a_deleted_bundle(
    small: World, asked: timedelta | None
) -> None:
    own = asked and small.clock() + asked
    bundle = make(small, expired_at=small.clock() + timedelta(hours=1))
    task = small.uploads.create(small.me, new_upload(b"x", bundle_id=bundle.id, expired_at=own))
    assert isinstance(task, UploadTask)
    small.send_all(small.me, task, b"x")
    small.bundles.delete(small.me, bundle.id)
    file = small.uploads.complete(small.me, task.id)
    assert (file.bundle_id, file.expired_at) == (None, own)


@pytest.mark.parametrize("swept", [False, True])
def test_an_upload_in_progress_ends_with_its_bundle(small: World, swept: bool) -> None:
    end = small.clock() + timedelta(hours=1)
    bundle = make(small, expired_at=end)
    tasks = [
        small.uploads.create(small.me, new_upload(data, bundle_id=bundle.id))
        for data in (b"x", b"y")
    ]
    first, second = tasks
    assert isinstance(first, UploadTask)
    assert isinstance(second, UploadTask)
    small.send_all(small.me, first, b"x")
    small.send_all(small.me, second, b"y")
    file = small.uploads.complete(small.me, first.id)
    assert (file.bundle_id, file.expired_at) == (bundle.id, end)
    small.clock.advance(hours=1)
    if swept:
        small.sweeper.sweep()
    with pytest.raises(TaskNotFound):
        small.uploads.complete(small.me, second.id)


def test_only_ones_own_file_goes_into_ones_own_bundle(small: World) -> None:
    mine, file = make(small), small.upload(small.me, b"x")
    theirs = small.bundles.create(small.stranger, NewBundle("theirs"))
    foreign = small.upload(small.stranger, b"y")
    for file_id in (foreign.id, "0" * 32):
        for bundle_id in (mine.id, None):
            with pytest.raises(FileNotFound):
                small.bundles.place(small.me, file_id, bundle_id)
    for bundle_id in (theirs.id, UNKNOWN):
        with pytest.raises(BundleNotFound):
            small.bundles.place(small.me, file.id, bundle_id)
    assert small.files.info(small.me, file.id) == file


def test_deleting_it_empties_it_into_the_recycle_bin(world: World) -> None:
    world.set_policy(enable_recycle=True)
    bundle = make(world)
    file = put_in(world, bundle, b"x")
    world.bundles.delete(world.me, bundle.id)
    assert [f.id for f in world.files.mine(world.me, 0, 9, recycled=True).items] == [file.id]
    with pytest.raises(AuthRequired):
        world.open(None, file.id)
    restored = world.files.restore(world.me, file.id)
    assert restored.bundle_id is None
    assert world.read(world.me, file.id) == b"x"


def test_deleting_it_deletes_its_files_where_there_is_no_bin(world: World) -> None:
    bundle = make(world)
    file = put_in(world, bundle, b"x")
    world.bundles.delete(world.me, bundle.id)
    with pytest.raises(FileNotFound):
        world.files.info(world.me, file.id)
    world.sweeper.sweep()
    assert world.all_keys() == set()


# passcodes


def test_i9_a_passcode_is_kept_as_argon2id(small: World) -> None:
    new = NewBundle("x", passcode="hunter2-hunter2")
    bundle = small.bundles.create(small.me, new)
    assert bundle.passcode_hash is not None
    assert bundle.passcode_hash.startswith("$argon2id$v=19$")
    assert "hunter2" not in repr(new) + repr(bundle) + repr(someone(passcode="hunter2"))
    assert bundle.passcode_hash not in repr(bundle)
    small.catalog.close()
    assert b"hunter2" not in small.database()
    small.wire(open_catalog(small.folder))


def test_who_may_open_it(small: World) -> None:
    bundle = make(small, passcode=RIGHT)
    with pytest.raises(PasscodeRequired):
        small.bundles.open(bundle.slug, someone())
    for asker in (someone(passcode=WRONG), Asker(small.stranger, passcode=WRONG)):
        with pytest.raises(PasscodeWrong):
            small.bundles.open(bundle.slug, asker)
    with pytest.raises(PasscodeRequired):
        small.bundles.open(bundle.slug, Asker(small.stranger))
    for asker in (someone(passcode=RIGHT), Asker(small.me), Asker(small.me, passcode=WRONG)):
        assert small.bundles.open(bundle.slug, asker) == bundle
    with pytest.raises(BundleNotFound):
        small.bundles.open("unknown", someone(passcode=RIGHT))


def test_a_proof_is_worth_something_until_the_passcode_changes(small: World) -> None:
    bundle, other = make(small, passcode=RIGHT), make(small, passcode=RIGHT)
    proven = someone(proof=small.bundles.prove(bundle))
    assert small.bundles.open(bundle.slug, proven) == bundle
    assert small.another().bundles.open(bundle.slug, proven) == bundle
    for proof in ("", "x", "\ud800", small.bundles.prove(other)):
        with pytest.raises(PasscodeRequired):
            small.bundles.open(bundle.slug, someone(proof=proof))
    renamed = small.bundles.update(small.me, bundle.id, {"name": "new"})
    assert small.bundles.open(bundle.slug, proven) == renamed
    small.bundles.update(small.me, bundle.id, {"passcode": RIGHT})
    with pytest.raises(PasscodeRequired):
        small.bundles.open(bundle.slug, proven)


def test_a_passcode_can_be_given_and_taken_away(small: World) -> None:
    bundle = make(small)
    assert small.bundles.open(bundle.slug, someone()) == bundle
    small.bundles.update(small.me, bundle.id, {"passcode": RIGHT})
    with pytest.raises(PasscodeRequired):
        small.bundles.open(bundle.slug, someone())
    small.bundles.update(small.me, bundle.id, {"passcode": None})
    assert small.bundles.open(bundle.slug, someone()).passcode_hash is None


def test_guesses_are_counted_across_processes(small: World) -> None:
    bundle = make(small, passcode=RIGHT)
    cores: list[Core] = [small, small.another()]
    for turn in range(BURST):
        with pytest.raises(PasscodeWrong):
            cores[turn % 2].bundles.open(bundle.slug, someone(passcode=WRONG))
    for core in cores:  # not even the right one: it is not looked at
        with pytest.raises(TooManyGuesses) as caught:
            core.bundles.open(bundle.slug, someone(passcode=RIGHT))
        assert 0 < (caught.value.retry_after or 0) <= INTERVAL.total_seconds()
    assert small.bundles.open(bundle.slug, someone("198.51.100.7", passcode=RIGHT)) == bundle
    small.clock.advance(seconds=INTERVAL.total_seconds())
    assert small.bundles.open(bundle.slug, someone(passcode=RIGHT)) == bundle
    with pytest.raises(PasscodeWrong):  # the right one made the count begin anew
        small.bundles.open(bundle.slug, someone(passcode=WRONG))


def test_who_knows_it_is_not_locked_out_by_those_who_guess(small: World) -> None:
    bundle = make(small, passcode=RIGHT)
    assert small.bundles.open(bundle.slug, someone(passcode=RIGHT)) == bundle
    for _ in range(BURST + 1):
        with pytest.raises((PasscodeWrong, TooManyGuesses)):
            small.bundles.open(bundle.slug, someone(passcode=WRONG))
    assert small.bundles.open(bundle.slug, someone(passcode=RIGHT)) == bundle  # known from before


# its files


def test_a_file_of_it_is_read_with_the_passcode(small: World) -> None:
    bundle = make(small, passcode=RIGHT)
    file = put_in(small, bundle, b"secret")
    assert small.open(None, file.id, passcode=RIGHT) == b"secret"
    assert small.open(small.stranger, file.id, passcode=RIGHT) == b"secret"
    assert small.open(None, file.id, proof=small.bundles.prove(bundle)) == b"secret"
    with pytest.raises(PasscodeWrong):
        small.open(None, file.id, passcode=WRONG)
    with pytest.raises(AuthRequired):  # as for a file that is not there
        small.open(None, file.id)
    with pytest.raises(FileNotFound):
        small.open(small.stranger, file.id)


def test_an_opened_bundle_gives_its_own_files_only(small: World) -> None:
    bundle, other = make(small), make(small, "other")
    inside = put_in(small, bundle, b"in", file_name="in")
    outside = [
        put_in(small, other, b"out", file_name="out"),
        small.upload(small.me, b"alone", file_name="alone"),
        small.upload(small.stranger, b"theirs"),
    ]
    opened = small.files.open_shared(bundle, someone(), inside.id)
    with closing(opened.reader):
        assert opened.reader.read_at(0, 9) == b"in"
    for file_id in (*(file.id for file in outside), "0" * 32):
        with pytest.raises(FileNotFound):
            small.files.open_shared(bundle, someone(), file_id)


def test_strangers_do_not_get_the_stored_object(small: World) -> None:
    bundle = make(small)
    file = put_in(small, bundle, b"x" * 50, password="p")
    assert small.open(small.me, file.id, Form.RAW).startswith(b"age-encryption.org/v1")
    with pytest.raises(AuthRequired):
        small.open(None, file.id, Form.RAW)
    with pytest.raises(FileNotFound):
        small.open(small.stranger, file.id, Form.RAW)


def test_strangers_are_not_told_where_it_was_made(small: World) -> None:
    file = small.upload(small.me, b"x")
    assert public_facts(file) == {}
    facts = {"kind": "image", "location": {"latitude": 52.5}, "width": 1}
    told = public_facts(replace(file, blob=replace(file.blob, facts=facts)))
    assert told == {"kind": "image", "width": 1}
    assert "location" in facts


def planned(core: Core, bundle: Bundle) -> Plan:
    """The plan of a bundle as it is now."""
    now = core.catalog.bundle(bundle.id, bundle.account_id, core.clock())
    assert now is not None
    return core.bundles.plan(now)


def archived(core: Core, bundle: Bundle) -> zipfile.ZipFile:
    with closing(core.bundles.archive(planned(core, bundle))) as archive:
        return zipfile.ZipFile(io.BytesIO(archive.read_at(0, archive.size + 1)))


def test_a_full_disk_does_not_break_a_download(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = world.bundles.create(world.me, NewBundle("b"))
    world.upload(world.me, b"one", file_name="a.txt", bundle_id=bundle.id)

    def full(*_: object) -> None:
        raise StorageFull("full")

    monkeypatch.setattr(world.catalog, "set_crc32", full)
    with archived(world, bundle) as archive:
        assert archive.testzip() is None


def test_all_of_it_as_one_archive(world: World) -> None:
    bundle = make(world)
    contents = {"a.txt": b"one", "ä/../b.txt": b"two" * 99, "empty": b""}
    for name, data in contents.items():
        world.clock.advance(seconds=2)
        put_in(world, bundle, data, file_name=name)
    twin = put_in(world, bundle, b"another", file_name="A.TXT")
    locked = put_in(world, bundle, b"sealed" * 20, file_name="c.txt", password="p")
    with archived(world, bundle) as archive:
        assert archive.testzip() is None
        names = ["a.txt", "ä/b.txt", "empty", "A (2).TXT", "c.txt.age"]
        assert sorted(archive.namelist()) == sorted(names)
        assert archive.read("a.txt") == b"one"
        assert archive.read("A (2).TXT") == b"another"
        assert archive.read("c.txt.age") == world.open(world.me, locked.id, Form.RAW)
    assert world.files.info(world.me, twin.id).blob.crc32 is not None  # learned


def test_an_archive_of_many_is_planned_in_one_read(small: World) -> None:
    """Each has its place once, whatever is put in meanwhile; and the pages of a large bundle
    would each count all of it."""
    bundle = make(small)
    ids = {put_in(small, bundle, content(9, seed), file_name=f"{seed}").id for seed in range(5)}
    small.bundles = small.another(recorder := Recorder(small.catalog)).bundles
    assert len(archived(small, bundle).namelist()) == len(ids) == 5
    assert recorder.calls.count("bundle_files") == 1


def test_an_archive_is_named_by_what_is_in_it(small: World) -> None:
    bundle = make(small)
    put_in(small, bundle, b"one", file_name="a")
    first = planned(small, bundle).etag
    assert planned(small.another(), bundle).etag == first
    archived(small, bundle)  # learns the checksums
    assert planned(small, bundle).etag == first
    put_in(small, bundle, b"two", file_name="b")
    assert planned(small, bundle).etag != first


class Scene:
    """A bundle that was planned, with a file that something is done to, and another bundle."""

    def __init__(self, world: World) -> None:
        self.world, self.me = world, world.me
        self.one, self.two = make(world), make(world)
        self.file = put_in(world, self.one, b"one", file_name="one")
        put_in(world, self.one, b"other", file_name="other")
        planned(world, self.one)

    def place(self, file: CloudFile, bundle: Bundle | None) -> None:
        self.world.bundles.place(self.me, file.id, bundle.id if bundle else None)

    def share(self) -> None:
        again = new_upload(b"one", file_name="twin", bundle_id=self.one.id)
        assert isinstance(self.world.uploads.create(self.me, again), CloudFile)

    def recycle(self) -> None:
        self.world.set_policy(enable_recycle=True)
        self.world.files.delete(self.me, self.file.id)

    def restore(self) -> None:
        self.recycle()
        planned(self.world, self.one)
        self.world.files.restore(self.me, self.file.id)

    def expire(self) -> None:
        in_an_hour = self.world.clock() + timedelta(hours=1)
        put_in(self.world, self.one, b"short", expired_at=in_an_hour)
        planned(self.world, self.one)
        self.world.clock.advance(hours=2)

    def sweep(self) -> None:
        self.expire()
        planned(self.world, self.one)
        self.world.sweeper.sweep()

    def move(self) -> None:
        world = self.world
        world.add_pool(GUID, "third", Policy(public_usable=True))
        world.pools.move(self.me, self.file.id, GUID)
        work = Moves(world.catalog, world.homes, world.clock, None, Senses())
        Runner(world.catalog, world.clock, {JobKind.MOVE: Work(work.do, ())}).run_due()
        assert world.files.info(self.me, self.file.id).pool_id == GUID

    def repair(self) -> None:
        """As verify does it: a copy of the bytes takes their place."""
        store, blob = self.world.store, self.file.blob
        with store.intake() as intake:
            key = intake.put(b"one")
            assert self.world.catalog.rekey_blob(blob.id, key, self.world.clock())
        self.world.sweeper.sweep()


CHANGES: dict[str, Callable[[Scene], object]] = {
    "put in": lambda s: put_in(s.world, s.one, b"new", file_name="new"),
    "place": lambda s: s.place(s.world.upload(s.me, b"p"), s.one),
    "take out": lambda s: s.place(s.file, None),
    "to another": lambda s: s.place(s.file, s.two),
    "from another": lambda s: s.place(put_in(s.world, s.two, b"t"), s.one),
    "rename": lambda s: s.world.files.rename(s.me, s.file.id, "renamed"),
    "share": Scene.share,
    "delete": lambda s: s.world.files.delete(s.me, s.file.id),
    "recycle": Scene.recycle,
    "restore": Scene.restore,
    "expire": Scene.expire,
    "sweep": Scene.sweep,
    "move": Scene.move,
    "repair": Scene.repair,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_kept_plan_is_never_out_of_date(small: World, change: str) -> None:
    """Whatever changes the files of a bundle, another process, which has no plan of it yet, makes
    the same archive."""
    scene = Scene(small)
    CHANGES[change](scene)
    kept, fresh = planned(small, scene.one), planned(small.another(), scene.one)
    assert kept is planned(small, scene.one)
    assert (kept.etag, kept.size) == (fresh.etag, fresh.size)
    with archived(small, scene.one) as archive:
        assert archive.testzip() is None


def test_a_bundle_is_planned_once_until_it_changes(small: World) -> None:
    bundle = make(small)
    put_in(small, bundle, b"one", file_name="one")
    small.bundles = small.another(recorder := Recorder(small.catalog)).bundles
    for _ in range(3):
        archived(small, bundle).testzip()
    assert recorder.calls.count("bundle_files") == 1
    assert recorder.calls.count("set_crc32") == 1  # what one archive learned, the next one knows
