"""The server's side of examining a file: a fresh process each time, watched from outside."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

from upwell.media.answer import LARGEST_ANSWER, Nonsense, understand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upwell.media.facts import Examined

_NEEDED = ("PIL", "pillow_heif", "av", "thumbhash")
_TREES = {"image": "image", "video": "recording", "audio": "recording"}
_BESIDE_THE_TREES = {"application/ogg": "recording", "application/mp4": "recording"}
# Under these trees, but text, instructions or references to elsewhere.
_OTHERS = {
    "image/svg+xml", "image/vnd.dxf", "image/vnd.dwg", "image/vnd.djvu", "image/emf", "image/wmf",
    "image/x-xcf", "image/vnd.adobe.photoshop", "image/x-icon", "image/vnd.microsoft.icon",
    "audio/midi", "audio/x-midi", "audio/mpegurl", "audio/x-mpegurl", "audio/x-scpls",
    "video/vnd.mpegurl", "video/x-mpegurl",
}  # fmt: skip
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",
}
_INHERITED = ("LD_LIBRARY_PATH",)  # some interpreters do not start without


@cache
def available() -> bool:
    """Whether the extra ``media`` is installed."""
    return bool(sys.executable) and all(find_spec(each) for each in _NEEDED)


def wants(mime_type: str) -> bool:
    """Whether a file of this declared type is worth a process."""
    return _kind(mime_type) is not None


class Examiner:
    """Examines files in processes of their own, at most ``workers`` at once."""

    def __init__(
        self, timeout: float = 30.0, workers: int = 1, command: Sequence[str] | None = None
    ) -> None:
        """``timeout`` in seconds, for each file. ``command`` stands in for the worker."""
        self._timeout = timeout
        self._turns = BoundedSemaphore(workers)
        self._command = command
        self._lock = Lock()
        self._running: set[int] = set()
        self._closed = False

    def examine(self, descriptor: int, mime_type: str) -> Examined | None:
        """What the file behind a descriptor is; None when nothing can be said about it.

        Blocks for its turn and then at most the timeout. The position of the descriptor
        neither matters nor changes. A file never makes this raise: what a worker said before
        it died or ran out of time counts, what makes no sense does not. Raises OSError when no
        process can be started.
        """
        kind = _kind(mime_type)
        if kind is None or not available():
            return None
        with self._turns:
            said = self._ask(descriptor, kind)
        try:
            return understand(said)
        except Nonsense:
            return None

    def close(self) -> None:
        """End what runs; from now on nothing can be said about any file."""
        with self._lock:
            self._closed = True
            for group in self._running:
                _kill(group)

    def _ask(self, descriptor: int, kind: str) -> bytes:
        worker = self._start(descriptor, kind)
        if worker is None:
            return b""
        try:
            with worker.stdout as pipe:  # type: ignore[union-attr] # it is a pipe
                return _read(pipe.fileno(), time.monotonic() + self._timeout)
        finally:
            with self._lock:
                # Not waited for yet, so that nobody else can have its number.
                _kill(worker.pid)
                self._running.discard(worker.pid)
            with suppress(subprocess.TimeoutExpired):
                worker.wait(10)

    def _start(self, descriptor: int, kind: str) -> subprocess.Popen[bytes] | None:
        life = str(int(self._timeout) + 5)
        with self._lock:
            if self._closed:
                return None
            worker = subprocess.Popen(  # noqa: S603 a fixed command; the type never reaches it
                self._command or (*_worker(), kind, life),
                stdin=descriptor,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )
            self._running.add(worker.pid)
            return worker


def _kind(mime_type: str) -> str | None:
    plain = mime_type.partition(";")[0].strip().lower()
    if plain in _OTHERS:
        return None
    return _BESIDE_THE_TREES.get(plain) or _TREES.get(plain.partition("/")[0])


def _worker() -> tuple[str, ...]:
    return (sys.executable, "-I", "-B", "-m", "upwell.media.worker")


def _environment() -> dict[str, str]:
    """Nothing of the server's own: its environment may hold secrets."""
    return _ENVIRONMENT | {key: os.environ[key] for key in _INHERITED if key in os.environ}


def _read(pipe: int, deadline: float) -> bytes:
    """What comes until the end, the deadline, or more than any answer."""
    said = bytearray()
    waiting = select.poll()
    waiting.register(pipe, select.POLLIN)
    while len(said) <= LARGEST_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0 or not waiting.poll(1000 * left):
            break
        data = os.read(pipe, 64 * 1024)
        if not data:
            break
        said += data
    return bytes(said)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
