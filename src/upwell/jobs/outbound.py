"""Requests to addresses that other people name: to the public internet only, and not for long.

Where a host leads is decided when it is connected to, on the very address that is used, so a
name that leads elsewhere a moment later (DNS rebinding) gains nothing. Proxies that the
environment names are not used, redirects not followed, answers not read.
"""

from __future__ import annotations

import socket
import time
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

import httpcore2

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from upwell.core.events import Address

SECONDS = 15.0  # for all of a request, beside the lookup of the name, which the system bounds
CONNECT_SECONDS = 5.0  # for each address of a host

# IANA's special-purpose registries (RFC 6890), multicast, and what is reserved.
_PRIVATE_4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
            "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
            "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        ),
    )
)  # fmt: skip
_GLOBAL_6 = IPv6Network("2000::/3")  # all that is assigned for unicast
_PRIVATE_6 = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")


class AddressRefused(httpcore2.ConnectError):
    """The host leads to no address that may be connected to."""


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet, whatever form it is written in."""
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and (ip in _MAPPED or ip in _NAT64):
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _PRIVATE_4)
    return ip in _GLOBAL_6 and not any(ip in network for network in _PRIVATE_6)


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, as the system knows them. Raises OSError."""
    found = socket.getaddrinfo(host.encode(), port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def post(
    address: Address,
    headers: Mapping[str, str],
    body: bytes,
    *,
    private: bool = False,
    resolver: Callable[[str, int], list[str]] = resolve,
) -> int:
    """Send ``body``; the status of the answer. With ``private``, to any address.

    Raises AddressRefused, and httpcore2's NetworkError, TimeoutException and ProtocolError.
    """
    url = httpcore2.URL(
        scheme=address.scheme, host=address.host, port=address.port, target=address.target
    )
    sent = {"Host": address.authority, "Connection": "close", **headers}
    network = Network(SECONDS, private=private, resolver=resolver)
    context = _tls() if address.scheme == "https" else None
    with (
        httpcore2.ConnectionPool(ssl_context=context, network_backend=network) as pool,
        pool.stream("POST", url, headers=list(sent.items()), content=body) as response,
    ):
        return response.status


@cache
def _tls() -> ssl.SSLContext:
    return httpcore2.default_ssl_context()


class _Deadline:
    """The instant by which everything is over."""

    def __init__(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds. Raises TimeoutException when there are none."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout
        return left


class Network(httpcore2.NetworkBackend):
    """Connects for one request, which is over after so many seconds."""

    def __init__(
        self,
        seconds: float,
        *,
        private: bool,
        resolver: Callable[[str, int], list[str]] = resolve,
        system: httpcore2.NetworkBackend | None = None,
    ) -> None:
        self._deadline = _Deadline(seconds)
        self._private = private
        self._resolve = resolver
        self._system = system or httpcore2.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - one deadline is for everything
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.NetworkStream:
        failure: Exception = AddressRefused(
            "its host has no address on the public internet (webhook_private_networks is off)"
        )
        for address in self._addresses(host, port):
            seconds = min(CONNECT_SECONDS, self._deadline.left())
            try:
                # An address, not the host: what was looked at is what is connected to.
                stream = self._system.connect_tcp(
                    address, port, seconds, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        raise failure

    def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = self._resolve(host, port)
        except OSError:
            if self._private:
                raise httpcore2.ConnectError("its host is not known") from None
            return []  # told as any other host that is not public: names of a network are secret
        return [each for each in found if self._private or is_public(each)]


class _Stream(httpcore2.NetworkStream):
    """A connection on which every step is over at the deadline, also against a peer that does
    something now and then."""

    def __init__(self, inner: httpcore2.NetworkStream, deadline: _Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        return self._inner.read(max_bytes, self._deadline.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        self._inner.write(buffer, self._deadline.left())

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore2.NetworkStream:
        inner = self._inner.start_tls(ssl_context, server_hostname, self._deadline.left())
        return _Stream(inner, self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
