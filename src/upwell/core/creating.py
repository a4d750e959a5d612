"""create: an upload admitted, found to be there already, resumed, or begun.

Everything that may be against it is looked at before the first side effect (I5).
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

from upwell.core import media_types, policy
from upwell.core.homes import home_of, pool_not_found
from upwell.core.keys import new_id
from upwell.core.sealed import fold_of
from upwell.core.sealing import (
    Sealing,
    align_chunk_size,
    resume_check,
    seal_whole,
    stored_layout,
)
from upwell.errors import (
    BundleNotFound,
    HashMismatch,
    NotReady,
    QuotaExceeded,
    StorageFailed,
    TaskClosed,
    TooMany,
    UpwellError,
    ValidationFailed,
)
from upwell.model import (
    DEFAULT_POOL_ID,
    Blob,
    CloudFile,
    Digest,
    JobKind,
    Layout,
    NewJob,
    NewUpload,
    OpenLimits,
    Scope,
    Seal,
    Sealed,
    TaskStatus,
    UploadTask,
    is_generic,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from upwell.core.homes import Home
    from upwell.core.ports import BlobStore, Catalog, Clock, Intake
    from upwell.model import Allowance, OpenUploads, Policy, Principal, UploadOptions

HEAD = 8192  # bytes that tell what a content is
_NO_LIMITS = OpenLimits()
_SEALED_CHUNK = 32 << 20  # bytes of an encrypted chunk: it is sealed in memory


@dataclass(frozen=True, slots=True)
class Destination:
    """Where an upload goes: its pool's home, how long the file lives there, and how much may be
    held there. Without its bundle the file would live until ``own_end``: an upload keeps that,
    because its bundle may change."""

    home: Home
    own_end: datetime | None
    expired_at: datetime | None
    allowance: Allowance

    @property
    def pool_id(self) -> str:
        return self.home.pool.id


@dataclass(frozen=True, slots=True)
class Limits:
    """What is the server's to set. ``idle``: how long a task lives without a chunk;
    ``account_quota``: bytes for an account that has no quota of its own; ``open``: what an
    account may have in progress."""

    idle: timedelta = timedelta(days=7)
    account_quota: int | None = None
    hash_threads: int = 4
    open: OpenLimits = _NO_LIMITS


@dataclass(frozen=True, slots=True)
class Senses:
    """``sniff`` tells a content's type by its first bytes, where the declared one says nothing;
    ``examines`` tells of which types there are facts and previews to be made."""

    sniff: Callable[[bytes], str | None] = lambda _: None
    examines: Callable[[str], bool] = lambda _: False

    def type_of(self, declared: str, head: bytes) -> str:
        """What was declared, however odd; what the bytes tell when that says nothing."""
        return media_types.usual(self.sniff(head) or "") if is_generic(declared) else declared

    def jobs_for(self, file: CloudFile, rules: Policy) -> list[NewJob]:
        """What is to be made of a file after it is stored."""
        nothing = rules.no_metadata and rules.no_optimization
        kind = media_types.true_type(file.mime_type, file.name)
        if nothing or file.encrypted or not self.examines(kind):
            return []
        return [NewJob(JobKind.PREVIEW, file.id, account_id=file.account_id)]


class Creating:
    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        key: bytes,
        *,
        limits: Limits,
        senses: Senses,
    ) -> None:
        """``key`` wraps the file keys of encrypted uploads."""
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._key = key
        self._limits = limits
        self._senses = senses

    def create(self, principal: Principal, new: NewUpload) -> UploadTask | CloudFile:
        """A task to send chunks to, or the file when the account already holds the content."""
        there = self.admit(principal, new)
        existing = self.existing(principal, new, there)
        if existing:
            return existing
        draft = self._draft(principal, new, there)
        return self._resumable(draft) or self._begin(principal, draft, there, new.password)

    def change(self, principal: Principal, task: UploadTask, asked: UploadOptions) -> UploadTask:
        """Give an open upload other options, judged as create would judge them.

        Raises ValidationFailed for another pool, TaskClosed when the upload ended meanwhile.
        """
        if (asked.pool_id or DEFAULT_POOL_ID) != task.pool_id:
            why = f"cannot change: the upload began in pool {task.pool_id}"
            raise ValidationFailed(
                f"pool_id {why}. Ask for that pool, or cancel the upload and start again.",
                errors={"pool_id": [why]},
            )
        if asked.bundle_id not in (None, task.bundle_id):
            policy.require_sharing(principal)  # what was received may be another token's
        size, digest = task.layout.size, task.digest
        new = NewUpload(file_size=size, digest=digest, **asdict(asked))
        there, now = self.admit(principal, new), self._clock()
        wanted = replace(
            task,
            file_name=new.file_name,
            content_type=new.content_type,
            bundle_id=new.bundle_id,
            expired_at=there.own_end,
            updated_at=now,
            expires_at=now + self._limits.idle,
        )
        changed = self._catalog.change_task(wanted)
        if changed is None:
            raise TaskClosed("The upload ended meanwhile; ask for it again.")
        return changed

    def admit(self, principal: Principal, new: NewUpload) -> Destination:
        """Everything that may be against it, before anything is done (I5)."""
        policy.require(principal, Scope.WRITE)
        home = self._homes.get(new.pool_id or DEFAULT_POOL_ID)
        if home is None or not policy.may_use(principal, home.pool):
            raise pool_not_found()
        now, bundle = self._clock(), None
        if new.bundle_id is not None:
            bundle = self._catalog.bundle(new.bundle_id, principal.account.id, now)
            if bundle is None:
                raise BundleNotFound("There is no such bundle of yours; leave bundle_id out.")
        rules = home.pool.policy
        policy.accept(new, rules)
        asked = policy.end_of(new.expired_at, now) if new.expired_at else None
        own = policy.lives_until(asked, rules, None, now)
        expires = policy.lives_until(own, rules, bundle.expired_at if bundle else None, now)
        allowance = policy.allowance(principal, home.pool, self._limits.account_quota)
        return Destination(home, own, expires, allowance)

    def existing(
        self, principal: Principal, new: NewUpload, there: Destination
    ) -> CloudFile | None:
        """A file of the account's with this content and this hash, for this destination; never
        when it is to be encrypted, or to be published by a token that cannot read."""
        if new.digest is None or new.password is not None:
            return None
        now = self._clock()
        account = principal.account.id
        files = self._catalog.duplicates(account, new.digest, new.file_size, now)
        stored = {file.blob.id: file.blob for file in files}
        whole = {id_ for id_, blob in stored.items() if self._has_bytes(blob)}
        files = [file for file in files if file.blob.id in whole]
        for file in files:
            if _same_destination(file, new, there):
                return file
        if not policy.may_reuse(principal, there.home.pool.policy, new.bundle_id):
            return None
        for file in files:
            told = replace(new, content_type=self._type_of(new.content_type, file.blob))
            shared = self.file_of(account, told, there, file.blob, new.digest)
            if self._catalog.share_blob(shared, self._jobs_for(shared, there)):
                return shared
        return None

    def _has_bytes(self, blob: Blob) -> bool:
        """False when a blob's bytes are known to be gone: then they are to be sent again."""
        with suppress(OSError, NotReady):
            try:
                self._store_of(blob.pool_id).open(blob.key).close()
            except FileNotFoundError:
                return False
        return True

    def _jobs_for(self, shared: CloudFile, there: Destination) -> list[NewJob]:
        """What is to be made of bytes that are there already, and was not made before: as far as
        the pool allows in which they lie, since all files on them show it."""
        home = self._homes.get(shared.blob.pool_id)
        if home is None or shared.blob.facts is not None:
            return []
        if not self._senses.jobs_for(shared, home.pool.policy):
            return []
        return self._senses.jobs_for(shared, there.home.pool.policy)

    def _type_of(self, declared: str, blob: Blob) -> str:
        """The type of a content that is there already."""
        if not is_generic(declared):
            return declared
        with (
            suppress(OSError, NotReady),
            closing(self._store_of(blob.pool_id).open(blob.key)) as reader,
        ):
            return self._senses.type_of(declared, reader.read_at(0, HEAD))
        return declared

    def _draft(self, principal: Principal, new: NewUpload, there: Destination) -> UploadTask:
        now = self._clock()
        limits = there.home.store.limits
        size = policy.fit_chunk_size(new.file_size, new.chunk_size, limits)
        if new.password is not None:
            size = align_chunk_size(
                policy.fit_chunk_size(new.file_size, min(size, _SEALED_CHUNK), limits)
            )
        draft = UploadTask(
            id=new_id(),
            account_id=principal.account.id,
            pool_id=there.pool_id,
            bundle_id=new.bundle_id,
            file_name=new.file_name,
            content_type=new.content_type,
            digest=new.digest,
            expired_at=there.own_end,
            layout=Layout("", new.file_size, size),
            status=TaskStatus.IN_PROGRESS,
            created_at=now,
            updated_at=now,
            expires_at=now + self._limits.idle,
        )
        if new.password is None:
            return draft
        return replace(draft, seal=Seal(b"", b"", self._password_check(draft, new.password)))

    def _password_check(self, draft: UploadTask, password: str) -> str:
        """What makes a create with this password the same upload as an earlier one."""
        if draft.digest is None:
            return ""
        return resume_check(password, self._key, f"{draft.account_id} {draft.digest}")

    def _resumable(self, draft: UploadTask) -> UploadTask | None:
        """The task in progress for the same content and destination; the newest ask's type
        and expiry count, and asking is use."""
        identity, now = draft.identity(), draft.created_at
        if identity is None:
            return None
        held = self._catalog.task_by_identity(draft.account_id, identity, now)
        if held is None:
            return None
        try:
            self._store_of(held.pool_id).reader(held.layout).close()
        except FileNotFoundError:  # nothing can be sent to it: begin again
            self._catalog.cancel(held.account_id, held.id, now)
            return None
        return self._catalog.resume_task(draft)

    def _store_of(self, pool_id: str) -> BlobStore:
        return home_of(self._homes, pool_id).store

    def _begin(
        self, principal: Principal, draft: UploadTask, there: Destination, password: str | None
    ) -> UploadTask:
        """Raises QuotaExceeded, TooManyOpenUploads, TooManyUnsentBytes."""
        try:
            self.require_room(principal, there, draft.layout.size)
            if (check := self._check_of(draft)) is not None:
                check(self._catalog.open_uploads(draft.account_id, draft.created_at))
        except (QuotaExceeded, TooMany):
            held = self._resumable(draft)  # made meanwhile, perhaps taking the last room
            if held is None:
                raise
            return held
        return self._reserve(draft, there, password)

    def _reserve(self, draft: UploadTask, there: Destination, password: str | None) -> UploadTask:
        sealing = None
        if password is not None and draft.seal is not None:
            sealing = Sealing.new(password)
            wrapped = sealing.wrap(self._key, draft.id)
            draft = replace(
                draft, seal=replace(draft.seal, head=sealing.header, wrapped_key=wrapped)
            )
        store = there.home.store
        with store.intake() as intake:  # until the row names the bytes
            key = _reserve(intake, draft.layout, sealing)
            draft = replace(draft, layout=replace(draft.layout, key=key))
            try:
                task = self._catalog.add_task(draft, there.allowance, self._check_of(draft))
            except StorageFailed:
                raise  # the row may be there, now or after a restart: see I2
            except UpwellError:
                store.delete(key)  # of any other failure the outcome is not known, either
                raise
        if task.layout.key != key:
            store.delete(key)  # another create of the same upload came first
        return task

    def require_room(self, principal: Principal, there: Destination, size: int) -> None:
        allowance = there.allowance
        if allowance.pool is None and allowance.account is None:
            return
        pool = self._catalog.pool_usage(there.pool_id)
        account = self._catalog.usage(principal.account.id).values()
        policy.fit(size, allowance, pool, account)

    def _check_of(self, draft: UploadTask) -> Callable[[OpenUploads], None] | None:
        """What raises when the account may not begin this upload as well; None without limits,
        which saves the counting."""
        limits = self._limits.open
        if limits == _NO_LIMITS:
            return None
        return partial(policy.begin, draft.layout.size, limits)

    def file_of(
        self,
        account_id: str,
        new: NewUpload,
        there: Destination,
        blob: Blob,
        digest: Digest,
    ) -> CloudFile:
        """A new file of a content that is or will be stored."""
        now = self._clock()
        return CloudFile(
            id=new_id(),
            account_id=account_id,
            pool_id=there.pool_id,
            bundle_id=new.bundle_id,
            blob=blob,
            name=new.file_name,
            mime_type=new.content_type,
            digest=digest,
            expired_at=there.expired_at,
            created_at=now,
            updated_at=now,
        )


def sealed_of(store: BlobStore, layout: Layout, head: int) -> Sealed:
    """How an encrypted content lies that was stored whole."""
    with closing(store.open(layout.key)) as reader:
        check = fold_of(reader, stored_layout(layout, head))
    return Sealed(head, layout.chunk_size, check)


def _reserve(intake: Intake, layout: Layout, sealing: Sealing | None) -> str:
    if sealing is None:
        return intake.reserve(layout.size)
    if layout.size == 0:  # no chunk is going to bring what an empty age file consists of
        return intake.put(bytes(seal_whole(sealing, b"")))
    return intake.reserve(stored_layout(layout, len(sealing.header)).size)


def _same_destination(file: CloudFile, new: NewUpload, there: Destination) -> bool:
    wanted = (new.digest, new.file_name, there.pool_id, new.bundle_id)
    same = (file.digest, file.name, file.pool_id, file.bundle_id) == wanted
    return same and policy.is_same_end(file.expired_at, there.expired_at, new.expired_at)


def check_digest(declared: Digest | None, digests: dict[str, str]) -> None:
    if declared is None or digests[declared.algorithm] == declared.hex:
        return
    raise HashMismatch(
        "The received bytes do not have the declared hash. Send the chunks that differ again, "
        "or all of them, and complete again; nothing that was uploaded is lost.",
        meta={
            "expected": str(declared),
            "actual": f"{declared.algorithm}:{digests[declared.algorithm]}",
        },
    )
