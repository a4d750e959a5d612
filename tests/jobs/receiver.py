"""A real HTTP server on this machine that receives webhooks, and behaves as badly as told to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    Behaviour = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Received:
    """One message. Header names are lower case."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def json(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """By Standard Webhooks, computed here and not by the library that signs."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return self.headers["webhook-signature"] == f"v1,{mac}"


def answer(status: int, *headers: str, body: bytes = b"") -> Behaviour:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers]
    data = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
    return lambda conn: conn.sendall(data)


def say(data: bytes) -> Behaviour:
    """Exactly these bytes, and then hang up."""
    return lambda conn: conn.sendall(data)


def repeat(first: bytes, again: bytes, pause: float = 0.0) -> Behaviour:
    """Send without an end."""

    def behave(conn: socket.socket) -> None:
        conn.sendall(first)
        while True:
            conn.sendall(again)
            threading.Event().wait(pause)

    return behave


def hang(conn: socket.socket) -> None:
    """Say nothing, for as long as the other side listens."""
    with suppress(OSError):
        conn.recv(1)


class Receiver:
    """Listens on a free port. ``behave`` is how it answers; ``connections`` counts them all."""

    def __init__(
        self, behave: Behaviour | None = None, *, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.behave = behave or answer(204)
        self.received: list[Received] = []
        self.connections = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/hook?token=sesame"

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.received]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for conn in self._open:
            with suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                conn, _ = self._listener.accept()
                self.connections += 1
                self._open.append(conn)
                threading.Thread(target=self._serve, args=(conn,), daemon=True).start()

    def _serve(self, conn: socket.socket) -> None:
        with suppress(OSError, ValueError), conn:
            conn.settimeout(30)
            if self._tls is None:
                self._talk(conn)
            else:
                with self._tls.wrap_socket(conn, server_side=True) as secure:
                    self._talk(secure)

    def _talk(self, conn: socket.socket) -> None:
        with conn.makefile("rb") as reader:
            line = reader.readline().decode().strip()
            headers = {}
            while text := reader.readline().decode().strip():
                name, _, value = text.partition(":")
                headers[name.lower()] = value.strip()
            body = reader.read(int(headers["content-length"]))
        self.received.append(Received(line, headers, body))
        self.behave(conn)
