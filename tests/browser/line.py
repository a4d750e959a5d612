"""The line between a browser and a server: it breaks, stalls, is slow, and counts what passes."""

from __future__ import annotations

import math
import re
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from tests.harness import Server

_CHUNK = re.compile(rb"(?:PUT|POST) /api/files/upload/chunk/[^/ ]+/(\d+) HTTP/1\.1\r\n")
_HEAD = 120  # bytes that a request line of a chunk has at most
_BUFFER = 64 << 10  # bytes; small, so that what was sent is soon known here
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing is abrupt


class Line:
    """Passes on, in threads, what browsers say to ``server`` and what it answers."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self.port: int = self._listener.getsockname()[1]
        self.chunks: list[int] = []
        """Numbers of the chunks whose sending began, in order."""
        self.sent = 0
        """Bytes from browsers."""
        self.rate = 0
        """Bytes per second that browsers can send, together; 0 for any."""
        self._lock = threading.Lock()
        self._left = math.inf  # bytes
        self._passes = threading.Event()
        self._passes.set()
        self._broken = threading.Event()
        self._free = 0.0  # when the line has sent what it was given
        self._open: set[socket.socket] = set()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # else whoever accepts would go on waiting
        self._listener.close()
        self.cut()
        self._passes.set()

    def cut(self) -> None:
        """Break what is open, and whatever comes, until `flow`."""
        self._broken.set()
        for each in list(self._open):
            self._close(each)

    def give(self, size: int) -> None:
        """Let so many bytes of browsers pass from here on, then stall."""
        self._left = size

    def stall(self) -> None:
        """Nothing that browsers send arrives, and nobody is told."""
        self._passes.clear()

    def is_stalled(self) -> bool:
        return not self._passes.is_set()

    def flow(self) -> None:
        """Let everything pass again."""
        self._broken.clear()
        self._left = math.inf
        self._passes.set()

    def _accept(self) -> None:
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(browser,), daemon=True).start()

    def _connect(self, browser: socket.socket) -> None:
        self._open.add(browser)
        try:
            if self._broken.is_set():
                raise ConnectionRefusedError
            server = socket.create_connection(("127.0.0.1", self._server.port), 10)
        except OSError:
            self._close(browser)
            return
        server.settimeout(None)
        self._open.add(server)
        if self._broken.is_set():  # meanwhile
            self.cut()
        back = threading.Thread(target=self._pass, args=(server, browser, False), daemon=True)
        back.start()
        self._pass(browser, server, True)
        back.join()
        self._close(browser)
        self._close(server)

    def _pass(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        tail = b""
        with suppress(OSError):
            while data := source.recv(_BUFFER):
                if up:
                    tail = self._note(tail, data)
                    self._pace(len(data))
                    self._passes.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
            return
        self._close(sink)

    def _note(self, tail: bytes, data: bytes) -> bytes:
        """Count, and what may be the beginning of a request line."""
        text = tail + data
        with self._lock:
            self.sent += len(data)
            self._left -= len(data)
            if self._left <= 0:
                self._passes.clear()
            last: re.Match[bytes] | None = None
            for last in _CHUNK.finditer(text):
                self.chunks.append(int(last[1]))
        return text[max(last.end() if last else 0, len(text) - _HEAD) :]

    def _pace(self, size: int) -> None:
        if not self.rate:
            return
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self.rate
            wait = self._free - time.monotonic()
        time.sleep(max(0.0, wait))

    def _close(self, side: socket.socket) -> None:
        self._open.discard(side)
        with suppress(OSError):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            side.shutdown(socket.SHUT_RDWR)
        side.close()
