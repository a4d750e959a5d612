"""The file under examination, read without moving the descriptor's position."""

from __future__ import annotations

import io
import os

READ_BUDGET = 1024 * 1024 * 1024  # bytes; a file that wants more read than this has ended


class Source(io.RawIOBase):
    """A file object over ``pread``: whoever shares the descriptor notices nothing.

    Reads at most ``READ_BUDGET`` bytes in all, so that an index that leads through the whole of
    a huge file ends as a truncated file does.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._position = 0
        self._budget = READ_BUDGET

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        position = base + offset
        if position < 0:
            raise OSError("before the beginning")
        self._position = position
        return position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._budget)
        data = os.pread(self._descriptor, wanted, min(self._position, self.size))
        buffer[: len(data)] = data
        self._position += len(data)
        self._budget -= len(data)
        return len(data)
