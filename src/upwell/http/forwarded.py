"""Behind a proxy: whose address and scheme a request has."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, cast

from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.types import ASGIApp


def behind(app: ASGIApp, proxies: Sequence[IPv4Network | IPv6Network]) -> ASGIApp:
    """The application, told the client's address and scheme by these proxies alone.

    What comes from one of them has the rightmost address of ``X-Forwarded-For`` that is none of
    theirs, and the scheme of ``X-Forwarded-Proto``. The host is always that of ``Host``.
    """
    if not proxies:
        return app
    names = [name for each in proxies for name in _names(each)]
    return cast("ASGIApp", ProxyHeadersMiddleware(cast("Any", app), names))


def _names(network: IPv4Network | IPv6Network) -> Iterator[str]:
    """A socket that takes both families calls an IPv4 peer ``::ffff:192.0.2.1``."""
    yield str(network)
    if isinstance(network, IPv4Network):
        yield f"::ffff:{network.network_address}/{96 + network.prefixlen}"
