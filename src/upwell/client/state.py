"""What a client remembers between runs: which upload of the server belongs to which file.

One JSON file, replaced atomically under a lock; beside it one lock per upload that is under way,
so that two runs never send the same file to the same task at once. Locks die with their process.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Any

from upwell.client.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Servers give up on idle uploads after days; what is older than this is not worth a question.
FORGET_AFTER = 90 * 86_400


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What changes when a file is modified or replaced: bytes, nanoseconds, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> Fingerprint:
        """The fingerprint that ``stat`` shows."""
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino)


@dataclass(frozen=True, slots=True)
class UploadKey:
    """Which file goes where; ``path`` is absolute."""

    server: str
    path: str
    name: str
    pool_id: str | None = None
    bundle_id: str | None = None
    encrypted: bool = False

    @property
    def digest(self) -> str:
        """A name for this key that is safe as a file name."""
        facts = [self.server, self.path, self.name, self.pool_id, self.bundle_id, self.encrypted]
        return sha256(json.dumps(facts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Remembered:
    """An upload that an earlier run left unfinished, and the file as it was then."""

    task_id: str
    fingerprint: Fingerprint


class Claim:
    """The exclusive right to one upload while it lasts. This one remembers nothing.

    A book that cannot be written costs a later resume, never the upload.
    """

    waited = False

    def recall(self) -> Remembered | None:
        """What an earlier run remembered."""
        return None

    def remember(self, task_id: str, fingerprint: Fingerprint) -> None:
        """Remember the task for a later run."""

    def forget(self) -> None:
        """The task is over."""


class BookClaim(Claim):
    """A claim that is written down; ``waited`` when another run held it before."""

    def __init__(self, key: UploadKey, book: UploadStates, *, waited: bool) -> None:
        self._key = key
        self._book = book
        self.waited = waited

    def recall(self) -> Remembered | None:
        return self._book.recall(self._key)

    def remember(self, task_id: str, fingerprint: Fingerprint) -> None:
        self._write(Remembered(task_id, fingerprint))

    def forget(self) -> None:
        self._write(None)

    def _write(self, upload: Remembered | None) -> None:
        with suppress(OSError):
            self._book.remember(self._key, upload)


class TokenClaim(Claim):
    """A claim that the caller keeps: as a token, a text without anything secret in it.

    It names the upload on the server, and the file as it was then. Who has it can do nothing
    with it but continue an upload of their own account.
    """

    def __init__(self, token: str | None, on_token: Callable[[str], None] | None) -> None:
        self._token = token
        self._on_token = on_token or (lambda _: None)

    def recall(self) -> Remembered | None:
        return None if self._token is None else _read_token(self._token)

    def remember(self, task_id: str, fingerprint: Fingerprint) -> None:
        facts = json.dumps([1, task_id, *asdict(fingerprint).values()], separators=(",", ":"))
        self._on_token(urlsafe_b64encode(facts.encode()).decode().rstrip("="))


def _read_token(token: str) -> Remembered:
    try:
        facts = json.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        version, task_id, size, mtime_ns, inode = facts
        if version != 1 or not isinstance(task_id, str):
            raise ValueError(version)  # noqa: TRY301 - told below, like all that is wrong with it
        return Remembered(task_id, Fingerprint(int(size), int(mtime_ns), int(inode)))
    except (ValueError, TypeError, RecursionError) as error:
        raise SettingsError("This is no token of an upload; start without one.") from error


class UploadStates:
    """The book of unfinished uploads in ``folder``; safe with several processes.

    Raises:
        OSError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._file = folder / "uploads.json"
        with self._locked("uploads"):
            pass

    @contextmanager
    def claim(self, key: UploadKey, on_busy: Callable[[], None]) -> Iterator[Claim]:
        """Hold an upload; when another process holds it, call ``on_busy`` and wait for it."""
        waits: list[None] = []

        def busy() -> None:
            waits.append(None)
            on_busy()

        with self._locked(key.digest, busy):
            yield BookClaim(key, self, waited=bool(waits))

    def note_folder(self, key: UploadKey) -> bool:
        """Write down that a folder is being uploaded; whether it was before."""
        with self._locked("uploads"):
            uploads = {k: each for k, each in self._read().items() if not _is_stale(each)}
            known = key.digest in uploads
            entry = asdict(key) | {"folder": True, "saved_at": time()}
            with suppress(OSError):  # costs a look at what is there, never the upload
                self._write(uploads | {key.digest: entry})
        return known

    def recall(self, key: UploadKey) -> Remembered | None:
        """What is remembered for ``key``."""
        entry = self._read().get(key.digest)
        try:
            return entry and Remembered(
                str(entry["task_id"]),
                Fingerprint(int(entry["size"]), int(entry["mtime_ns"]), int(entry["inode"])),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def remember(self, key: UploadKey, upload: Remembered | None) -> None:
        """Write down an upload, or with ``None`` strike it out."""
        with self._locked("uploads"):
            uploads = {
                digest: entry
                for digest, entry in self._read().items()
                if digest != key.digest and not _is_stale(entry)
            }
            if upload:
                facts = {"task_id": upload.task_id, "saved_at": time()}
                uploads[key.digest] = asdict(key) | asdict(upload.fingerprint) | facts
            self._write(uploads)

    def _read(self) -> dict[str, Any]:
        try:
            book = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # A broken book costs a resume, never an upload.
            return {}
        uploads = book.get("uploads") if isinstance(book, dict) else None
        return uploads if isinstance(uploads, dict) else {}

    def _write(self, uploads: dict[str, Any]) -> None:
        # mkstemp makes the file readable by its owner only.
        number, name = tempfile.mkstemp(prefix=".uploads-", dir=self._folder)
        temporary = Path(name)
        try:
            with open(number, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
                json.dump({"version": 1, "uploads": uploads}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._file)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    @contextmanager
    def _locked(self, name: str, on_busy: Callable[[], None] | None = None) -> Iterator[None]:
        path = self._folder / f"{name}.lock"
        number = _lock(path, on_busy)
        try:
            yield
        finally:
            # Removed while still held: whoever waits on it notices and starts over.
            with suppress(OSError):
                path.unlink()
            os.close(number)


def _lock(path: Path, on_busy: Callable[[], None] | None) -> int:
    """Lock ``path``, made when needed; return the descriptor that holds the lock."""
    while True:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _wait_for(number, on_busy)
            if _is_same(number, path):
                return number
        except BaseException:
            os.close(number)
            raise
        os.close(number)


def _wait_for(number: int, on_busy: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if on_busy:
            on_busy()
        fcntl.flock(number, fcntl.LOCK_EX)


def _is_same(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except FileNotFoundError:
        return False


def _is_stale(entry: object) -> bool:
    saved = entry.get("saved_at") if isinstance(entry, dict) else None
    return not isinstance(saved, (int, float)) or time() - saved > FORGET_AFTER
