"""The catalog of a data folder, with what lets it be recovered: a snapshot and a journal.

SQLite's file and its WAL, copied at different instants, may be of no use together. A snapshot
is one file, replaced whole; the journal only grows: any copy of the two is good.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import time
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from upwell.catalog import files
from upwell.catalog.journal import Journal
from upwell.catalog.sql import SqlCatalog
from upwell.catalog.sqlite import integrity_problem, make_private, page_problem, sync
from upwell.catalog.turns import FileLock
from upwell.core.ports import Noted
from upwell.errors import NotReady

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime, timedelta
    from pathlib import Path

    from upwell.catalog.sqlite import Sqlite
    from upwell.core.ports import NewFile
    from upwell.errors import UpwellError
    from upwell.model import Account, Allowance, Blob, Bundle, CloudFile, NewJob, Pool, Token

CATALOG = "catalog.sqlite"
SNAPSHOT = "catalog.snapshot"
JOURNAL = "catalog.journal"
LOCK = "serve.lock"
_LONGEST_PAUSE = 0.5  # seconds


class FolderCatalog(SqlCatalog):
    """A catalog that keeps a journal and renews its snapshot."""

    def __init__(self, database: Sqlite) -> None:
        super().__init__(database)
        folder = database.path.parent
        self._journal = Journal(folder / JOURNAL)
        self._snapshot = folder / SNAPSHOT
        self._folder_lock: FileLock | None = None
        self._leaving = threading.Event()
        database.written_at = max(_changed(folder / CATALOG), _changed(folder / f"{CATALOG}-wal"))

    @classmethod
    def open_folder(cls, folder: Path) -> FolderCatalog:
        """Open it, and keep recovery away from the folder until it is closed."""
        lock = FileLock(folder / LOCK)
        try:
            _share_folder(lock, folder)
            for path in (*folder.glob("catalog.*"), folder / LOCK):
                make_private(path)
            catalog = cls(SqlCatalog.open(folder / CATALOG).database)
        except BaseException:
            lock.close()
            raise
        catalog._folder_lock = lock
        return catalog

    def close(self) -> None:
        super().close()
        if self._folder_lock:
            self._folder_lock.close()

    def renew_snapshot(self, interval: timedelta | None = None) -> bool:
        """Renew the snapshot when this process wrote since, or none is there; with ``interval``
        only when it is as old as that. One process at a time; whether it was renewed.

        It takes four times as long as the work it is, so that others have the disk and the
        processor, and gives up as soon as ``leave_snapshot`` is called.
        """
        if not self._is_due(interval):
            return False
        with closing(FileLock(self._snapshot.with_name(f"{SNAPSHOT}.lock"))) as lock:
            if not lock.acquire(0):
                return False
            self._drop_leftovers()
            with suppress(_Left):
                return self._renew(_Pauses(self._leaving))
            return False

    def leave_snapshot(self) -> None:
        """Make a snapshot that is under way, in any thread, give up; none begins any more."""
        self._leaving.set()

    def _is_due(self, interval: timedelta | None) -> bool:
        now, taken = time.time(), _changed(self._snapshot)
        if not taken or taken > now:  # of a clock that was ahead: it says nothing
            return True
        young = interval is not None and now - taken < interval.total_seconds()
        return not young and self.database.written_at >= taken

    def _drop_leftovers(self) -> None:
        """Remove what copies left that were killed; the lock says that none is being made."""
        for path in self._snapshot.parent.glob(f"{SNAPSHOT}.*"):
            if path.name != f"{SNAPSHOT}.lock":
                path.unlink(missing_ok=True)

    def _renew(self, pauses: _Pauses) -> bool:
        """A damaged catalog must not take the place of its good snapshot."""
        began, written = time.time(), self.database.written_at
        fresh = self._snapshot.with_name(f"{SNAPSHOT}.new")
        try:
            self.database.snapshot(fresh, pauses)
            problem = page_problem(fresh, pauses)
            if problem:
                raise NotReady(f"The catalog is damaged ({problem}): stop and `upwell recover`.")
            os.utime(fresh, (began, began))
            fresh.replace(self._snapshot)
            sync(self._snapshot.parent)
        finally:
            fresh.unlink(missing_ok=True)
        if self.database.written_at == written:
            self.database.written_at = 0.0  # by a clock that was ahead, it would stay newer
        self._journal.trim()
        return True

    # what the journal names

    def add_account(self, account: Account) -> None:
        super().add_account(account)
        self._journal.add(Noted(account=account))

    def add_token(self, token: Token) -> None:
        super().add_token(token)
        self._journal.add(Noted(token=token))

    def revoke_token(self, account_id: str, token_id: str, now: datetime) -> bool:
        revoked = super().revoke_token(account_id, token_id, now)
        if revoked:
            self._journal.add(Noted(revoked=token_id, account_id=account_id))
        return revoked

    def _set_quota(self, account_id: str, quota: int | None) -> Account | None:
        changed = super()._set_quota(account_id, quota)
        if changed:
            self._journal.add(Noted(account=changed))
        return changed

    def add_pool(self, pool: Pool, check: Callable[[list[Pool]], None] = lambda _: None) -> None:
        super().add_pool(pool, check)
        self._journal.add(Noted(pool=pool))

    def update_pool(
        self, pool_id: str, now: datetime, change: Callable[[Pool], Pool]
    ) -> Pool | None:
        changed = super().update_pool(pool_id, now, change)
        if changed:
            self._journal.add(Noted(pool=changed))
        return changed

    def complete(
        self,
        task_id: str,
        revision: int,
        blob: Blob,
        file: CloudFile,
        jobs: Sequence[NewJob] = (),
    ) -> CloudFile:
        made = super().complete(task_id, revision, blob, file, jobs)
        if made.id == file.id:
            self._journal.add(Noted(file=made))
        return made

    def add_file(
        self, blob: Blob, file: CloudFile, allowance: Allowance, jobs: Sequence[NewJob] = ()
    ) -> None:
        super().add_file(blob, file, allowance, jobs)
        self._journal.add(Noted(file=file))

    def add_files(self, new: Sequence[NewFile]) -> list[UpwellError | None]:
        refused = super().add_files(new)
        kept = (each.file for each, why in zip(new, refused, strict=True) if why is None)
        self._journal.add(*(Noted(file=file) for file in kept))
        return refused

    def share_blob(self, file: CloudFile, jobs: Sequence[NewJob] = ()) -> bool:
        shared = super().share_blob(file, jobs)
        if shared:
            self._journal.add(Noted(file=file))
        return shared

    def update_file(
        self,
        file_id: str,
        account_id: str,
        now: datetime,
        change: Callable[[CloudFile], CloudFile],
    ) -> CloudFile | None:
        return self._noted(super().update_file(file_id, account_id, now, change))

    def delete_file(self, file_id: str, account_id: str, now: datetime) -> bool:
        deleted = super().delete_file(file_id, account_id, now)
        if deleted:
            self._journal.add(Noted(deleted=file_id, account_id=account_id))
        return deleted

    def recycle_file(self, file_id: str, account_id: str, now: datetime) -> bool:
        recycled = super().recycle_file(file_id, account_id, now)
        if recycled:
            self._note_anew(file_id, account_id)
        return recycled

    def restore_file(self, file_id: str, account_id: str, now: datetime) -> CloudFile | None:
        return self._noted(super().restore_file(file_id, account_id, now))

    def move_file(
        self, file_id: str, account_id: str, blob: Blob, now: datetime, allowance: Allowance
    ) -> CloudFile | None:
        return self._noted(super().move_file(file_id, account_id, blob, now, allowance))

    def _describe(
        self,
        blob_id: str,
        facts: dict[str, Any],
        thumbnail_key: str | None,
        preview_key: str | None,
    ) -> list[CloudFile] | None:
        described = super()._describe(blob_id, facts, thumbnail_key, preview_key)
        for file in described or ():
            self._noted(file)
        return described

    def rekey_blob(self, blob_id: str, key: str, now: datetime) -> bool:
        rekeyed = super().rekey_blob(blob_id, key, now)
        for file in self.files_of_blob(blob_id) if rekeyed else ():
            self._noted(file)
        return rekeyed

    def add_bundle(self, bundle: Bundle) -> None:
        super().add_bundle(bundle)
        self._journal.add(Noted(bundle=bundle))

    def update_bundle(
        self,
        bundle_id: str,
        account_id: str,
        now: datetime,
        change: Callable[[Bundle], Bundle],
    ) -> Bundle | None:
        changed = super().update_bundle(bundle_id, account_id, now, change)
        if changed:
            self._journal.add(Noted(bundle=changed))
            inside = self.database.read(lambda conn: files.changed_in_bundle(conn, bundle_id, now))
            for file in inside:
                self._noted(file)
        return changed

    def set_bundle(
        self, file_id: str, account_id: str, bundle_id: str | None, now: datetime
    ) -> CloudFile | None:
        return self._noted(super().set_bundle(file_id, account_id, bundle_id, now))

    def delete_bundle(self, bundle_id: str, account_id: str, now: datetime) -> bool:
        inside = self.database.read(lambda conn: files.ids_in_bundle(conn, bundle_id))
        deleted = super().delete_bundle(bundle_id, account_id, now)
        if deleted:
            self._journal.add(Noted(removed=bundle_id, account_id=account_id))
        for file_id in inside if deleted else ():
            self._note_anew(file_id, account_id)
        return deleted

    def _note_anew(self, file_id: str, account_id: str) -> None:
        """Note a file as it is now, or that it is gone."""
        file = self.database.read(lambda conn: files.by_id(conn, file_id))
        if file:
            self._noted(file)
        else:
            self._journal.add(Noted(deleted=file_id, account_id=account_id))

    def _noted(self, file: CloudFile | None) -> CloudFile | None:
        if file:
            self._journal.add(Noted(file=file))
        return file


class _Left(Exception):
    """The snapshot was given up."""


class _Pauses:
    """Rests three times as long as the work since the last rest took. Raises _Left."""

    def __init__(self, leaving: threading.Event) -> None:
        self._leaving = leaving
        self._since = time.monotonic()

    def __call__(self) -> None:
        worked = time.monotonic() - self._since
        if self._leaving.wait(min(3 * worked, _LONGEST_PAUSE)):
            raise _Left
        self._since = time.monotonic()


def _share_folder(lock: FileLock, folder: Path) -> None:
    if not lock.acquire(0, fcntl.LOCK_SH):
        raise NotReady(f"{folder} is being recovered: try again when that is done.")
    # An empty catalog in its place would make all bytes garbage.
    if _is_empty(folder / CATALOG) and not _is_empty(folder / SNAPSHOT):
        raise NotReady(f"The catalog of {folder} is gone: run `upwell recover`.")


def claim_folder(folder: Path) -> FileLock:
    """The right to recover a data folder: nobody else may use it. Raises NotReady."""
    if not folder.is_dir():
        raise NotReady(f"There is no data folder {folder}.")
    lock = FileLock(folder / LOCK)
    if not lock.acquire(0):
        lock.close()
        raise NotReady(f"A server runs on {folder}: stop the server first, then recover.")
    return lock


def restore_catalog(folder: Path, now: datetime) -> Path | None:
    """Put the snapshot in the place of a damaged catalog; where that one was moved to, or None
    when it is sound. Raises NotReady, having changed nothing, without a good snapshot."""
    problem = _problem(folder / CATALOG)
    if problem is None:
        return None
    bad = _problem(folder / SNAPSHOT)
    if bad:
        raise NotReady(
            f"The catalog is damaged ({problem}) and there is no good snapshot to restore "
            f"({bad}). Nothing was changed; put a backup in the place of the data folder."
        )
    aside = folder / f"damaged-{now:%Y%m%dT%H%M%S.%fZ}"
    aside.mkdir(mode=0o700)
    for name in (CATALOG, f"{CATALOG}-wal", f"{CATALOG}-shm"):
        with suppress(FileNotFoundError):
            (folder / name).rename(aside / name)
    partial = folder / f"{CATALOG}.partial"
    make_private(partial, create=True)
    shutil.copyfile(folder / SNAPSHOT, partial)
    sync(partial)
    partial.replace(folder / CATALOG)
    sync(folder)
    return aside


def _problem(path: Path) -> str | None:
    """To SQLite, an empty file is a sound database."""
    return f"{path}: it is empty" if _is_empty(path) else integrity_problem(path)


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def journal_of(folder: Path) -> Journal:
    return Journal(folder / JOURNAL)


def _changed(path: Path) -> float:
    """The instant of a file's last change, seconds since the epoch; 0 when there is none."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
