"""``put`` and ``get``."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from upwell.cli.exits import ExitCode, combined, exit_code_of
from upwell.cli.run import connect, ending, finish
from upwell.cli.secret import ask_secret
from upwell.cli.show import Display, Output, SendDisplay, duration, error_record, plain, size
from upwell.client import (
    ApiError,
    ClientError,
    ConnectionFailed,
    IdentifierInvalid,
    Interrupted,
    Item,
    LocalFileError,
    SettingsError,
    UnexpectedAnswer,
    UploadOptions,
    UploadStates,
    items_in,
    load_settings,
)
from upwell.client import Manner as Sending
from upwell.client.download import Earlier, download_file
from upwell.client.settings import state_folder
from upwell.client.state import UploadKey
from upwell.client.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from upwell.client import Client, CloudFile, FileResult, Given

UNAUTHORIZED = 401
STDOUT = "-"
_NAMED = 5  # files that failed which a summary names
_NAME_LENGTH = 60  # characters of each of them
PASSWORD = "UPWELL_ENCRYPT_PASSWORD"  # noqa: S105 - the variable's name


@dataclass(frozen=True, slots=True)
class Manner:
    """How a transfer talks to the server and to the person."""

    given: Given
    patience: str
    quiet: bool
    json: bool

    def output(self) -> Output:
        """Where results go."""
        return Output(json=self.json, quiet=self.quiet)


@dataclass(frozen=True, slots=True, kw_only=True)
class PutRequest:
    """What ``put`` was asked to do."""

    paths: Sequence[Path]
    recursive: bool = False
    name: str | None = None
    pool: str | None = None
    bundle: str | None = None
    expires: str | None = None
    content_type: str | None = None
    encrypt: bool = False
    check_first: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One item of a command: what it is called, and how it is done."""

    subject: str
    work: Callable[[], Done]


@dataclass(frozen=True, slots=True)
class Done:
    """A finished job: fields for a script, a line for a person."""

    record: dict[str, Any]
    line: str


def put(request: PutRequest, manner: Manner) -> NoReturn:
    """Upload files; leaves the program with an exit code."""
    output = manner.output()
    resume = "What was sent is kept: run the same command again to continue."
    finish(output, lambda: _put(request, manner, output), interrupted=resume)


def get(ids: Sequence[str], target: str, *, force: bool, manner: Manner) -> NoReturn:
    """Download files; leaves the program with an exit code."""
    output = manner.output()
    resume = "" if target == STDOUT else "Run the same command again to continue."
    finish(output, lambda: _get(ids, target, force, manner, output), interrupted=resume)


def _put(request: PutRequest, manner: Manner, output: Output) -> ExitCode:
    settings = load_settings(manner.given)
    options = _options(request, settings.chunk_size)
    patience = parse_duration(manner.patience).total_seconds()
    items = list(_items(request))
    if not items:
        output.note("There is no file to upload.")
        return ExitCode.DONE
    states = _states(output)
    total, name = sum(item.size for item in items), str(items[0].name or items[0].path.name)
    display = SendDisplay(output, name=name, files=len(items), total=total)
    plan = Sending(
        options=options,
        states=states,
        check_first=_were_sent(request, settings.server, states),
        progress=display.step,
        note=display.note,
    )
    report = _Report(output, items, in_folder=any(map(_is_folder, request.paths)))
    with connect(settings, patience, display.wait) as client:
        with display.live():
            report.follow(client.upload_many(items, plan))
        return report.end()


def _were_sent(request: PutRequest, server: str, states: UploadStates | None) -> bool:
    """Whether one of the folders was sent before: then much of it is likely to be there."""
    if states is None or request.encrypt:
        return False
    folders = [path for path in request.paths if _is_folder(path)]
    keys = [UploadKey(server, str(p.resolve()), "", request.pool, request.bundle) for p in folders]
    known = [states.note_folder(key) for key in keys]
    return any(known)


class _Report:
    """Tells what becomes of the files: each one of a few; of a folder's, those that failed, and a
    summary. A script gets a line for each file."""

    def __init__(self, output: Output, items: Sequence[Item], *, in_folder: bool) -> None:
        self._output = output
        self._left = dict.fromkeys(map(id, items))
        self._items = items
        self._in_folder = in_folder
        self._began = monotonic()
        self._codes: list[ExitCode] = []
        self._refused: list[str] = []
        self._sent = self._existing = self._bytes = 0
        self._fatal: ClientError | None = None

    def follow(self, results: Iterator[FileResult]) -> None:
        """Tell of each result as it comes."""
        try:
            for result in results:
                del self._left[id(result.item)]
                self._tell(result)
        except KeyboardInterrupt:
            for item in self._items:
                if id(item) in self._left and self._output.json:
                    self._output.result(_failed_file(item, Interrupted("Interrupted.")), "")
            raise
        finally:
            close = getattr(results, "close", None)
            if close:
                close()

    def end(self) -> ExitCode:
        """Sum up; the exit code of it all."""
        if self._in_folder:
            self._output.note(self._summary())
        return exit_code_of(self._fatal) if self._fatal else combined(self._codes)

    def _tell(self, result: FileResult) -> None:
        if result.file is None:
            self._failed(result.item, result.error or Interrupted("Stopped."))
            return
        self._codes.append(ExitCode.DONE)
        self._existing += result.existing
        self._sent += not result.existing
        self._bytes += 0 if result.existing else result.file.size
        if self._output.json or not self._in_folder:
            self._output.result(self._record(result, result.file), self._line(result, result.file))

    def _record(self, result: FileResult, file: CloudFile) -> dict[str, Any]:
        status = "existing" if result.existing else "uploaded"
        return {"path": str(result.item.path), "status": status, "file": file.raw}

    def _line(self, result: FileResult, file: CloudFile) -> str:
        done = "already there" if result.existing else "uploaded"
        alone = len(self._items) == 1
        figures = _figures(file, monotonic() - self._began) if alone else size(file.size)
        return f"{done} {plain(result.item.path)} ({figures}) {plain(file.id)}"

    def _failed(self, item: Item, error: ClientError) -> None:
        """What meets all files is told to a person once."""
        if error is not self._fatal:
            self._output.failure(_failed_file(item, error), plain(item.path), error)
            self._codes.append(exit_code_of(error))
            self._refused.append(item.name or item.path.name)
        elif self._output.json:
            self._output.result(_failed_file(item, error), "")
        if _concerns_all(error):
            self._fatal = self._fatal or error

    def _summary(self) -> str:
        seconds = monotonic() - self._began
        failed = len(self._items) - self._sent - self._existing
        parts = [f"{self._sent:,} uploaded ({size(self._bytes)} in {duration(seconds)})"]
        parts += [f"{self._existing:,} already there"] if self._existing else []
        parts += [f"{failed:,} failed{self._named()}"] if failed else []
        return f"{len(self._items):,} files: {', '.join(parts)}."

    def _named(self) -> str:
        """The first of those that failed, which were told of one by one as they did."""
        if not self._refused:
            return ""
        names = ", ".join(plain(_end_of(name)) for name in self._refused[:_NAMED])
        return f" ({names}{', …' if len(self._refused) > _NAMED else ''})"


def _end_of(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"…{name[1 - _NAME_LENGTH :]}"


def _failed_file(item: Item, error: ClientError) -> dict[str, Any]:
    return {"path": str(item.path), "status": "failed", "error": error_record(error)}


def _get(ids: Sequence[str], target: str, force: bool, manner: Manner, output: Output) -> ExitCode:
    _check_target(ids, target, manner)
    patience = parse_duration(manner.patience).total_seconds()
    display = Display(output, files=len(ids), total=None)
    settings = load_settings(manner.given)
    with connect(settings, patience, display.wait) as client:
        source = _Source(client, _password(client, ids), display)

        def work(file_id: str) -> Done:
            with display.file(file_id, 0):
                if target == STDOUT:
                    return _stream(source, file_id)
                return _download(source, file_id, Path(target), force=force)

        with display.live():
            return _run(output, "id", [Job(name, partial(work, name)) for name in ids])


@dataclass(frozen=True, slots=True)
class _Source:
    """Where files come from, and who watches."""

    client: Client
    password: str | None = field(repr=False)
    display: Display
    earlier: Earlier = field(default_factory=Earlier)


def _password(client: Client, ids: Sequence[str]) -> str | None:
    """That of the encrypted files among these: from the environment, or from the person."""
    given = bool(os.environ.get(PASSWORD))
    asked = not given and sys.stdin.isatty() and any(_is_encrypted(client, each) for each in ids)
    return ask_secret("Password", variable=PASSWORD) if given or asked else None


def _is_encrypted(client: Client, file_id: str) -> bool:
    try:
        return client.files.info(file_id).raw.get("is_encrypted") is True
    except (ApiError, IdentifierInvalid):  # told when its turn comes
        return False


def _stream(source: _Source, file_id: str) -> Done:
    output, display = sys.stdout.buffer, source.display
    got = source.client.download_to(file_id, output, password=source.password, progress=display)
    if not got.verified:
        display.note(f"{file_id}: the server told no digest; only the size is verified.")
    output.flush()
    # Nothing but the content goes to stdout.
    return Done({}, "")


def _download(source: _Source, file_id: str, target: Path, *, force: bool) -> Done:
    started, display = monotonic(), source.display
    got = download_file(
        source.client.calls,
        file_id,
        target,
        force=force,
        watcher=display,
        password=source.password,
        earlier=source.earlier,
    )
    if not got.verified:
        display.note(f"{file_id}: the server told no digest; only the size is verified.")
    record = {
        "status": "downloaded",
        "path": str(got.path),
        "verified": got.verified,
        "file": got.file.raw,
    }
    return Done(record, f"saved {plain(got.path)} ({_figures(got.file, monotonic() - started)})")


def _run(output: Output, key: str, jobs: Sequence[Job]) -> ExitCode:
    """Do the jobs one after the other; a failure that would meet all of them ends it."""
    codes: list[ExitCode] = []
    for number, job in enumerate(jobs):
        try:
            done = job.work()
        except KeyboardInterrupt:
            _fail_all(output, key, jobs[number:], Interrupted("Interrupted."))
            raise
        except ClientError as error:
            output.failure(_failed(key, job, error), plain(job.subject), error)
            codes.append(exit_code_of(error))
            if _concerns_all(error):
                _fail_all(output, key, jobs[number + 1 :], error)
                return codes[-1]
        else:
            if done.line:
                output.result({key: job.subject} | done.record, done.line)
            codes.append(ExitCode.DONE)
    return combined(codes)


def _fail_all(output: Output, key: str, jobs: Sequence[Job], error: ClientError) -> None:
    """A script still gets one line for every item; a person was told once."""
    if output.json:
        for job in jobs:
            output.result(_failed(key, job, error), "")


def _failed(key: str, job: Job, error: ClientError) -> dict[str, Any]:
    return {key: job.subject, "status": "failed", "error": error_record(error)}


def _concerns_all(error: ClientError) -> bool:
    if isinstance(error, ApiError):
        return error.status == UNAUTHORIZED
    return isinstance(error, (ConnectionFailed, UnexpectedAnswer))


def _options(request: PutRequest, chunk_size: int | None) -> UploadOptions:
    if request.name is not None and (len(request.paths) > 1 or request.recursive):
        raise SettingsError("--name is for one file only.")
    return UploadOptions(
        name=request.name,
        content_type=request.content_type,
        pool_id=request.pool,
        bundle_id=request.bundle,
        **ending(request.expires),
        chunk_size=chunk_size,
        check_first=request.check_first,
        password=ask_secret("Password", variable=PASSWORD, twice=True) if request.encrypt else None,
    )


def _items(request: PutRequest) -> Iterator[Item]:
    for path in request.paths:
        if not _is_folder(path):
            yield Item.of(path)
        elif request.recursive:
            try:
                yield from items_in(path)
            except LocalFileError as error:  # does not keep the other paths
                yield Item(path, None, 0, error)
        else:
            raise SettingsError(f"{plain(path)} is a folder; -r/--recursive uploads what is in it.")


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # its own upload reports the error
        return False


def _states(output: Output) -> UploadStates | None:
    folder = state_folder(os.environ)
    try:
        return UploadStates(folder)
    except OSError as error:
        output.note(f"An interrupted upload cannot be continued later: {folder}: {error.strerror}")
        return None


def _check_target(ids: Sequence[str], target: str, manner: Manner) -> None:
    if target == STDOUT and manner.json:
        raise SettingsError("--json and -o - both want standard output; choose one.")
    if len(ids) > 1 and target != STDOUT and not Path(target).is_dir():
        raise SettingsError(f"{plain(target)} is not a folder: several files need one.")


def _figures(file: CloudFile, seconds: float) -> str:
    speed = f", {size(int(file.size / seconds))}/s" if seconds > 1 else ""
    return f"{size(file.size)} in {duration(seconds)}{speed}"
