"""The client that people program with: files in, files out, and all that is around them."""

from __future__ import annotations

from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from upwell.client.download import Downloaded, Received, download_file, download_to, download_zip
from upwell.client.folder import Item, Manner, items_in, upload_many
from upwell.client.progress import watcher_of
from upwell.client.settings import DEFAULT_CONNECTIONS
from upwell.client.sharing import BundleFields, SharingCalls
from upwell.client.sources import source_of
from upwell.client.state import TokenClaim
from upwell.client.upload import UploadOptions, upload_source
from upwell.client.webhooks import EventCalls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from os import PathLike
    from types import TracebackType
    from typing import BinaryIO, Self

    import httpx2

    from upwell.client.folder import FileResult
    from upwell.client.model import CloudFile, Holdings, Move, Page, Pool, UploadTask
    from upwell.client.progress import OnProgress, Watcher
    from upwell.client.retry import Retry
    from upwell.client.settings import Settings
    from upwell.client.sharing import Bundle, Link
    from upwell.client.sources import Content
    from upwell.client.stop import Stop
    from upwell.client.webhooks import Delivery, Event, Webhook

T = TypeVar("T")

PAGE = 100


class AllCalls(SharingCalls, EventCalls):
    """Every call of a server, a method each."""


def every(page: Callable[..., Page[T]]) -> Iterator[T]:
    """All items of a listing, read page by page; each once, also when others come or go."""
    found = page(take=PAGE)
    yield from found.items
    while found.cursor is not None:
        found = page(take=PAGE, after=found.cursor)
        yield from found.items


class Client:
    """A client of one Upwell server. A context manager; safe to use from several threads.

    >>> with Client("https://up.example", token) as client:  # doctest: +SKIP
    ...     file = client.upload("holiday.mp4")
    ...     client.download(file.id, "copy.mp4")

    ``connections`` is how many requests with content may be on their way at once; it takes as
    many of them as help. ``retry`` says how long to keep trying while nothing gets through.

    Every method raises :class:`ApiError` when the server refuses, :class:`ConnectionFailed` when
    it cannot be reached for longer than ``retry`` has patience, :class:`UnexpectedAnswer` when
    what answers is not Upwell, :class:`LocalFileError` when a file here is the problem; all of
    them are :class:`ClientError`.
    """

    calls: AllCalls
    files: Files
    uploads: Uploads
    bundles: Bundles
    pools: Pools
    webhooks: Webhooks

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        connections: int = DEFAULT_CONNECTIONS,
        retry: Retry | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        _wire(
            self, AllCalls(server, token, connections=connections, retry=retry, transport=transport)
        )

    @classmethod
    def of(cls, settings: Settings, retry: Retry | None = None) -> Self:
        """A client with these settings; see :func:`load_settings`."""
        return cls(settings.server, settings.token, connections=settings.connections, retry=retry)

    def until(self, stop: Stop) -> Self:
        """The same connections, for transfers that end with :class:`Interrupted` once ``stop`` is
        set. Closing either closes both."""
        return _wire(copy(self), self.calls.until(stop))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.calls.close()

    def upload(  # noqa: PLR0913 - all but the first are options, by name
        self,
        content: Content | Iterable[bytes],
        *,
        name: str | None = None,
        size: int | None = None,
        content_type: str | None = None,
        pool_id: str | None = None,
        bundle_id: str | None = None,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        password: str | None = None,
        chunk_size: int | None = None,
        check_first: bool = False,
        progress: OnProgress | Watcher | None = None,
        token: str | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> CloudFile:
        """Upload a file, and verify what the server stored.

        ``content`` is a path, bytes, an open binary file (read from where it stands), or an
        iterable of bytes. An iterable whose ``size`` in bytes is given is sent as it is read, with
        only the chunks on their way in memory; without, it is kept in a temporary file first.

        ``name`` and ``content_type`` come from the path when they are absent. ``expires_at``
        carries its time zone; ``expires_in`` is counted by the server's clock. With ``password``
        the server stores the file encrypted. ``check_first`` reads the content twice, so that what
        the account holds is not sent. ``progress`` is called with a :class:`Progress`, from the
        threads that send.

        ``on_token`` is called with a text as soon as the upload has begun. Keep it, and the upload
        can continue with ``token``, the same content and the same ``password``: in another process,
        on another day. It holds no secret. The other options count as they are given now; the pool
        alone cannot change any more. When the server no longer has the upload, or the file or the
        password is another one, it starts over and calls ``on_token`` again. With no password, or
        for content that is read only once, it continues under the password it began with.

        Raises:
            ApiError: also when ``token`` is of an upload that began in another pool.
            FileChanged: the content changed, or is not of the ``size`` that was said.
            ContentMismatch: the server stored something else.
        """
        options = UploadOptions(
            name=name,
            content_type=content_type,
            pool_id=pool_id,
            bundle_id=bundle_id,
            expires_at=expires_at,
            expires_in=expires_in,
            chunk_size=chunk_size,
            check_first=check_first,
            password=password,
        )
        claim, watcher = TokenClaim(token, on_token), watcher_of(progress)
        with source_of(content, name, size) as source:
            return upload_source(self.calls, source, options, watcher=watcher, claim=claim).file

    def upload_folder(
        self,
        folder: str | PathLike[str],
        *,
        pool_id: str | None = None,
        bundle_id: str | None = None,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        check_first: bool = True,
        progress: OnProgress | None = None,
    ) -> Iterator[FileResult]:
        """Upload the files in a folder and its folders, named by their path in it.

        Small files share requests, so that thousands of them are quick. A result for each file, as
        they end: one that fails does not keep the others. Only what the account does not hold yet
        is sent, so uploading a folder again continues; without ``check_first`` all is sent.
        ``progress`` tells of all of them together.

        >>> for result in client.upload_folder("photos"):  # doctest: +SKIP
        ...     print(result.item.path, result.error or result.file.id)
        """
        options = UploadOptions(
            pool_id=pool_id, bundle_id=bundle_id, expires_at=expires_at, expires_in=expires_in
        )
        manner = Manner(options=options, check_first=check_first, progress=progress)
        return self.upload_many(list(items_in(Path(folder))), manner)

    def upload_many(self, items: Sequence[Item], manner: Manner) -> Iterator[FileResult]:
        """Upload files, several at a time; a result for each, as they end.

        What would meet all of them (the server is gone, the token is not valid) ends the whole
        with that error in every result that is left. Closing the iterator stops what is under way.
        """
        return upload_many(self.calls, items, manner)

    def download(
        self,
        file_id: str,
        target: str | PathLike[str],
        *,
        force: bool = False,
        password: str | None = None,
        progress: OnProgress | Watcher | None = None,
    ) -> Downloaded:
        """Download a file to a path, or into a folder under its own name.

        What arrives at a path collects in ``NAME.part``, which a later call continues; the file
        gets its name once size and digest are right. ``force`` allows replacing a file.

        Raises:
            TargetExists: the target is there and ``force`` is not given.
            ContentMismatch: what arrived is not the file.
        """
        watcher, path = watcher_of(progress), Path(target)
        return download_file(
            self.calls, file_id, path, force=force, watcher=watcher, password=password
        )

    def download_to(
        self,
        file_id: str,
        stream: BinaryIO,
        *,
        password: str | None = None,
        progress: OnProgress | Watcher | None = None,
    ) -> Received:
        """Write a file's content to a file object.

        A connection that breaks is made again, and goes on where it was. What was written before
        an error stays written: only a normal return vouches for it.
        """
        watcher = watcher_of(progress)
        return download_to(self.calls, file_id, stream, watcher=watcher, password=password)

    def events(self, after: int | None = None) -> Iterator[Event]:
        """Events of the account as they happen, without an end: those after number ``after``, or
        from now on. A connection that breaks is made again, and goes on where it was."""
        return self.calls.follow(after)

    def usage(self) -> Holdings:
        """What the account holds, by pool, and how much it may."""
        return self.calls.holdings()


AnyClient = TypeVar("AnyClient", bound=Client)


def _wire(client: AnyClient, calls: AllCalls) -> AnyClient:
    client.calls = calls
    client.files = Files(calls)
    client.uploads = Uploads(calls)
    client.bundles = Bundles(calls)
    client.pools = Pools(calls)
    client.webhooks = Webhooks(calls)
    return client


class Files:
    """What is stored: ``client.files``."""

    def __init__(self, calls: AllCalls) -> None:
        self._calls = calls

    def list(
        self, *, offset: int = 0, take: int = PAGE, after: str | None = None
    ) -> Page[CloudFile]:
        """Some of the account's files, newest first. ``after`` is the cursor of an earlier page."""
        return self._calls.files(offset=offset, take=take, after=after)

    def all(self) -> Iterator[CloudFile]:
        """All of the account's files, newest first, read page by page.

        Each file comes once, also while you delete or upload others.
        """
        return every(self.list)

    def info(self, file_id: str) -> CloudFile:
        """What the server knows about a file."""
        return self._calls.info(file_id)

    def rename(self, file_id: str, name: str) -> CloudFile:
        """Give a file another name."""
        return self._calls.rename(file_id, name)

    def set_meta(self, file_id: str, meta: Mapping[str, Any]) -> CloudFile:
        """Replace your own metadata of a file: any JSON object, to 64 KiB."""
        return self._calls.set_meta(file_id, meta)

    def delete(self, file_id: str) -> None:
        """Delete a file; into the recycle bin where its pool has one."""
        self._calls.delete(file_id)

    def recycled(
        self, *, offset: int = 0, take: int = PAGE, after: str | None = None
    ) -> Page[CloudFile]:
        """Some of what is in the recycle bin, newest first."""
        return self._calls.recycled(offset=offset, take=take, after=after)

    def all_recycled(self) -> Iterator[CloudFile]:
        """Everything in the recycle bin, newest first, read page by page."""
        return every(self.recycled)

    def restore(self, file_id: str) -> CloudFile:
        """Take a file out of the recycle bin."""
        return self._calls.restore(file_id)

    def move(self, file_id: str, pool_id: str) -> Move:
        """Have a file's bytes moved to another pool; asking again is no second move."""
        return self._calls.move(file_id, pool_id)

    def moves(self, file_id: str) -> Sequence[Move]:
        """The latest moves of a file, newest first."""
        return self._calls.moves(file_id)

    def share(
        self,
        file_id: str,
        *,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        max_downloads: int | None = None,
    ) -> Link:
        """A signed link: whoever has its ``url`` reads the file."""
        return self._calls.share(
            file_id, expires_at=expires_at, expires_in=expires_in, max_downloads=max_downloads
        )

    def links(self, file_id: str) -> Sequence[Link]:
        """The live links to a file, newest first."""
        return [*every(partial(self._calls.links, file_id))]

    def unshare(self, link_id: str) -> None:
        """Revoke a link."""
        self._calls.unshare(link_id)


class Uploads:
    """What is on its way: ``client.uploads``."""

    def __init__(self, calls: AllCalls) -> None:
        self._calls = calls

    def list(
        self,
        *,
        status: str | None = "in_progress",
        offset: int = 0,
        take: int = PAGE,
        after: str | None = None,
    ) -> Page[UploadTask]:
        """Some of the account's uploads, newest first; ``status`` None for those that ended too."""
        return self._calls.tasks(status=status, offset=offset, take=take, after=after)

    def all(self, *, status: str | None = "in_progress") -> Iterator[UploadTask]:
        """All of the account's uploads, newest first, read page by page; see :meth:`list`."""
        return every(partial(self.list, status=status))

    def info(self, task_id: str) -> UploadTask:
        """What the server has of an upload and what is missing."""
        return self._calls.resume(task_id)

    def cancel(self, task_id: str) -> None:
        """Give an upload up; the server frees its bytes."""
        self._calls.cancel(task_id)


class Bundles:
    """Files at one public address: ``client.bundles``."""

    def __init__(self, calls: AllCalls) -> None:
        self._calls = calls

    def create(
        self,
        name: str,
        *,
        slug: str | None = None,
        description: str | None = None,
        passcode: str | None = None,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
    ) -> Bundle:
        """Make a bundle; its ``url`` is for everybody, or for those who know the ``passcode``."""
        return self._calls.create_bundle(
            BundleFields(
                name=name,
                slug=slug,
                description=description,
                passcode=passcode,
                expires_at=expires_at,
                expires_in=expires_in,
            )
        )

    def list(self, *, offset: int = 0, take: int = PAGE, after: str | None = None) -> Page[Bundle]:
        """Some of the account's bundles, newest first."""
        return self._calls.bundles(offset=offset, take=take, after=after)

    def all(self) -> Iterator[Bundle]:
        """All of the account's bundles, newest first, read page by page."""
        return every(self.list)

    def info(self, bundle_id: str) -> Bundle:
        """What a bundle is."""
        return self._calls.bundle(bundle_id)

    def change(self, bundle_id: str, fields: BundleFields, *, unset: Sequence[str] = ()) -> Bundle:
        """Change what ``fields`` names; ``unset`` takes away: description, passcode, expired_at."""
        return self._calls.change_bundle(bundle_id, fields, unset)

    def delete(self, bundle_id: str) -> None:
        """Delete a bundle with its files, which go to the recycle bin where there is one."""
        self._calls.delete_bundle(bundle_id)

    def files(
        self, bundle_id: str, *, offset: int = 0, take: int = PAGE, after: str | None = None
    ) -> Page[CloudFile]:
        """Some of a bundle's files, oldest first."""
        return self._calls.bundle_files(bundle_id, offset=offset, take=take, after=after)

    def all_files(self, bundle_id: str) -> Iterator[CloudFile]:
        """All of a bundle's files, oldest first, read page by page."""
        return every(partial(self.files, bundle_id))

    def add(self, bundle_id: str, file_id: str) -> CloudFile:
        """Put a file into a bundle. ``upload(…, bundle_id=…)`` does so from the start."""
        return self._calls.place(file_id, bundle_id)

    def remove(self, file_id: str) -> CloudFile:
        """Take a file out of the bundle it is in; it stays yours."""
        return self._calls.take_out(file_id)

    def download(
        self,
        bundle_id: str,
        target: str | PathLike[str],
        *,
        force: bool = False,
        progress: OnProgress | Watcher | None = None,
    ) -> Path:
        """Download all files of a bundle as one ZIP to a path, or into a folder; its path.

        A later call continues it while the bundle is the same; the ZIP gets its name once the
        checksum of every file in it is right.
        """
        bundle, watcher = self.info(bundle_id), watcher_of(progress)
        return download_zip(self._calls, bundle, Path(target), force=force, watcher=watcher)


class Pools:
    """Where bytes live: ``client.pools``."""

    def __init__(self, calls: AllCalls) -> None:
        self._calls = calls

    def list(self) -> Sequence[Pool]:
        """The pools that the account may use, oldest first."""
        return self._calls.pools()


class Webhooks:
    """Who is told of events: ``client.webhooks``."""

    def __init__(self, calls: AllCalls) -> None:
        self._calls = calls

    def add(self, url: str, events: Sequence[str] = ()) -> Webhook:
        """Have events posted to ``url``, of these types or of all. Its secret is told only now."""
        return self._calls.add_webhook(url, events)

    def list(self) -> Sequence[Webhook]:
        """The account's webhooks, oldest first."""
        return self._calls.webhooks()

    def remove(self, webhook_id: str) -> None:
        """Post nothing more to a webhook."""
        self._calls.remove_webhook(webhook_id)

    def enable(self, webhook_id: str) -> Webhook:
        """Send it events again, from now on."""
        return self._calls.enable_webhook(webhook_id)

    def test(self, webhook_id: str) -> Delivery:
        """Have a test message sent; its delivery, which has not happened yet."""
        return self._calls.test_webhook(webhook_id)

    def deliveries(
        self, webhook_id: str, *, offset: int = 0, take: int = PAGE
    ) -> Sequence[Delivery]:
        """Some of what was or will be sent to a webhook, newest first."""
        page = self._calls.deliveries(webhook_id, offset=offset, take=take)
        return page.items

    def all_deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """All of what was or will be sent to a webhook, newest first, read page by page."""
        return every(partial(self._calls.deliveries, webhook_id))
