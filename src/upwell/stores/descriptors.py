"""What the local store does with descriptors: locks, writes, syncs, space. Linux only."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COPY_SIZE = 1 << 20  # bytes read at once
_FLOCK = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux
_WRITE_OUT = 2  # SYNC_FILE_RANGE_WRITE
_sync_threads = ThreadPoolExecutor(8, thread_name_prefix="upwell-sync")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [
    ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint,
]  # fmt: skip
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def lock(fd: int, byte: int) -> bool:
    """Take an exclusive lock on one byte; False when another description has it."""
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def unlock(fd: int, byte: int) -> None:
    request = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, byte, 1, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, request)


def locked_elsewhere(fd: int, byte: int) -> bool:
    request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    answer = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, request))
    return bool(answer[0] != fcntl.F_UNLCK)


def make_folder(path: Path, mode: int = 0o777) -> None:
    """Make a folder and its missing parents, all their names durable. Its own name is synced also
    when the folder is there: it may have been made just before a crash."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(mode=mode, parents=True, exist_ok=True)
    for each in missing or [path]:
        with suppress(PermissionError):  # a parent that is not ours to read cannot be synced
            sync_folder(each.parent)


def sync_folder(path: Path) -> None:
    """Make the entries of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data = data[written:]
        offset += written


def sync_together(fds: Sequence[int]) -> None:
    """``fdatasync`` of many new files. Each alone would wait for a commit of the file system's
    journal; begun together, they share a few: 100 files in 84 ms, not 660 (ext4)."""
    if len(fds) == 1:
        os.fdatasync(fds[0])
        return
    for fd in fds:
        _libc.sync_file_range(
            fd, 0, 0, _WRITE_OUT
        )  # only starts writing: fdatasync below reports errors
    syncs = [_sync_threads.submit(os.fdatasync, fd) for fd in fds]
    wait(syncs)  # all of them, whatever the first one says: the descriptors are closed next
    for each in syncs:
        each.result()


def copy_range(source: tuple[int, int], target: int, size: int) -> None:
    """Copy so many bytes from a file and offset to the beginning of another file."""
    fd, base = source
    for at in range(0, size, COPY_SIZE):
        data = os.pread(fd, min(COPY_SIZE, size - at), base + at)
        write_all(target, memoryview(data), at)


def allocate(fd: int, size: int) -> None:
    """Reserve real blocks where the file system can; glibc's emulation would write them all."""
    if size == 0:
        return
    if _libc.fallocate(fd, 0, 0, size) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    os.ftruncate(fd, size)
