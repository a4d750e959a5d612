"""The same client for asyncio: every verb awaited.

It runs the blocking one in threads: transfers are as fast, and there is one implementation to
trust. A task that is cancelled stops its transfer before it ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, TypeVar

from upwell.client.client import PAGE, Client
from upwell.client.settings import DEFAULT_CONNECTIONS
from upwell.client.threads import in_loop, pieces, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime, timedelta
    from os import PathLike
    from pathlib import Path
    from types import TracebackType
    from typing import BinaryIO, Self

    import httpx2

    from upwell.client.download import Downloaded, Received
    from upwell.client.folder import FileResult
    from upwell.client.model import CloudFile, Holdings, Move, Page, Pool, UploadTask
    from upwell.client.progress import OnProgress
    from upwell.client.retry import Retry
    from upwell.client.sharing import Bundle, BundleFields, Link
    from upwell.client.sources import Content
    from upwell.client.stop import Stop
    from upwell.client.webhooks import Delivery, Event, Webhook

T = TypeVar("T")


class AsyncClient:
    """A client of one Upwell server, for asyncio. An asynchronous context manager.

    >>> async with AsyncClient("https://up.example", token) as client:  # doctest: +SKIP
    ...     file = await client.upload("holiday.mp4")
    ...     await client.download(file.id, "copy.mp4")

    Parameters, answers and errors are those of :class:`Client`. ``progress`` and ``on_token`` are
    called in the event loop. A task that is cancelled stops what it was doing: when it ends,
    nothing of it is running, unless a request hangs in the network for more than seconds.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        connections: int = DEFAULT_CONNECTIONS,
        retry: Retry | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        client = Client(server, token, connections=connections, retry=retry, transport=transport)
        self._client = client
        self.files = AsyncFiles(client)
        self.uploads = AsyncUploads(client)
        self.bundles = AsyncBundles(client)
        self.pools = AsyncPools(client)
        self.webhooks = AsyncWebhooks(client)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        self._client.close()

    async def upload(  # noqa: PLR0913 - all but the first are options, by name
        self,
        content: Content | Iterable[bytes] | AsyncIterable[bytes],
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
        progress: OnProgress | None = None,
        token: str | None = None,
        on_token: Callable[[str], object] | None = None,
    ) -> CloudFile:
        """See :meth:`Client.upload`; ``content`` may be an asynchronous iterable, too."""
        tell, keep, loop = in_loop(progress), in_loop(on_token), asyncio.get_running_loop()

        def work(stop: Stop) -> CloudFile:
            return self._client.until(stop).upload(
                pieces(content, loop, stop) if isinstance(content, AsyncIterable) else content,
                name=name,
                size=size,
                content_type=content_type,
                pool_id=pool_id,
                bundle_id=bundle_id,
                expires_at=expires_at,
                expires_in=expires_in,
                password=password,
                chunk_size=chunk_size,
                check_first=check_first,
                progress=tell,
                token=token,
                on_token=keep,
            )

        return await run(work)

    async def upload_folder(
        self,
        folder: str | PathLike[str],
        *,
        pool_id: str | None = None,
        bundle_id: str | None = None,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        check_first: bool = True,
        progress: OnProgress | None = None,
    ) -> AsyncIterator[FileResult]:
        """See :meth:`Client.upload_folder`.

        >>> async for result in client.upload_folder("photos"):  # doctest: +SKIP
        ...     print(result.item.path, result.error or result.file.id)
        """
        tell = in_loop(progress)

        def begin(client: Client) -> Iterator[FileResult]:
            return client.upload_folder(
                folder,
                pool_id=pool_id,
                bundle_id=bundle_id,
                expires_at=expires_at,
                expires_in=expires_in,
                check_first=check_first,
                progress=tell,
            )

        async for result in each(self._client, begin):
            yield result

    async def download(
        self,
        file_id: str,
        target: str | PathLike[str],
        *,
        force: bool = False,
        password: str | None = None,
        progress: OnProgress | None = None,
    ) -> Downloaded:
        """See :meth:`Client.download`."""
        tell = in_loop(progress)
        return await run(
            lambda stop: self._client.until(stop).download(
                file_id, target, force=force, password=password, progress=tell
            )
        )

    async def download_to(
        self,
        file_id: str,
        stream: BinaryIO,
        *,
        password: str | None = None,
        progress: OnProgress | None = None,
    ) -> Received:
        """See :meth:`Client.download_to`; ``stream`` is written to in a thread."""
        tell = in_loop(progress)
        return await run(
            lambda stop: self._client.until(stop).download_to(
                file_id, stream, password=password, progress=tell
            )
        )

    async def events(self, after: int | None = None) -> AsyncIterator[Event]:
        """See :meth:`Client.events`."""
        async for event in each(self._client, lambda client: client.events(after)):
            yield event

    async def usage(self) -> Holdings:
        """See :meth:`Client.usage`."""
        return await run(lambda stop: self._client.until(stop).usage())


async def each(client: Client, begin: Callable[[Client], Iterator[T]]) -> AsyncIterator[T]:
    """The items of a blocking iterator, read in a thread; it ends with this one."""
    items: asyncio.Queue[T | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def feed(stop: Stop) -> None:
        for item in begin(client.until(stop)):
            loop.call_soon_threadsafe(items.put_nowait, item)

    feeding = asyncio.ensure_future(run(feed))
    feeding.add_done_callback(lambda _: items.put_nowait(None))
    try:
        while (item := await items.get()) is not None:
            yield item
        feeding.result()
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])


class AsyncFiles:
    """:class:`Files`, awaited: ``client.files``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(
        self, *, offset: int = 0, take: int = PAGE, after: str | None = None
    ) -> Page[CloudFile]:
        """See :meth:`Files.list`."""
        return await run(
            lambda stop: self._client.until(stop).files.list(offset=offset, take=take, after=after)
        )

    def all(self) -> AsyncIterator[CloudFile]:
        """See :meth:`Files.all`."""
        return each(self._client, lambda client: client.files.all())

    async def info(self, file_id: str) -> CloudFile:
        """See :meth:`Files.info`."""
        return await run(lambda stop: self._client.until(stop).files.info(file_id))

    async def rename(self, file_id: str, name: str) -> CloudFile:
        """See :meth:`Files.rename`."""
        return await run(lambda stop: self._client.until(stop).files.rename(file_id, name))

    async def set_meta(self, file_id: str, meta: Mapping[str, Any]) -> CloudFile:
        """See :meth:`Files.set_meta`."""
        return await run(lambda stop: self._client.until(stop).files.set_meta(file_id, meta))

    async def delete(self, file_id: str) -> None:
        """See :meth:`Files.delete`."""
        await run(lambda stop: self._client.until(stop).files.delete(file_id))

    async def recycled(
        self, *, offset: int = 0, take: int = PAGE, after: str | None = None
    ) -> Page[CloudFile]:
        """See :meth:`Files.recycled`."""
        return await run(
            lambda stop: self._client.until(stop).files.recycled(
                offset=offset, take=take, after=after
            )
        )

    def all_recycled(self) -> AsyncIterator[CloudFile]:
        """See :meth:`Files.all_recycled`."""
        return each(self._client, lambda client: client.files.all_recycled())

    async def restore(self, file_id: str) -> CloudFile:
        """See :meth:`Files.restore`."""
        return await run(lambda stop: self._client.until(stop).files.restore(file_id))

    async def move(self, file_id: str, pool_id: str) -> Move:
        """See :meth:`Files.move`."""
        return await run(lambda stop: self._client.until(stop).files.move(file_id, pool_id))

    async def moves(self, file_id: str) -> Sequence[Move]:
        """See :meth:`Files.moves`."""
        return await run(lambda stop: self._client.until(stop).files.moves(file_id))

    async def share(
        self,
        file_id: str,
        *,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        max_downloads: int | None = None,
    ) -> Link:
        """See :meth:`Files.share`."""
        return await run(
            lambda stop: self._client.until(stop).files.share(
                file_id, expires_at=expires_at, expires_in=expires_in, max_downloads=max_downloads
            )
        )

    async def links(self, file_id: str) -> Sequence[Link]:
        """See :meth:`Files.links`."""
        return await run(lambda stop: self._client.until(stop).files.links(file_id))

    async def unshare(self, link_id: str) -> None:
        """See :meth:`Files.unshare`."""
        await run(lambda stop: self._client.until(stop).files.unshare(link_id))


class AsyncUploads:
    """:class:`Uploads`, awaited: ``client.uploads``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(
        self,
        *,
        status: str | None = "in_progress",
        offset: int = 0,
        take: int = PAGE,
        after: str | None = None,
    ) -> Page[UploadTask]:
        """See :meth:`Uploads.list`."""
        return await run(
            lambda stop: self._client.until(stop).uploads.list(
                status=status, offset=offset, take=take, after=after
            )
        )

    def all(self, *, status: str | None = "in_progress") -> AsyncIterator[UploadTask]:
        """See :meth:`Uploads.all`."""
        return each(self._client, lambda client: client.uploads.all(status=status))

    async def info(self, task_id: str) -> UploadTask:
        """See :meth:`Uploads.info`."""
        return await run(lambda stop: self._client.until(stop).uploads.info(task_id))

    async def cancel(self, task_id: str) -> None:
        """See :meth:`Uploads.cancel`."""
        await run(lambda stop: self._client.until(stop).uploads.cancel(task_id))


class AsyncBundles:
    """:class:`Bundles`, awaited: ``client.bundles``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(
        self,
        name: str,
        *,
        slug: str | None = None,
        description: str | None = None,
        passcode: str | None = None,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
    ) -> Bundle:
        """See :meth:`Bundles.create`."""
        return await run(
            lambda stop: self._client.until(stop).bundles.create(
                name,
                slug=slug,
                description=description,
                passcode=passcode,
                expires_at=expires_at,
                expires_in=expires_in,
            )
        )

    async def list(
        self, *, offset: int = 0, take: int = PAGE, after: str | None = None
    ) -> Page[Bundle]:
        """See :meth:`Bundles.list`."""
        return await run(
            lambda stop: self._client.until(stop).bundles.list(
                offset=offset, take=take, after=after
            )
        )

    def all(self) -> AsyncIterator[Bundle]:
        """See :meth:`Bundles.all`."""
        return each(self._client, lambda client: client.bundles.all())

    async def info(self, bundle_id: str) -> Bundle:
        """See :meth:`Bundles.info`."""
        return await run(lambda stop: self._client.until(stop).bundles.info(bundle_id))

    async def change(
        self, bundle_id: str, fields: BundleFields, *, unset: Sequence[str] = ()
    ) -> Bundle:
        """See :meth:`Bundles.change`."""
        return await run(
            lambda stop: self._client.until(stop).bundles.change(bundle_id, fields, unset=unset)
        )

    async def delete(self, bundle_id: str) -> None:
        """See :meth:`Bundles.delete`."""
        await run(lambda stop: self._client.until(stop).bundles.delete(bundle_id))

    async def files(
        self, bundle_id: str, *, offset: int = 0, take: int = PAGE, after: str | None = None
    ) -> Page[CloudFile]:
        """See :meth:`Bundles.files`."""
        return await run(
            lambda stop: self._client.until(stop).bundles.files(
                bundle_id, offset=offset, take=take, after=after
            )
        )

    def all_files(self, bundle_id: str) -> AsyncIterator[CloudFile]:
        """See :meth:`Bundles.all_files`."""
        return each(self._client, lambda client: client.bundles.all_files(bundle_id))

    async def add(self, bundle_id: str, file_id: str) -> CloudFile:
        """See :meth:`Bundles.add`."""
        return await run(lambda stop: self._client.until(stop).bundles.add(bundle_id, file_id))

    async def remove(self, file_id: str) -> CloudFile:
        """See :meth:`Bundles.remove`."""
        return await run(lambda stop: self._client.until(stop).bundles.remove(file_id))

    async def download(
        self,
        bundle_id: str,
        target: str | PathLike[str],
        *,
        force: bool = False,
        progress: OnProgress | None = None,
    ) -> Path:
        """See :meth:`Bundles.download`."""
        tell = in_loop(progress)
        return await run(
            lambda stop: self._client.until(stop).bundles.download(
                bundle_id, target, force=force, progress=tell
            )
        )


class AsyncPools:
    """:class:`Pools`, awaited: ``client.pools``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self) -> Sequence[Pool]:
        """See :meth:`Pools.list`."""
        return await run(lambda stop: self._client.until(stop).pools.list())


class AsyncWebhooks:
    """:class:`Webhooks`, awaited: ``client.webhooks``."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def add(self, url: str, events: Sequence[str] = ()) -> Webhook:
        """See :meth:`Webhooks.add`."""
        return await run(lambda stop: self._client.until(stop).webhooks.add(url, events))

    async def list(self) -> Sequence[Webhook]:
        """See :meth:`Webhooks.list`."""
        return await run(lambda stop: self._client.until(stop).webhooks.list())

    async def remove(self, webhook_id: str) -> None:
        """See :meth:`Webhooks.remove`."""
        await run(lambda stop: self._client.until(stop).webhooks.remove(webhook_id))

    async def enable(self, webhook_id: str) -> Webhook:
        """See :meth:`Webhooks.enable`."""
        return await run(lambda stop: self._client.until(stop).webhooks.enable(webhook_id))

    async def test(self, webhook_id: str) -> Delivery:
        """See :meth:`Webhooks.test`."""
        return await run(lambda stop: self._client.until(stop).webhooks.test(webhook_id))

    async def deliveries(
        self, webhook_id: str, *, offset: int = 0, take: int = PAGE
    ) -> Sequence[Delivery]:
        """See :meth:`Webhooks.deliveries`."""
        return await run(
            lambda stop: self._client.until(stop).webhooks.deliveries(
                webhook_id, offset=offset, take=take
            )
        )

    def all_deliveries(self, webhook_id: str) -> AsyncIterator[Delivery]:
        """See :meth:`Webhooks.all_deliveries`."""
        return each(self._client, lambda client: client.webhooks.all_deliveries(webhook_id))
