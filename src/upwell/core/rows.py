"""The rows that the core keeps: the parts of the port ``Catalog``, by what they are about.

What holds for all of them is said there (``core.ports``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from upwell.model import ALL_FILES, NO_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from upwell.core.ports import Chunks
    from upwell.core.records import NewFile, Page
    from upwell.errors import UpwellError
    from upwell.model import (
        Account,
        Allowance,
        Blob,
        Bundle,
        Chunk,
        CloudFile,
        Digest,
        Event,
        FileQuery,
        Garbage,
        Job,
        JobKind,
        Link,
        NewJob,
        OpenUploads,
        Pool,
        Principal,
        TaskStatus,
        Token,
        UploadTask,
        Usage,
        Webhook,
    )


class AccountRows(Protocol):
    def add_account(self, account: Account) -> None:
        """Raises AccountExists when the name is taken."""
        ...

    def account(self, name: str) -> Account | None: ...

    def accounts(self) -> list[Account]: ...

    def add_token(self, token: Token) -> None: ...

    def tokens(self, account_id: str) -> list[Token]: ...

    def revoke_token(self, account_id: str, token_id: str, now: datetime) -> bool:
        """Whether there was such a live token."""
        ...

    def principal(self, digest: bytes, now: datetime) -> Principal | None:
        """Whose live token this is the SHA-256 of."""
        ...

    def add_login(self, digest: bytes, account_id: str, expires_at: datetime) -> None: ...

    def take_login(self, digest: bytes, now: datetime) -> Account | None:
        """Spend a one-time login code: it works once."""
        ...

    def set_quota(self, account_id: str, quota: int | None) -> None:
        """Bytes the account may hold over all pools; None for the server's default."""
        ...


class UploadRows(Protocol):
    def add_task(
        self,
        task: UploadTask,
        allowance: Allowance,
        check: Callable[[OpenUploads], None] | None = None,
    ) -> UploadTask:
        """Record a task, unless one of the same account and identity is in progress: then
        that one is returned, with the newcomer's ``content_type`` and ``expired_at``, and its
        expiry slides. Raises QuotaExceeded when its bytes and what is held already are more
        than ``allowance``; PoolNotFound when its pool was removed; what ``check`` raises, which
        is given what the account has in progress, in the same transaction."""
        ...

    def open_uploads(self, account_id: str, now: datetime) -> OpenUploads:
        """What an account has in progress."""
        ...

    def task(self, account_id: str, task_id: str, now: datetime) -> UploadTask | None:
        """An expired task is not found."""
        ...

    def task_by_identity(self, account_id: str, identity: str, now: datetime) -> UploadTask | None:
        """The task in progress for this content and destination."""
        ...

    def resume_task(self, task: UploadTask) -> UploadTask | None:
        """What ``add_task`` does when there is such a task in progress; None, and nothing is
        recorded, when there is none."""
        ...

    def change_task(self, task: UploadTask) -> UploadTask | None:
        """Give the task in progress with this id the name, content type, bundle and file
        expiry of ``task``; its own expiry slides. None when it is not in progress. When another
        task of the account has the resulting identity, this one loses its own: create finds the
        other."""
        ...

    def tasks(
        self,
        account_id: str,
        status: TaskStatus | None,
        now: datetime,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[UploadTask]:
        """Newest first."""
        ...

    def chunk(self, task_id: str, index: int) -> Chunk | None: ...

    def chunks(self, task_id: str) -> Chunks: ...

    def chunk_indexes(self, task_id: str) -> list[int]:
        """Acknowledged indexes, ascending."""
        ...

    def record_chunk(
        self,
        task_id: str,
        chunk: Chunk,
        now: datetime,
        expires_at: datetime,
        allowance: Allowance = NO_LIMIT,
    ) -> UploadTask:
        """Acknowledge a chunk and slide the task's expiry; the task as it is then.

        Replacing a chunk by other bytes, or by a side object, adds one to ``revision``. A side
        object is reserved beside the upload's size as long as its row names it. Raises
        QuotaExceeded when that is more than ``allowance``, TaskClosed when the task is no longer
        in progress.
        """
        ...

    def intend_chunk(self, task_id: str, index: int, fingerprint: str) -> str:
        """Record what an encrypted chunk is going to be sealed from, the first time; what was
        recorded then. Never forgotten while the task is in progress. Raises TaskClosed."""
        ...

    def fingerprints(self, task_id: str) -> list[str]:
        """What ``intend_chunk`` recorded, by ascending index."""
        ...

    def complete(
        self,
        task_id: str,
        revision: int,
        blob: Blob,
        file: CloudFile,
        jobs: Sequence[NewJob] = (),
    ) -> CloudFile:
        """Turn a task into a file (I4), once: the file it became, now or earlier. The wrapped
        key of its seal is erased.

        Raises TaskClosed when it was cancelled, or when ``revision`` is not the task's.
        """
        ...

    def cancel(self, account_id: str, task_id: str, now: datetime) -> bool:
        """Close a task in progress and mark its bytes as garbage, in one transaction."""
        ...

    def expire_tasks(self, now: datetime) -> int:
        """Close tasks past their expiry as ``cancel`` does; how many."""
        ...


class FileRows(Protocol):
    """A file past its ``expired_at`` is not found by any of these; nor is one in the recycle
    bin, unless that is said."""

    def add_file(
        self, blob: Blob, file: CloudFile, allowance: Allowance, jobs: Sequence[NewJob] = ()
    ) -> None:
        """Record a file with bytes of its own. Raises QuotaExceeded, PoolNotFound."""
        ...

    def add_files(self, new: Sequence[NewFile]) -> list[UpwellError | None]:
        """``add_file`` for many, each recorded or refused for itself: what each was refused
        with. All that was recorded is durable; not all of it came in one transaction."""
        ...

    def share_blob(self, file: CloudFile, jobs: Sequence[NewJob] = ()) -> bool:
        """Record a file on the blob it names; False when that blob is gone. Raises
        PoolNotFound."""
        ...

    def duplicates(
        self, account_id: str, digest: Digest, size: int, now: datetime
    ) -> list[CloudFile]:
        """The account's files of this content that are not encrypted, newest first."""
        ...

    def file(self, file_id: str, now: datetime, account_id: str | None) -> CloudFile | None:
        """Of any account when None is named."""
        ...

    def file_of_task(self, account_id: str, task_id: str, now: datetime) -> CloudFile | None: ...

    def files(
        self,
        account_id: str,
        now: datetime,
        offset: int,
        take: int,
        query: FileQuery = ALL_FILES,
        *,
        recycled: bool = False,
        after: str | None = None,
    ) -> Page[CloudFile]:
        """Those in the recycle bin when ``recycled``. Every order is total.

        A search of three characters and more sorts by the order of recording where a list sorts
        by age. It counts a thousand files exactly; for more its ``total`` is a lower bound,
        greater than what the page ends with while there is a next one.
        """
        ...

    def update_file(
        self,
        file_id: str,
        account_id: str,
        now: datetime,
        change: Callable[[CloudFile], CloudFile],
    ) -> CloudFile | None:
        """Change name, meta, marks, type or expiry; the file as changed."""
        ...

    def delete_file(self, file_id: str, account_id: str, now: datetime) -> bool:
        """Remove the row, also of one in the recycle bin, and mark the bytes and what was
        derived from them as garbage when no other file shares them (I8)."""
        ...

    def recycle_file(self, file_id: str, account_id: str, now: datetime) -> bool:
        """Put a file into the recycle bin."""
        ...

    def restore_file(self, file_id: str, account_id: str, now: datetime) -> CloudFile | None:
        """Take a file out of the recycle bin; the file."""
        ...

    def purge_recycled(self, before: datetime) -> int:
        """Delete what was put into the recycle bin before that; how many."""
        ...

    def move_file(
        self, file_id: str, account_id: str, blob: Blob, now: datetime, allowance: Allowance
    ) -> CloudFile | None:
        """Record that a file's bytes are those of a new ``blob``, in the pool of that one; the
        bytes it had are let go as ``delete_file`` does. None when the file is gone, or is in
        that pool already. Raises PoolNotFound; QuotaExceeded: ``allowance.account`` counts only
        when other files keep the bytes it had."""
        ...

    def describe_blob(
        self,
        blob_id: str,
        facts: dict[str, Any],
        thumbnail_key: str | None,
        preview_key: str | None,
    ) -> bool:
        """Record what a content is, once; False when the blob is gone or is described, and
        then the keys are not taken."""
        ...

    def set_crc32(self, blob_id: str, crc32: int) -> None: ...

    def expire_files(self, now: datetime) -> int:
        """Delete files past their expiry as ``delete_file`` does; how many."""
        ...


class PoolRows(Protocol):
    def add_pool(self, pool: Pool, check: Callable[[list[Pool]], None] = lambda _: None) -> None:
        """Raises PoolExists when the name is taken, and what ``check`` raises, which is given
        the pools that there are, in the same transaction: it must be quick."""
        ...

    def pool(self, pool_id: str) -> Pool | None: ...

    def pools(self) -> list[Pool]:
        """Oldest first."""
        ...

    def update_pool(
        self, pool_id: str, now: datetime, change: Callable[[Pool], Pool]
    ) -> Pool | None:
        """Change name and policy; the pool as changed. Raises PoolExists."""
        ...

    def delete_pool(self, pool_id: str) -> bool:
        """Whether there was such a pool. Raises PoolInUse while an upload in progress, a file
        or a blob is in it."""
        ...

    def pool_usage(self, pool_id: str) -> Usage:
        """What all accounts hold in a pool."""
        ...

    def usage(self, account_id: str) -> Mapping[str, Usage]:
        """What an account holds, by pool; in the recycle bin too, and what has expired until it
        is swept. ``stored_bytes`` counts bytes that several files share once."""
        ...


class BundleRows(Protocol):
    """A bundle past its ``expired_at`` is not found."""

    def add_bundle(self, bundle: Bundle) -> None:
        """Raises SlugTaken."""
        ...

    def bundle(self, bundle_id: str, account_id: str, now: datetime) -> Bundle | None: ...

    def bundle_by_slug(self, slug: str, now: datetime) -> Bundle | None: ...

    def bundle_of_file(self, file_id: str, now: datetime) -> Bundle | None:
        """The bundle that a file is in."""
        ...

    def bundles(
        self, account_id: str, now: datetime, offset: int, take: int, after: str | None = None
    ) -> Page[Bundle]:
        """Newest first."""
        ...

    def bundle_files(
        self, bundle_id: str, now: datetime, offset: int, take: int, after: str | None = None
    ) -> Page[CloudFile]:
        """Oldest first."""
        ...

    def update_bundle(
        self,
        bundle_id: str,
        account_id: str,
        now: datetime,
        change: Callable[[Bundle], Bundle],
    ) -> Bundle | None:
        """Change slug, name, description, passcode or expiry; the bundle as changed.

        Its files live no longer than it does: those that would are cut to its new expiry, and
        those that were cut to its old one go with it. Raises SlugTaken.
        """
        ...

    def set_bundle(
        self, file_id: str, account_id: str, bundle_id: str | None, now: datetime
    ) -> CloudFile | None:
        """Put a file into a bundle of the account's, or take it out; the file as changed, its
        expiry cut to the bundle's. None when there is no such file or bundle."""
        ...

    def delete_bundle(self, bundle_id: str, account_id: str, now: datetime) -> bool:
        """Remove a bundle. Its files go to the recycle bin where their pool has one, and are
        deleted elsewhere; its uploads in progress go on without it."""
        ...

    def expire_bundles(self, now: datetime) -> int:
        """Remove bundles past their expiry; how many."""
        ...


class LinkRows(Protocol):
    """Signed links, and the guesses at what guards files and bundles."""

    def add_link(self, link: Link) -> None: ...

    def link(self, link_id: str, now: datetime) -> Link | None:
        """A link past its ``expires_at`` is not found."""
        ...

    def links(
        self,
        account_id: str,
        file_id: str,
        now: datetime,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[Link]:
        """The live links to a file, newest first."""
        ...

    def remove_link(self, link_id: str, account_id: str) -> bool:
        """Whether there was such a link."""
        ...

    def spend_link(self, link_id: str, amount: int, now: datetime) -> bool:
        """Take bytes from a link's allowance; False, and nothing taken, when it has not that
        many left or is gone. A link without an allowance has any number."""
        ...

    def refund_link(self, link_id: str, amount: int) -> None:
        """Give back what was spent and not handed out."""
        ...

    def expire_links(self, now: datetime) -> int: ...

    def guess(
        self, subject: str, now: datetime, interval: timedelta, burst: int
    ) -> datetime | None:
        """Count a guess at a secret, before it is looked at: None when it may be made, or else
        the instant from which on one may be, and nothing is counted.

        ``burst`` guesses may be made at once, and another one every ``interval`` (GCRA,
        ITU-T I.371). Atomic across processes.
        """
        ...

    def forgive(self, subject: str) -> None:
        """Forget the guesses: one was right."""
        ...

    def expire_guesses(self, now: datetime) -> int:
        """Forget guesses that no longer matter."""
        ...


class EventRows(Protocol):
    def events(self, account_id: str, after: int, take: int) -> list[Event]:
        """The account's events with a greater ``seq``, oldest first."""
        ...

    def event(self, seq: int) -> Event | None: ...

    def last_event(self, account_id: str) -> int:
        """The account's newest ``seq``; 0 when there is none."""
        ...

    def forget_events(self, before: datetime) -> int:
        """Remove a bounded number of events older than that; how many."""
        ...

    def add_webhook(self, webhook: Webhook, most: int) -> bool:
        """False, and nothing recorded, when the account has ``most`` webhooks already."""
        ...

    def webhooks(self, account_id: str) -> list[Webhook]:
        """Oldest first."""
        ...

    def webhook(self, webhook_id: str, account_id: str | None = None) -> Webhook | None:
        """Of any account when none is named."""
        ...

    def remove_webhook(self, webhook_id: str, account_id: str) -> bool:
        """Remove it with its deliveries; whether there was such a webhook."""
        ...

    def disable_webhook(self, webhook_id: str, now: datetime | None) -> None:
        """Send it nothing more, from now on; with None, enable it again."""
        ...


class JobRows(Protocol):
    """Work under leases: a job whose holder died is due again when its lease runs out."""

    def add_job(self, job: NewJob, now: datetime, *, once: bool = False) -> Job:
        """With ``once``, a job of the same kind, subject and argument that has not ended is
        returned, and nothing recorded."""
        ...

    def claim_job(
        self,
        kinds: Collection[JobKind],
        holder: str,
        now: datetime,
        until: datetime,
        after: str | None = None,
    ) -> Job | None:
        """Take the job that has been due for longest, until then; its attempts are counted
        here. No two holders are ever given the same job at once.

        With ``after``, an account's id, accounts take turns: the job is that of the next account
        in the order of ids, beginning again after the last one.
        """
        ...

    def renew_job(self, job_id: int, holder: str, until: datetime) -> bool:
        """Hold it longer; False when somebody else took it over."""
        ...

    def finish_job(self, job_id: int, holder: str, now: datetime, error: str | None = None) -> bool:
        """It is done, or has failed for good. False when somebody else took it over."""
        ...

    def retry_job(self, job_id: int, holder: str, due_at: datetime, error: str) -> bool:
        """It failed, and is to be tried again then."""
        ...

    def release_job(self, job_id: int, holder: str, due_at: datetime) -> bool:
        """It was not done, and is no failure: that it was claimed does not count."""
        ...

    def job(self, job_id: int) -> Job | None: ...

    def jobs(
        self, kind: JobKind, subject: str, offset: int, take: int, after: str | None = None
    ) -> Page[Job]:
        """Those about one subject, newest first."""
        ...

    def next_due(self, kinds: Collection[JobKind]) -> datetime | None:
        """When the next job is due."""
        ...

    def forget_jobs(self, before: datetime) -> int:
        """Remove a bounded number of jobs that ended before that; how many."""
        ...


class SweepRows(Protocol):
    def garbage(self, limit: int) -> list[Garbage]: ...

    def is_garbage(self, item: Garbage) -> bool: ...

    def forget_garbage(self, items: Sequence[Garbage]) -> None: ...

    def staged_names(self, key: str) -> set[str]:
        """The side objects that chunks of the task in progress under ``key`` name."""
        ...

    def unknown_keys(self, pool_id: str, keys: Sequence[str]) -> set[str]:
        """Which of these keys no live task, blob, derived image or garbage row names."""
        ...

    def forget_tasks(self, before: datetime) -> int:
        """Remove a bounded number of tasks that ended before that; how many."""
        ...

    def lease(self, name: str, holder: str, now: datetime, until: datetime) -> bool:
        """Take or renew a lease that is free, run out or one's own."""
        ...


class RecoveryRows(Protocol):
    """Recovery's side; each iterator may be used while rows are changed."""

    def open_tasks(self) -> Iterator[UploadTask]:
        """Every task in progress, of all accounts."""
        ...

    def forget_chunk(self, task_id: str, chunk: Chunk, now: datetime) -> bool:
        """Take back an acknowledgement: the chunk is missing again, the figures are counted
        again, and ``revision`` grows, so that no digest taken before counts. False, and nothing
        is changed, when another chunk has taken its place. Raises TaskClosed when the task is
        no longer in progress."""
        ...

    def blobs(self) -> Iterator[Blob]: ...

    def rekey_blob(self, blob_id: str, key: str, now: datetime) -> bool:
        """Record that a blob's bytes lie under another key of the same pool; those under the
        old one become garbage. False when the blob is gone."""
        ...

    def repair_usage(self) -> int:
        """Count anew what every account holds in every pool; how many figures were wrong."""
        ...

    def any_file(self, file_id: str) -> CloudFile | None:
        """A file of any account, expired or recycled ones too."""
        ...

    def files_of_blob(self, blob_id: str) -> list[CloudFile]:
        """Every file on the blob, expired and recycled ones too."""
        ...
