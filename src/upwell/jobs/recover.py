"""Recovery: holds every row against its bytes, after a copy of a running server or a damage.

Nobody else may use the data folder meanwhile. What the journal names and the catalog lacks
comes back unless its bytes are damaged; a chunk whose bytes are not its own is forgotten, so
that the client sends it again; files that are damaged are named, and dropped only when told to.
Bytes that cannot be read are not damaged: they are named, and nothing is forgotten or dropped.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from upwell.core.blobs import Problem, problem_of, stored_size
from upwell.core.uploads import is_whole, stored_layout_of
from upwell.errors import AccountExists, NotReady, PoolExists, SlugTaken
from upwell.model import Allowance, Garbage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from upwell.core.homes import Home
    from upwell.core.ports import BlobStore, Catalog, Clock, Noted
    from upwell.model import Blob, Bundle, CloudFile, Pool, UploadTask

_EVERYTHING = 2**31


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A file whose bytes are not those that were verified; ``account`` is a name."""

    id: str
    name: str
    account: str
    problem: str


@dataclass(slots=True)
class Recovered:
    """What one recovery found and did. ``damaged`` are the files that are still there, those
    whose bytes could not be read among them; of ``chunks_unreadable`` nothing is known."""

    uploads: int = 0
    uploads_closed: int = 0
    chunks: int = 0
    chunks_forgotten: int = 0
    chunks_unreadable: int = 0
    blobs: int = 0
    files_restored: int = 0
    figures_mended: int = 0
    damaged: list[DamagedFile] = field(default_factory=list)
    dropped: list[DamagedFile] = field(default_factory=list)
    pools_unknown: set[str] = field(default_factory=set)

    @property
    def well(self) -> bool:
        return not (self.damaged or self.pools_unknown or self.chunks_unreadable)


class Recovery:
    """One pass over a data folder. ``advance`` is told of bytes as they are dealt with."""

    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        advance: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._advance = advance
        self._found = Recovered()
        self._changed: set[str] = set()  # files that the catalog knows, but not as they are now

    def size(self) -> int:
        """Bytes that ``check`` is going to read."""
        uploads = sum(task.received_bytes for task in self._catalog.open_tasks())
        return uploads + sum(stored_size(blob) for blob in self._catalog.blobs())

    def replay(self, journal: Iterable[Noted]) -> None:
        """Bring back what the journal names and the catalog lacks, and what was changed since:
        a passcode or a policy that was tightened must not be what it was before."""
        files: dict[str, CloudFile] = {}
        for noted in journal:
            self._replay_account(noted)
            if noted.file:
                files[noted.file.id] = noted.file
                self._look_for_changes(noted.file)
            elif noted.deleted and noted.account_id:
                files.pop(noted.deleted, None)
                self._catalog.delete_file(noted.deleted, noted.account_id, self._clock())
        self._replay_files(files)

    def check(self, *, drop: bool = False) -> Recovered:
        """Hold every chunk and every blob against its bytes; with ``drop``, delete the rows of
        damaged files."""
        for task in self._catalog.open_tasks():
            self._check_task(task)
        self._found.figures_mended = self._catalog.repair_usage()
        names = {account.id: account.name for account in self._catalog.accounts()}
        for blob in self._catalog.blobs():
            problem = self._problem(blob)
            if problem:
                self._damaged(blob, problem, names, drop=drop)
        return self._found

    # the journal

    def _replay_account(self, noted: Noted) -> None:
        if noted.account:
            with suppress(AccountExists):
                if not self._knows(noted.account.id):
                    self._catalog.add_account(noted.account)
                self._catalog.set_quota(noted.account.id, noted.account.quota)
        elif noted.token:
            known = {token.id for token in self._catalog.tokens(noted.token.account_id)}
            if noted.token.id not in known and self._knows(noted.token.account_id):
                self._catalog.add_token(noted.token)
        elif noted.revoked and noted.account_id:
            self._catalog.revoke_token(noted.account_id, noted.revoked, self._clock())
        elif noted.pool:
            self._replay_pool(noted.pool)
        elif noted.bundle:
            self._replay_bundle(noted.bundle)
        elif noted.removed and noted.account_id:
            self._catalog.delete_bundle(noted.removed, noted.account_id, self._clock())

    def _replay_pool(self, pool: Pool) -> None:
        there = self._catalog.pool(pool.id)
        if there is None:
            with suppress(PoolExists):
                self._catalog.add_pool(pool)
        elif there.updated_at < pool.updated_at:
            self._change_pool(there, pool)

    def _change_pool(self, there: Pool, pool: Pool) -> None:
        """Its policy counts, whoever has its name: nothing tells which pools were removed."""
        try:
            self._catalog.update_pool(pool.id, pool.updated_at, lambda _: pool)
        except PoolExists:
            named = replace(pool, name=there.name)
            self._catalog.update_pool(pool.id, pool.updated_at, lambda _: named)

    def _replay_bundle(self, bundle: Bundle) -> None:
        then, account = bundle.updated_at, bundle.account_id
        live = bundle.expired_at is None or bundle.expired_at > self._clock()
        there = self._catalog.bundle(bundle.id, account, then)
        if there is None and live and self._knows(account):
            with suppress(SlugTaken):
                self._catalog.add_bundle(bundle)
        elif there is not None and there.updated_at < then:
            self._change_bundle(there, bundle)

    def _change_bundle(self, there: Bundle, bundle: Bundle) -> None:
        """Its passcode and end count, whoever has its slug."""
        which = (bundle.id, bundle.account_id, bundle.updated_at)
        try:
            self._catalog.update_bundle(*which, lambda _: bundle)
        except SlugTaken:
            named = replace(bundle, slug=there.slug)
            self._catalog.update_bundle(*which, lambda _: named)

    def _knows(self, account_id: str) -> bool:
        return any(account.id == account_id for account in self._catalog.accounts())

    def _replay_files(self, files: Mapping[str, CloudFile]) -> None:
        # Found by its bytes: an upload must never be open on those of a file (I3).
        tasks = {_bytes_of(task): task for task in self._catalog.open_tasks()}
        garbage = set(self._catalog.garbage(_EVERYTHING))
        for file in files.values():
            key = Garbage(file.blob.pool_id, file.blob.key)
            if key in garbage:
                continue  # it was deleted, and the journal's line about that is lost
            there = self._catalog.any_file(file.id)
            if self._lacks(file) and not self._is_damaged(file.blob):
                self._restore(file, tasks.pop(key, None))
                self._found.files_restored += 1
            if there is not None and file.id in self._changed:
                self._change(there, file)

    def _lacks(self, file: CloudFile) -> bool:
        """Whether the catalog does not know of a file, or not of where its bytes are now."""
        live = file.expired_at is None or file.expired_at > self._clock()
        there = self._catalog.any_file(file.id)
        known = there is not None and _where(there) == _where(file)
        return live and not known and self._knows(file.account_id)

    def _look_for_changes(self, file: CloudFile) -> None:
        """Now: what is replayed of its bundle changes it too. A bundle that it has left must not
        take it along when it is removed; where it went may have to be brought back first."""
        there = self._catalog.any_file(file.id)
        if there is None or there.updated_at >= file.updated_at:
            return
        self._changed.add(file.id)
        if there.bundle_id not in (None, file.bundle_id):
            self._catalog.set_bundle(file.id, file.account_id, None, there.updated_at)

    def _change(self, there: CloudFile, file: CloudFile) -> None:
        """What became of a file that is there: its name, its bundle, its end, the recycle bin."""
        catalog, which = self._catalog, (file.id, file.account_id)
        if there.recycled_at is not None:
            catalog.restore_file(*which, file.updated_at)
        catalog.update_file(*which, file.updated_at, lambda _: file)
        # Last: the bundle may have been cut since, and then its files with it.
        if catalog.set_bundle(*which, file.bundle_id, file.updated_at) is None:
            catalog.set_bundle(*which, None, file.updated_at)
        if file.recycled_at is not None:
            catalog.recycle_file(*which, file.recycled_at)

    def _restore(self, file: CloudFile, task: UploadTask | None) -> None:
        there = self._catalog.any_file(file.id)
        if there and there.blob.pool_id == file.blob.pool_id:
            self._catalog.rekey_blob(there.blob.id, file.blob.key, self._clock())
        elif there:
            now, account = self._clock(), file.account_id
            self._catalog.move_file(file.id, account, file.blob, now, Allowance())
        elif task:
            self._catalog.complete(task.id, task.revision, file.blob, file)
        elif not self._catalog.share_blob(file):
            self._catalog.add_file(file.blob, file, Allowance())

    # uploads in progress

    def _check_task(self, task: UploadTask) -> None:
        if self._may_have_been_sealed(task):  # also where its store is not there now
            self._found.uploads += 1
            self._close(task)
            return
        store = self._store(task.pool_id)
        if store is None:
            return
        self._found.uploads += 1
        try:
            self._check_chunks(store, task)
        except FileNotFoundError:
            self._close(task)

    def _may_have_been_sealed(self, task: UploadTask) -> bool:
        """Whether chunks of an encrypted upload were perhaps sealed, and it is lost from what:
        other bytes under the same nonces must never be (I9)."""
        known = len(self._catalog.fingerprints(task.id)) if task.seal else task.layout.count
        return known < task.layout.count

    def _close(self, task: UploadTask) -> None:
        closed = self._catalog.cancel(task.account_id, task.id, self._clock())
        self._found.uploads_closed += int(closed)

    def _check_chunks(self, store: BlobStore, task: UploadTask) -> None:
        _forget_digest(store, task)
        for chunk in self._catalog.chunks(task.id).all():
            self._found.chunks += 1
            try:
                if not is_whole(store, task, chunk):
                    self._catalog.forget_chunk(task.id, chunk, self._clock())
                    self._found.chunks_forgotten += 1
            except FileNotFoundError:
                raise
            except OSError:
                self._found.chunks_unreadable += 1
            self._advance(chunk.size)

    # files

    def _problem(self, blob: Blob) -> Problem | None:
        store = self._store(blob.pool_id)
        if store is None:
            return None
        self._found.blobs += 1
        return problem_of(store, blob, self._advance)

    def _is_damaged(self, blob: Blob) -> bool:
        """Whether a blob's bytes are known to be others than were verified. When they cannot be
        read, its row must come back all the same: without it they are taken for strays."""
        store = self._store(blob.pool_id)
        if store is None:
            return self._catalog.pool(blob.pool_id) is None  # no row can name a pool without one
        problem = problem_of(store, blob)
        return problem is not None and problem.certain

    def _damaged(
        self, blob: Blob, problem: Problem, names: Mapping[str, str], *, drop: bool
    ) -> None:
        """With ``drop``, only what is certain to be damaged is deleted."""
        now, drop = self._clock(), drop and problem.certain
        for file in self._catalog.files_of_blob(blob.id):
            if file.expired_at is not None and file.expired_at <= now:
                continue  # the sweeper's
            owner = names.get(file.account_id, "?")
            named = DamagedFile(file.id, file.name, owner, str(problem))
            if drop:
                self._catalog.delete_file(file.id, file.account_id, now)
            (self._found.dropped if drop else self._found.damaged).append(named)

    def _store(self, pool_id: str) -> BlobStore | None:
        try:
            home = self._homes.get(pool_id)
        except NotReady:  # its disk is not there
            home = None
        if home is None:
            self._found.pools_unknown.add(pool_id)
        return home.store if home else None


def _forget_digest(store: BlobStore, task: UploadTask) -> None:
    """Clear what was remembered of an upload's digest: it may be of chunks that the snapshot
    does not know. Raises FileNotFoundError when the upload's bytes are gone."""
    try:
        with closing(store.reader(stored_layout_of(task))) as reader:
            reader.remember(b"")
    except FileNotFoundError:
        raise
    except OSError:
        pass  # its chunks cannot be read either, and are counted


def _where(file: CloudFile) -> tuple[str, str]:
    return file.blob.pool_id, file.blob.key


def _bytes_of(task: UploadTask) -> Garbage:
    return Garbage(task.pool_id, task.layout.key)
