"""What a data folder keeps for its recovery: the snapshot, the journal, the lock."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.catalogs import migrated
from upwell.catalog import (
    FolderCatalog,
    claim_folder,
    integrity_problem,
    journal_of,
    restore_catalog,
)
from upwell.catalog import sqlite as sqlite_module
from upwell.catalog.folder import CATALOG, _Pauses
from upwell.catalog.journal import Journal
from upwell.catalog.turns import FileLock
from upwell.core.ports import NewFile, Noted
from upwell.errors import NotReady, QuotaExceeded
from upwell.jobs.sweep import Sweeper
from upwell.model import (
    DEFAULT_POOL_ID,
    Account,
    Allowance,
    Blob,
    Bundle,
    CloudFile,
    Digest,
    Layout,
    Policy,
    Pool,
    Scope,
    Seal,
    Sealed,
    TaskStatus,
    Token,
    UploadTask,
    Webhook,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
HOUR = timedelta(hours=1)
FREE = Allowance()
OTHER = "00000000-0000-4000-8000-000000000002"
ANN = Account("a" * 32, "ann ☃", is_admin=True, created_at=NOW)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[FolderCatalog]:
    migrated(tmp_path / CATALOG)
    with closing(FolderCatalog.open_folder(tmp_path)) as opened:
        yield opened


def file_of(content: bytes) -> CloudFile:
    digest = hashlib.sha256(content).hexdigest()
    blob = Blob(digest[:32], DEFAULT_POOL_ID, digest[32:], len(content), {"sha256": digest}, NOW)
    return CloudFile(
        id=digest[:32],
        account_id=ANN.id,
        pool_id=DEFAULT_POOL_ID,
        bundle_id=None,
        blob=blob,
        name="ä\n.txt",
        mime_type="text/plain",
        digest=Digest("sha256", digest),
        expired_at=NOW + HOUR,
        created_at=NOW,
        updated_at=NOW,
        user_meta={"created_at": "yesterday"},
        sensitive_marks=("x",),
    )


def stored(catalog: FolderCatalog, content: bytes, **changes: Any) -> CloudFile:
    file = replace(file_of(content), **changes)
    catalog.add_file(file.blob, file, FREE)
    return file


def bundle_of(slug: str, **changes: Any) -> Bundle:
    bundle = Bundle(slug, ANN.id, slug, "ü", None, "$argon2id$x", None, NOW, NOW)
    return replace(bundle, **changes)


def noted_after(folder: Path, count: int) -> list[Noted]:
    return list(journal_of(folder).entries())[count:]


def damage(path: Path) -> bytes:
    """Overwrite pages of a catalog; what is there then."""
    data = bytearray(path.read_bytes())
    data[4096 : 5 * 4096] = os.urandom(4 * 4096)
    path.write_bytes(data)
    return bytes(data)


class TestJournal:
    def test_it_names_every_file_of_a_batch_that_was_recorded(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        catalog.add_account(ANN)
        files = [file_of(each) for each in (b"a", b"bb", b"c")]
        room = [FREE, Allowance(account=1), FREE]
        new = [NewFile(f.blob, f, each) for f, each in zip(files, room, strict=True)]
        refused = catalog.add_files(new)
        assert [type(each) for each in refused] == [type(None), QuotaExceeded, type(None)]
        entries = list(journal_of(tmp_path).entries())
        assert entries == [Noted(account=ANN), Noted(file=files[0]), Noted(file=files[2])]

    def test_it_names_what_happened(self, catalog: FolderCatalog, tmp_path: Path) -> None:
        token = Token("t", ANN.id, "n", b"\1" * 32, frozenset({Scope.READ}), NOW, NOW + HOUR)
        file = file_of(b"x")
        catalog.add_account(ANN)
        catalog.add_token(token)
        catalog.add_file(file.blob, file, FREE)
        changed = catalog.update_file(file.id, ANN.id, NOW, lambda f: replace(f, name="b"))
        catalog.delete_file(file.id, ANN.id, NOW)
        catalog.revoke_token(ANN.id, "t", NOW)
        assert changed is not None
        assert list(journal_of(tmp_path).entries()) == [
            Noted(account=ANN),
            Noted(token=token),
            Noted(file=file),
            Noted(file=changed),
            Noted(deleted=file.id, account_id=ANN.id),
            Noted(revoked="t", account_id=ANN.id),
        ]

    def test_what_changed_nothing_is_not_noted(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        assert not catalog.delete_file("no", ANN.id, NOW)
        assert not catalog.revoke_token(ANN.id, "no", NOW)
        assert not catalog.share_blob(file_of(b"x"))
        assert not catalog.recycle_file("no", ANN.id, NOW)
        assert catalog.restore_file("no", ANN.id, NOW) is None
        assert catalog.move_file("no", ANN.id, file_of(b"x").blob, NOW, FREE) is None
        assert not catalog.describe_blob("no", {}, None, None)
        assert not catalog.rekey_blob("no", "key", NOW)
        assert catalog.update_pool("no", NOW, lambda pool: pool) is None
        assert catalog.update_bundle("no", ANN.id, NOW, lambda bundle: bundle) is None
        assert catalog.set_bundle("no", ANN.id, None, NOW) is None
        assert not catalog.delete_bundle("no", ANN.id, NOW)
        catalog.set_quota("no", 1)
        assert list(journal_of(tmp_path).entries()) == []

    def test_what_becomes_of_a_file_is_noted(self, catalog: FolderCatalog, tmp_path: Path) -> None:
        catalog.add_account(ANN)
        catalog.add_pool(Pool(OTHER, "other", Policy(), None, None, NOW, NOW))
        blob = replace(file_of(b"x").blob, sealed=Sealed(200, 2**20, "c"), crc32=2**32 - 1)
        file = stored(catalog, b"x", blob=blob)
        shared = replace(file, id="s", expired_at=None)
        catalog.share_blob(shared)
        before = len(noted_after(tmp_path, 0))
        facts = {"taken_at": "2001-02-03", "ü": [1, None]}
        catalog.describe_blob(blob.id, facts, "t", "p")
        catalog.delete_file("s", ANN.id, NOW)
        catalog.recycle_file(file.id, ANN.id, NOW + HOUR / 2)
        back = catalog.restore_file(file.id, ANN.id, NOW)
        catalog.rekey_blob(blob.id, "k2", NOW)
        new = replace(blob, id="b2", pool_id=OTHER, key="k3")
        moved = catalog.move_file(file.id, ANN.id, new, NOW, FREE)
        assert back is not None
        described = replace(blob, facts=facts, thumbnail_key="t", preview_key="p")
        assert back.blob == described
        noted = noted_after(tmp_path, before)
        assert {each.file.id for each in noted[:2] if each.file} == {file.id, "s"}
        assert [each.file.blob for each in noted[:2] if each.file] == [described] * 2
        assert noted[2:] == [
            Noted(deleted="s", account_id=ANN.id),
            Noted(file=replace(back, recycled_at=NOW + HOUR / 2, updated_at=NOW + HOUR / 2)),
            Noted(file=back),
            Noted(file=replace(back, blob=replace(described, key="k2"))),
            Noted(file=moved),
        ]

    def test_pools_and_quotas_are_noted(self, catalog: FolderCatalog, tmp_path: Path) -> None:
        catalog.add_account(ANN)
        policy = Policy(5, ("image/*",), enable_recycle=True, quota=6, file_expiry=HOUR)
        pool = Pool(OTHER, "ü", policy, ANN.id, "/p", NOW, NOW)
        catalog.add_pool(pool)
        changed = catalog.update_pool(
            OTHER, NOW + HOUR, lambda p: replace(p, policy=replace(p.policy, file_expiry=None))
        )
        catalog.set_quota(ANN.id, 7)
        assert noted_after(tmp_path, 1) == [
            Noted(pool=pool),
            Noted(pool=changed),
            Noted(account=replace(ANN, quota=7)),
        ]

    def test_bundles_and_what_they_do_to_files_are_noted(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        catalog.add_account(ANN)
        file, other = stored(catalog, b"x", expired_at=None), stored(catalog, b"y")
        recycling = Pool(OTHER, "r", Policy(enable_recycle=True), None, None, NOW, NOW)
        catalog.add_pool(recycling)
        third = stored(catalog, b"z", pool_id=OTHER, expired_at=None)
        bundle = bundle_of("b")
        catalog.add_bundle(bundle)
        before = len(noted_after(tmp_path, 0))
        inside = catalog.set_bundle(file.id, ANN.id, "b", NOW)
        renamed = catalog.update_bundle("b", ANN.id, NOW + HOUR, lambda b: replace(b, name="n"))
        ending = catalog.update_bundle(
            "b", ANN.id, NOW + 2 * HOUR, lambda b: replace(b, expired_at=NOW + 9 * HOUR)
        )
        cut = catalog.file(file.id, NOW, ANN.id)
        third_inside = catalog.set_bundle(third.id, ANN.id, "b", NOW)
        assert cut is not None
        assert cut.expired_at == NOW + 9 * HOUR
        assert catalog.delete_bundle("b", ANN.id, NOW)
        noted = noted_after(tmp_path, before)
        assert noted[:6] == [
            Noted(file=inside),
            Noted(bundle=renamed),
            Noted(bundle=ending),
            Noted(file=cut),
            Noted(file=third_inside),
            Noted(removed="b", account_id=ANN.id),
        ]
        (binned,) = catalog.files(ANN.id, NOW, 0, 10, recycled=True).items
        last = {(n.deleted, n.file.id if n.file else None): n.file for n in noted[6:]}
        assert last == {(file.id, None): None, (None, third.id): binned}
        assert catalog.file(other.id, NOW, ANN.id) == other

    def test_lines_of_an_earlier_version_are_read(self, tmp_path: Path) -> None:
        file = file_of(b"x")
        Journal(tmp_path / "j").add(Noted(file=file))
        record = json.loads((tmp_path / "j").read_text())
        later = ("sealed", "facts", "thumbnail_key", "preview_key", "crc32")
        assert [record["file"]["blob"].pop(name) for name in later] == [None] * 5
        del record["file"]["recycled_at"]
        account = {"id": "a", "name": "n", "is_admin": False, "created_at": NOW.isoformat()}
        lines = [record, {"account": account}]
        (tmp_path / "j").write_text("\n".join(map(json.dumps, lines)))
        assert list(Journal(tmp_path / "j").entries()) == [
            Noted(file=file),
            Noted(account=Account("a", "n", is_admin=False, created_at=NOW)),
        ]

    def test_i9_no_wrapped_key_and_no_webhook_secret_is_noted(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        catalog.add_account(ANN)
        seal = Seal(b"HEAD" * 8, b"WRAPPED!" * 4, "CHECKCHECK")
        file = file_of(b"x")
        task = UploadTask(
            id="t",
            account_id=ANN.id,
            pool_id=DEFAULT_POOL_ID,
            bundle_id=None,
            file_name="n",
            content_type="a/b",
            digest=None,
            expired_at=None,
            layout=Layout("k", 1, 1),
            status=TaskStatus.IN_PROGRESS,
            created_at=NOW,
            updated_at=NOW,
            expires_at=NOW + HOUR,
            seal=seal,
        )
        catalog.add_task(task, FREE)
        catalog.intend_chunk("t", 0, "FINGERPRINT")
        catalog.add_webhook(Webhook("w", ANN.id, "http://h", (), b"WEBHOOKS" * 4, NOW), 9)
        catalog.complete("t", 0, file.blob, file)
        text = (tmp_path / "catalog.journal").read_bytes()
        assert file.id.encode() in text
        secrets = (seal.head, seal.wrapped_key, b"WEBHOOKS", b"CHECKCHECK", b"FINGERPRINT")
        for secret in secrets:
            assert secret not in text
            assert secret.hex().encode() not in text

    def test_torn_lines_are_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        journal = Journal(path)
        journal.add(Noted(deleted="1"))
        whole = path.read_bytes()
        for torn in (
            whole[:-4],
            b"\xff\xfe",
            b"[]",
            b'{"file": {}}',
            b'{"pool": {"policy": 1}}',
            b'{"account": 1}',
            b"{}x",
        ):
            path.write_bytes(whole + torn)
            journal.add(Noted(deleted="2"))
            assert [each.deleted for each in journal.entries()] == ["1", "2"]

    def test_the_newer_half_is_kept_while_others_write(self, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "j")

        def write(start: int) -> None:
            for number in range(start, start + 200):
                Journal(tmp_path / "j").add(Noted(deleted=str(number)))

        for number in range(1000):
            journal.add(Noted(deleted=f"old{number}"))
        with ThreadPoolExecutor(4) as pool:
            done = pool.map(write, range(0, 800, 200))
            journal.trim(10_000)
            list(done)
        left = [each.deleted for each in journal.entries()]
        assert "old0" not in left
        assert "old999" in left
        assert {str(number) for number in range(800)} <= set(left)


class TestSnapshot:
    def test_it_is_renewed_when_something_was_written(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        assert catalog.renew_snapshot(HOUR)
        assert not catalog.renew_snapshot()
        catalog.add_account(ANN)
        assert not catalog.renew_snapshot(HOUR)
        assert catalog.renew_snapshot()
        assert integrity_problem(tmp_path / "catalog.snapshot") is None
        assert (tmp_path / "catalog.snapshot").stat().st_mode & 0o077 == 0

    def test_a_lease_is_no_reason_to_renew_it(self, catalog: FolderCatalog) -> None:
        assert catalog.renew_snapshot()
        assert catalog.lease("sweep", "me", NOW, NOW + HOUR)
        assert not catalog.renew_snapshot()

    def test_a_sweep_that_finds_nothing_is_no_reason_to_renew_it(
        self, catalog: FolderCatalog
    ) -> None:
        assert catalog.renew_snapshot()
        Sweeper(catalog, {}, lambda: NOW).sweep()
        assert not catalog.renew_snapshot()
        catalog.add_account(ANN)
        stored(catalog, b"x", expired_at=NOW + HOUR)
        assert catalog.renew_snapshot()
        Sweeper(catalog, {}, lambda: NOW + HOUR).sweep()
        assert catalog.renew_snapshot()

    def test_a_damaged_catalog_never_takes_its_place(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        catalog.add_account(ANN)
        catalog.renew_snapshot()
        catalog.close()
        good = (tmp_path / "catalog.snapshot").read_bytes()
        spoil_tables(tmp_path / "catalog.sqlite")
        with closing(FolderCatalog.open_folder(tmp_path)) as damaged:
            damaged.database.written_at = time.time() + 1
            with pytest.raises(NotReady, match="upwell recover"):
                damaged.renew_snapshot()
        assert (tmp_path / "catalog.snapshot").read_bytes() == good
        assert not (tmp_path / "catalog.snapshot.new").exists()

    def test_a_snapshot_is_made_after_a_clock_that_was_ahead(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        catalog.add_account(ANN)
        assert catalog.renew_snapshot(HOUR)
        ahead = time.time() + 10**6
        os.utime(tmp_path / "catalog.snapshot", (ahead, ahead))
        catalog.database.written_at = ahead
        assert catalog.renew_snapshot(HOUR)
        assert (tmp_path / "catalog.snapshot").stat().st_mtime < ahead
        assert not catalog.renew_snapshot()

    def test_what_killed_snapshots_left_is_removed_but_not_while_one_is_made(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        left = [tmp_path / f"catalog.snapshot{name}" for name in (".new", ".new.ab12.partial")]
        for path in left:
            path.write_bytes(b"x")
        with closing(FileLock(tmp_path / "catalog.snapshot.lock")) as lock:
            assert lock.acquire(0)
            assert not catalog.renew_snapshot()
            assert all(path.exists() for path in left)
        assert catalog.renew_snapshot()
        assert not any(path.exists() for path in left)

    def test_a_snapshot_is_left_at_once_and_writes_do_not_start_it_over(
        self, catalog: FolderCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is copied a page at a time here, with a write between any two of them."""
        monkeypatch.setattr(sqlite_module, "_STEP_PAGES", 1)
        steps: list[int] = []

        def write(pauses: _Pauses) -> None:
            steps.append(len(steps))
            catalog.add_account(replace(ANN, id=f"a{len(steps)}", name=f"a{len(steps)}"))
            if len(steps) == limit:
                catalog.leave_snapshot()
            rest(pauses)

        rest, limit = _Pauses.__call__, 10**6
        monkeypatch.setattr(_Pauses, "__call__", write)
        assert catalog.renew_snapshot()
        pages = (tmp_path / "catalog.snapshot").stat().st_size // 4096
        assert len(steps) < 2 * pages
        before = (tmp_path / "catalog.snapshot").read_bytes()
        limit = len(steps) + 3
        assert not catalog.renew_snapshot()
        assert len(steps) == limit
        assert (tmp_path / "catalog.snapshot").read_bytes() == before
        assert {path.name for path in tmp_path.glob("catalog.snapshot.*")} == {
            "catalog.snapshot.lock"
        }

    def test_whatever_is_kept_of_a_catalog_is_its_owner_s_alone(self, tmp_path: Path) -> None:
        """In a folder that anyone may read, with files that an earlier version left so."""
        before = os.umask(0)
        try:
            folder = tmp_path / "data"
            folder.mkdir(mode=0o777)
            for name in ("catalog.sqlite", "catalog.journal", "catalog.sqlite.lock"):
                (folder / name).touch(mode=0o666)
            with closing(FolderCatalog.open_folder(folder)) as catalog:
                catalog.add_account(ANN)
                assert catalog.renew_snapshot()
                (folder / "catalog.snapshot").chmod(0o644)
                (folder / "catalog.sqlite-wal").chmod(0o644)
                with closing(FolderCatalog.open_folder(folder)):
                    pass
                modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
            names = {f"catalog.{name}" for name in ("sqlite", "sqlite-wal", "sqlite-shm")}
            assert names | {"catalog.snapshot", "catalog.journal"} <= set(modes)
            assert set(modes.values()) == {0o600}
        finally:
            os.umask(before)


def spoil_tables(path: Path) -> None:
    """Damage tables that nothing reads when a catalog is opened."""
    with closing(sqlite3.connect(path)) as connection:
        roots = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name IN ('webhooks', 'links', 'guesses')"
        ).fetchall()
    data = bytearray(path.read_bytes())
    for (page,) in roots:
        data[(page - 1) * 4096 : page * 4096] = os.urandom(4096)
    path.write_bytes(data)


class TestRestore:
    @pytest.fixture
    def stopped(self, catalog: FolderCatalog, tmp_path: Path) -> Path:
        catalog.add_account(ANN)
        catalog.renew_snapshot()
        catalog.close()
        return tmp_path

    def test_a_sound_catalog_is_left_alone(self, stopped: Path) -> None:
        before = (stopped / "catalog.sqlite").read_bytes()
        assert restore_catalog(stopped, NOW) is None
        assert (stopped / "catalog.sqlite").read_bytes() == before

    @pytest.mark.parametrize("how", ["pages", "empty", "gone"])
    def test_a_damaged_catalog_is_set_aside(self, stopped: Path, how: str) -> None:
        path = stopped / "catalog.sqlite"
        (stopped / "catalog.sqlite-wal").write_bytes(b"old")
        bad = damage(path) if how == "pages" else b""
        path.write_bytes(bad)
        if how == "gone":
            path.unlink()
        with pytest.raises(NotReady, match="upwell recover"):
            FolderCatalog.open_folder(stopped).check()
        aside = restore_catalog(stopped, NOW)
        assert aside == stopped / "damaged-20260301T120000.123457Z"
        assert how == "gone" or (aside / "catalog.sqlite").read_bytes() == bad
        with closing(FolderCatalog.open_folder(stopped)) as restored:
            assert restored.accounts() == [ANN]

    @pytest.mark.parametrize("snapshot", ["missing", "damaged", "empty"])
    def test_without_a_good_snapshot_nothing_changes(self, stopped: Path, snapshot: str) -> None:
        path = stopped / "catalog.snapshot"
        if snapshot == "damaged":
            damage(path)
        else:
            path.write_bytes(b"")
        if snapshot == "missing":
            path.unlink()
        bad = damage(stopped / "catalog.sqlite")
        with pytest.raises(NotReady, match="no good snapshot"):
            restore_catalog(stopped, NOW)
        assert (stopped / "catalog.sqlite").read_bytes() == bad
        assert not list(stopped.glob("damaged-*"))


class TestLock:
    def test_recovery_and_servers_keep_each_other_away(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        another = FolderCatalog.open_folder(tmp_path)
        catalog.close()
        with pytest.raises(NotReady, match="stop the server first"):
            claim_folder(tmp_path)
        another.close()
        with closing(claim_folder(tmp_path)), pytest.raises(NotReady, match="being recovered"):
            FolderCatalog.open_folder(tmp_path)
        FolderCatalog.open_folder(tmp_path).close()

    def test_no_folder_is_made_by_recovery(self, tmp_path: Path) -> None:
        with pytest.raises(NotReady, match="no data folder"):
            claim_folder(tmp_path / "nothing")
        assert not (tmp_path / "nothing").exists()
