"""Many files at once: small ones share requests, large ones go by chunks, several at a time.

Nothing is remembered of small files: asked again with their hashes, the server tells which it
has. So a folder's second upload sends what is missing, from any machine.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from upwell.client.errors import (
    ApiError,
    ClientError,
    ConnectionFailed,
    ContentMismatch,
    Interrupted,
    LocalFileError,
    UnexpectedAnswer,
)
from upwell.client.model import Digest
from upwell.client.progress import Share, Tally
from upwell.client.sources import FileSource
from upwell.client.upload import UploadOptions, new_file, upload_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from upwell.client.api import Calls
    from upwell.client.model import Batched, CloudFile
    from upwell.client.progress import OnProgress
    from upwell.client.state import UploadStates
    from upwell.client.stop import Stop

SMALL = 256 * 1024  # bytes of a file that shares a request with others
BATCH_SIZE = 2 * 1024 * 1024  # bytes in one request, about: it is held in memory while it is sent
BATCH_FILES = 200
MEDIUM = (
    5 * 1024 * 1024
)  # bytes; larger files go one at a time, with all connections for their chunks
UNAUTHORIZED = 401
# A batch that is refused as a whole may be so because of one of its files: each goes alone then.
REFUSED_WHOLE = frozenset({400, 413})
JOIN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Item:
    """A file to upload; ``name`` is its name on the server, ``size`` in bytes, 0 if unknown.

    With a ``problem`` it is not tried: its result carries the problem.
    """

    path: Path
    name: str | None
    size: int
    problem: ClientError | None = None

    @classmethod
    def of(cls, path: Path, name: str | None = None) -> Item:
        """``path`` with the size it has now; what is wrong with it is told when its turn comes."""
        try:
            return cls(path, name, path.stat().st_size)
        except OSError:
            return cls(path, name, 0)


@dataclass(frozen=True, slots=True)
class FileResult:
    """What became of one file: ``file`` when it is on the server, else ``error``.

    ``existing`` when the account held its content already, and nothing was sent.
    """

    item: Item
    file: CloudFile | None
    error: ClientError | None = None
    existing: bool = False


def items_in(folder: Path) -> Iterator[Item]:
    """The files under ``folder``, in order, named by their path in it.

    Nothing is left out silently. A folder in it that cannot be read, and a link to a folder, which
    is not followed, are items with a problem; sockets, pipes and devices fail when they are tried.

    Raises:
        LocalFileError: ``folder`` itself cannot be read.
    """
    unreadable: list[OSError] = []

    def note(error: OSError) -> None:
        if error.filename == os.fspath(folder):
            raise LocalFileError.of(folder, error) from error
        unreadable.append(error)

    for parent, folders, names in os.walk(folder, onerror=note):
        yield from _problems(folder, unreadable)
        folders.sort()
        paths = [Path(parent, name) for name in folders]
        yield from (_link(folder, path) for path in paths if path.is_symlink())
        for path in (Path(parent, name) for name in sorted(names)):
            yield Item.of(path, path.relative_to(folder).as_posix())
    yield from _problems(folder, unreadable)


def _problems(folder: Path, unreadable: list[OSError]) -> Iterator[Item]:
    """The folders that could not be read since the last call."""
    while unreadable:
        error = unreadable.pop(0)
        path = Path(str(error.filename))
        name = path.relative_to(folder).as_posix()
        yield Item(path, name, 0, LocalFileError.of(path, error))


def _link(folder: Path, path: Path) -> Item:
    why = f"{path} is a link to a folder and was not followed. Upload it by its own path."
    return Item(path, path.relative_to(folder).as_posix(), 0, LocalFileError(why))


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How many files are uploaded. ``check_first`` asks for each whether it is there before it is
    sent; ``note`` is told what a person should know."""

    options: UploadOptions
    states: UploadStates | None = None
    check_first: bool = False
    progress: OnProgress | None = None
    note: Callable[[str], None] = lambda _: None


def upload_many(client: Calls, items: Sequence[Item], manner: Manner) -> Iterator[FileResult]:
    """Upload files, several at a time; a result for each, as they end.

    What would meet all of them (the server is gone, the token is not valid) ends the whole with
    that error in every result that is left. Closing the iterator stops what is under way.
    """
    with client.stop.child() as stop:
        run = _Run(client.until(stop), items, manner)
        try:
            yield from run.results()
        finally:
            run.end()


@dataclass(slots=True)
class _Job:
    """Some files that are dealt with together, and each one's share of the progress."""

    items: list[Item]
    shares: list[Share]


class _Run:
    def __init__(self, client: Calls, items: Sequence[Item], manner: Manner) -> None:
        self._client = client
        self._manner = manner
        self._count = len(items)
        self._tally = Tally(sum(item.size for item in items), len(items), manner.progress)
        self._jobs = iter(_grouped(items, together=manner.options.password is None))
        self._taking = threading.Lock()
        self._large = threading.Lock()
        self._ended: queue.SimpleQueue[FileResult | BaseException] = queue.SimpleQueue()
        self._fatal: ClientError | None = None
        self._threads: list[threading.Thread] = []

    @property
    def _stop(self) -> Stop:
        return self._client.stop

    def results(self) -> Iterator[FileResult]:
        for number in range(min(self._client.connections, self._count)):
            thread = threading.Thread(target=self._work, name=f"upwell-many-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()
        for _ in range(self._count):
            result = self._ended.get()
            if isinstance(result, BaseException):
                raise result
            yield result

    def end(self) -> None:
        self._stop.set()
        until = monotonic() + JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - monotonic()))

    def _work(self) -> None:
        while (job := self._take()) is not None:
            try:
                self._do(job)
            except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
                self._ended.put(error)
                self._stop.set()

    def _take(self) -> _Job | None:
        with self._taking:
            items = next(self._jobs, None)
        if items is None:
            return None
        return _Job(items, [Share(self._tally, item.size, self._manner.note) for item in items])

    def _do(self, job: _Job) -> None:
        if self._fatal or self._stop.is_set():
            self._fail(job.items, job.shares, self._fatal or Interrupted("Stopped."))
        elif len(job.items) > 1:
            _Batch(self, job).run()
        else:
            self.alone(job.items[0], job.shares[0])

    def alone(self, item: Item, share: Share) -> None:
        """Upload one file by itself."""
        if item.size <= MEDIUM:
            self._upload(item, share)
        else:
            with self._large:
                self._upload(item, share)

    def _upload(self, item: Item, share: Share) -> None:
        options = self.options_of(item)
        states = self._manner.states
        try:
            if item.problem is not None:
                raise item.problem
            done = upload_file(self._client, item.path, options, watcher=share, states=states)
        except ClientError as error:
            self._fail([item], [share], error)
        else:
            self.tell(FileResult(item, done.file, existing=done.existing), share)

    def options_of(self, item: Item) -> UploadOptions:
        manner = self._manner
        check = manner.check_first or manner.options.check_first
        return replace(manner.options, name=item.name or manner.options.name, check_first=check)

    def tell(self, result: FileResult, share: Share) -> None:
        """A file is dealt with."""
        share.end()
        if result.error is not None and _concerns_all(result.error):
            self._fatal = self._fatal or result.error
        self._ended.put(result)

    def _fail(self, items: Sequence[Item], shares: Sequence[Share], error: ClientError) -> None:
        for item, share in zip(items, shares, strict=True):
            self.tell(FileResult(item, None, error), share)

    @property
    def client(self) -> Calls:
        return self._client

    @property
    def asks_first(self) -> bool:
        return self._manner.check_first or self._manner.options.check_first


@dataclass(frozen=True, slots=True, eq=False)
class _Small:
    """A small file in memory."""

    item: Item
    share: Share
    content: bytearray
    sha256: str

    @property
    def size(self) -> int:
        return len(self.content)


class _Batch:
    """Small files that share a request."""

    def __init__(self, run: _Run, job: _Job) -> None:
        self._run = run
        self._job = job
        self._waiting: list[_Small] = []  # those that nothing was told of yet

    def run(self) -> None:
        """Deal with all of them, whatever happens."""
        files = self._waiting = list(self._read())
        try:
            missing = self._ask(files) if files and self._run.asks_first else list(files)
            if missing:
                self._send(missing)
        except ClientError as error:
            for each in self._waiting:
                self._run.tell(FileResult(each.item, None, error), each.share)

    def _read(self) -> Iterator[_Small]:
        for item, share in zip(self._job.items, self._job.shares, strict=True):
            try:
                content = _content_of(item)
            except ClientError as error:
                self._run.tell(FileResult(item, None, error), share)
                continue
            if content is None:
                self._run.alone(item, share)
            else:
                yield _Small(item, share, content, hashlib.sha256(content).hexdigest())

    def _ask(self, files: list[_Small]) -> list[_Small]:
        """Deal with those that the account holds; the others are to be sent."""
        try:
            results = self._post(files, None)
        except ApiError as error:
            if error.status not in REFUSED_WHOLE:
                raise
            return files[:]
        missing = []
        for each, result in list(zip(files, results, strict=True)):
            if result.file is None and result.refusal is None:
                missing.append(each)
            else:
                self._tell(each, result)
        return missing

    def _send(self, files: list[_Small]) -> None:
        try:
            results = self._post(files, [each.content for each in files])
        except ApiError as error:
            if error.status not in REFUSED_WHOLE:
                raise
            for each in files:
                self._waiting.remove(each)
                self._run.alone(each.item, each.share)
            return
        for each, result in zip(files, results, strict=True):
            self._tell(each, result)

    def _post(self, files: list[_Small], contents: list[bytearray] | None) -> list[Batched]:
        asked = [
            new_file(self._run.options_of(each.item), each.item.path.name, each.size, each.sha256)
            for each in files
        ]
        return self._run.client.send_batch(asked, contents)

    def _tell(self, small: _Small, result: Batched) -> None:
        error = self._wrong_with(small, result)
        file = result.file if error is None else None
        self._run.tell(FileResult(small.item, file, error, existing=result.existed), small.share)
        self._waiting.remove(small)

    def _wrong_with(self, small: _Small, result: Batched) -> ClientError | None:
        if result.refusal is not None:
            return ApiError(result.refusal)
        if result.file is None:
            return UnexpectedAnswer("The server did not say what became of the file.")
        right = (Digest("sha256", small.sha256), small.size)
        if (Digest.parse(result.file.hash), result.file.size) == right:
            return None
        if not result.existed:  # known to be wrong: left there, it would pass for the file
            with suppress(ClientError):
                self._run.client.delete(result.file.id)
        return ContentMismatch("The server stored something else than was sent; upload it again.")


def _content_of(item: Item) -> bytearray | None:
    """A small file in memory; None when it is not small after all."""
    if item.problem is not None:
        raise item.problem
    with FileSource.open(item.path) as source:
        return source.content() if source.size <= SMALL else None


def _grouped(items: Iterable[Item], *, together: bool) -> Iterator[list[Item]]:
    """What is dealt with in one go: small files in batches, every other one alone."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if not together or item.size > SMALL:
            yield [item]
            continue
        batch.append(item)
        size += item.size
        if len(batch) >= BATCH_FILES or size >= BATCH_SIZE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _concerns_all(error: ClientError) -> bool:
    if isinstance(error, ApiError):
        return error.status == UNAUTHORIZED
    return isinstance(error, (ConnectionFailed, UnexpectedAnswer))
