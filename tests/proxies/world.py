"""nginx and Caddy in front of a real server, with the very configuration that the guide shows."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness import Api, Server, Wire, token_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

GUIDE = Path(__file__).parents[2] / "docs" / "proxies.md"
NAME = "files.example.org"
CLIENT = "127.0.0.5"  # where our client connects from: no trusted proxy's address
START_SECONDS = 30.0


def block(language: str) -> str:
    """The guide's one block in this language."""
    (found,) = re.findall(
        rf"^```{language}\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE
    )
    return str(found)


def program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    assert found, f"{name} is missing: run scripts/system-packages.sh"
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Places:
    """Where a proxy of the tests listens and leads to, and its certificate."""

    folder: Path
    upwell: int
    plain: int
    tls: int

    @property
    def certificate(self) -> Path:
        return self.folder / "fullchain.pem"

    @property
    def key(self) -> Path:
        return self.folder / "privkey.pem"

    def make_certificate(self) -> None:
        wanted = (
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
            "-subj /CN=localhost -addext subjectAltName=DNS:localhost"
        )
        command = [
            "openssl",
            *wanted.split(),
            "-keyout",
            str(self.key),
            "-out",
            str(self.certificate),
        ]
        subprocess.run(command, check=True, capture_output=True)


def swapped(text: str, swaps: Mapping[str, str]) -> str:
    """Each of these is in the text, and is something else now."""
    for old, new in swaps.items():
        assert old in text, f"the guide has no {old!r} any more"
        text = text.replace(old, new)
    return text


def nginx(places: Places, timeout: str | None) -> list[str]:
    """Its command; with ``timeout``, each of the guide's is that."""
    sites = swapped(
        block("nginx"),
        {
            "listen 80;": f"listen 127.0.0.1:{places.plain};",
            "listen 443 ssl;": f"listen 127.0.0.1:{places.tls} ssl;",
            f"/etc/letsencrypt/live/{NAME}": str(places.folder),
            NAME: "localhost",
            "127.0.0.1:8420": f"127.0.0.1:{places.upwell}",
        },
    )
    if timeout:
        sites, count = re.subn(r"(_timeout) \d+s;", rf"\1 {timeout};", sites)
        assert count == 3
    temp = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{each}_temp_path {places.folder}/{each};" for each in temp)
    around = f"daemon off; master_process off; pid {places.folder}/pid; events {{}}\n"
    config = places.folder / "nginx.conf"
    config.write_text(f"{around}http {{ access_log off; {paths}\n{sites}\n}}\n")
    return [program("nginx"), "-e", "stderr", "-c", str(config)]


def caddy(places: Places, timeout: str | None) -> list[str]:
    """Its command."""
    site = swapped(
        block("caddyfile"),
        {
            f"{NAME} {{": f"localhost {{\n\ttls {places.certificate} {places.key}",
            "127.0.0.1:8420": f"127.0.0.1:{places.upwell}",
        },
    )
    ports = f"admin off\nhttp_port {places.plain}\nhttps_port {places.tls}\n"
    config = places.folder / "Caddyfile"
    config.write_text(f"{{\n{ports}storage file_system {places.folder}/caddy\n}}\n{site}")
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(config)]


PROXIES = {"nginx": nginx, "caddy": caddy}


class SecureWire(Wire):
    """A TLS connection to a proxy."""

    def __init__(self, port: int, context: ssl.SSLContext, *, timeout: float) -> None:
        plain = socket.create_connection(("127.0.0.1", port), timeout, (CLIENT, 0))
        self.sock = context.wrap_socket(plain, server_hostname="localhost")
        self._held = b""


class ProxiedApi(Api):
    """The API, as it is behind a proxy."""

    def __init__(self, proxy: Proxy, token: str) -> None:
        super().__init__(proxy.places.tls, token)
        self._context = ssl.create_default_context(cafile=proxy.places.certificate)

    def wire(self) -> Wire:
        return SecureWire(self.port, self._context, timeout=self.timeout)

    def head(self, method: str, path: str, headers: Mapping[str, str | int] | None = None) -> bytes:
        host = f"Host: localhost:{self.port}".encode()
        return super().head(method, path, headers).replace(b"Host: test", host, 1)


@dataclass(frozen=True)
class Proxy:
    places: Places
    server: Server

    @property
    def url(self) -> str:
        return f"https://localhost:{self.places.tls}"

    def api(self) -> ProxiedApi:
        return ProxiedApi(self, token_of(self.server.data))


@contextmanager
def proxied(name: str, folder: Path, timeout: str | None = None) -> Iterator[Proxy]:
    """A server with the guide's settings, behind this proxy."""
    with Server(folder / "data", config=block("toml")) as server:
        places = Places(folder, server.port, free_port(), free_port())
        places.make_certificate()
        command = PROXIES[name](places, timeout)
        log = folder / f"{name}.log"
        own = {**os.environ, "HOME": str(folder)}
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=out, env=own)
        try:
            _wait_until_it_listens(places.tls, process, log)
            yield Proxy(places, server)
        finally:
            process.kill()  # asked politely, some wait for connections to end
            process.wait()


def _wait_until_it_listens(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError(f"the proxy did not start:\n{log.read_text(errors='replace')}")
