"""Places for a data folder, and the faults that end a server there."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.harness import Server

_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN: _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2  # what is only in memory, data and journal alike, is lost


class Impossible(Exception):
    """This machine cannot do it; the text says why."""


class Place(Protocol):
    """A folder for a data folder, and what can happen to it."""

    name: str
    folder: Path
    log: Path  # of the server; not on a file system that is shut down

    def cut(self, server: Server) -> None:
        """End the server at this instant; what it never synced is gone when this returns."""


class Killed:
    """An ordinary folder; the server is killed with SIGKILL, and nothing else happens."""

    name = "kill -9"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "server.log"

    def cut(self, server: Server) -> None:
        server.kill()


class PowerLoss:
    """A file system of its own on a loop device. A cut shuts it down without flushing its log, so
    that whatever no sync has reached vanishes as if the power had failed.

    What the device itself may lose (a disk that lies about its cache) is not part of it.
    """

    def __init__(self, work: Path, kind: str, megabytes: int) -> None:
        self.name = f"power loss on {kind}"
        self.folder = work / "mounted"
        self.log = work / "server.log"
        self._image = work / "image"
        self._kind = kind
        self._make(megabytes)

    def _make(self, megabytes: int) -> None:
        self.folder.mkdir(parents=True)
        with self._image.open("wb") as file:
            file.truncate(megabytes << 20)
        quiet = {"ext4": ["-q", "-F"], "xfs": ["-q", "-f"]}[self._kind]
        _run(f"mkfs.{self._kind}", *quiet, str(self._image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", "-t", self._kind, str(self._image), str(self.folder))

    def unmount(self) -> None:
        """Wait for what still holds the file system: it takes a moment to be closed."""
        until = time.monotonic() + 60
        while subprocess.run(["umount", self.folder], capture_output=True, check=False).returncode:
            if time.monotonic() > until:
                raise Impossible(f"{self.folder} cannot be unmounted.")
            time.sleep(0.05)

    def cut(self, server: Server) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("=I", _NO_LOG_FLUSH))
        finally:
            os.close(descriptor)
        server.kill()
        self.unmount()
        self.mount()


@contextmanager
def power_loss(work: Path, kind: str, megabytes: int = 1024) -> Iterator[PowerLoss]:
    """Raises Impossible without root, loop devices or the file system's tools."""
    try:
        _require(kind)
        place = PowerLoss(work, kind, megabytes)
    except Impossible:
        shutil.rmtree(work)
        raise
    try:
        yield place
    finally:
        place.unmount()


def _require(kind: str) -> None:
    if os.geteuid() != 0:
        raise Impossible("Power loss needs root, to mount a file system on a loop device.")
    if shutil.which(f"mkfs.{kind}") is None:
        raise Impossible(f"Power loss on {kind} needs mkfs.{kind}, which is not installed.")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Impossible(f"{' '.join(command)} fails here: {done.stderr.strip()}")
