"""Behind a proxy: whose address and scheme a request has."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from itertools import takewhile
from typing import TYPE_CHECKING, Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.types import ASGIApp, Receive, Scope, Send

_FOR, _PROTO = b"x-forwarded-for", b"x-forwarded-proto"


def behind(app: ASGIApp, proxies: Sequence[IPv4Network | IPv6Network]) -> ASGIApp:
    """The application, told the client's address and scheme by these proxies alone.

    What comes from one of them has the rightmost address of ``X-Forwarded-For`` that is none of
    theirs, and of ``X-Forwarded-Proto`` the scheme in which the outermost of them was asked. The
    host is always that of ``Host``.
    """
    if not proxies:
        return app
    names = [name for each in proxies for name in _names(each)]
    return _OneScheme(ProxyHeadersMiddleware(cast("Any", app), names))


class _OneScheme:
    """Leaves one scheme of a list, which uvicorn would pass over."""

    def __init__(self, app: ProxyHeadersMiddleware) -> None:
        self._app = cast("ASGIApp", app)
        self._trusted = app.trusted_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (schemes := _listed(scope, _PROTO)):
            others = [field for field in scope["headers"] if field[0] != _PROTO]
            told = self._told_first(schemes, _listed(scope, _FOR))
            scope["headers"] = [*others, (_PROTO, told.encode("latin-1"))]
        await self._app(scope, receive, send)

    def _told_first(self, schemes: list[str], hops: list[str]) -> str:
        """What the proxy tells that named the client: behind its word, as behind the client's
        address, stand those of the proxies further in, when each of them adds to the list."""
        proxies = len(list(takewhile(self._is_proxy, reversed(hops[1:]))))
        return schemes[max(0, len(schemes) - 1 - proxies)].lower()

    def _is_proxy(self, hop: str) -> bool:
        return self._trusted.get_trusted_client_address(hop)[0] in self._trusted


def _listed(scope: Scope, name: bytes) -> list[str]:
    """A header as one list, whether it came in one field or in several (RFC 9110 §5.3)."""
    values = [value.decode("latin-1") for key, value in scope["headers"] if key == name]
    return [each.strip() for value in values for each in value.split(",")]


def _names(network: IPv4Network | IPv6Network) -> Iterator[str]:
    """A socket that takes both families calls an IPv4 peer ``::ffff:192.0.2.1``."""
    yield str(network)
    if isinstance(network, IPv4Network):
        yield f"::ffff:{network.network_address}/{96 + network.prefixlen}"
