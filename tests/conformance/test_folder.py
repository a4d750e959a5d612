"""What a data folder keeps for its recovery: the snapshot, the journal, the lock."""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from upwell.catalog import (
    FolderCatalog,
    claim_folder,
    integrity_problem,
    journal_of,
    restore_catalog,
)
from upwell.catalog.journal import Journal
from upwell.core.ports import Noted
from upwell.errors import NotReady
from upwell.model import DEFAULT_POOL_ID, Account, Blob, CloudFile, Digest, Scope, Token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, 0, 0, 123457, tzinfo=UTC)
HOUR = timedelta(hours=1)
ANN = Account("a" * 32, "ann ☃", is_admin=True, created_at=NOW)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[FolderCatalog]:
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


def damage(path: Path) -> bytes:
    """Overwrite pages of a catalog; what is there then."""
    data = bytearray(path.read_bytes())
    data[4096 : 5 * 4096] = os.urandom(4 * 4096)
    path.write_bytes(data)
    return bytes(data)


class TestJournal:
    def test_it_names_what_happened(self, catalog: FolderCatalog, tmp_path: Path) -> None:
        token = Token("t", ANN.id, "n", b"\1" * 32, frozenset({Scope.READ}), NOW, NOW + HOUR)
        file = file_of(b"x")
        catalog.add_account(ANN)
        catalog.add_token(token)
        catalog.add_file(file.blob, file)
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
        assert list(journal_of(tmp_path).entries()) == []

    def test_torn_lines_are_passed_over(self, tmp_path: Path) -> None:
        path = tmp_path / "j"
        journal = Journal(path)
        journal.add(Noted(deleted="1"))
        whole = path.read_bytes()
        for torn in (whole[:-4], b"\xff\xfe", b"[]", b'{"file": {}}', b'{"account": 1}', b"{}x"):
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

    def test_a_damaged_catalog_never_takes_its_place(
        self, catalog: FolderCatalog, tmp_path: Path
    ) -> None:
        catalog.add_account(ANN)
        catalog.renew_snapshot()
        catalog.close()
        good = (tmp_path / "catalog.snapshot").read_bytes()
        data = bytearray((tmp_path / "catalog.sqlite").read_bytes())
        data[-8 * 4096 :] = os.urandom(8 * 4096)
        (tmp_path / "catalog.sqlite").write_bytes(data)
        with closing(FolderCatalog.open_folder(tmp_path)) as damaged:
            damaged.database.written_at = time.time() + 1
            with pytest.raises(NotReady, match="upwell recover"):
                damaged.renew_snapshot()
        assert (tmp_path / "catalog.snapshot").read_bytes() == good
        assert not (tmp_path / "catalog.snapshot.new").exists()


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
