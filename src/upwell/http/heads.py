"""Rules for a request's head that the HTTP parser leaves to its user (RFC 9112)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# uri-host [ ":" port ] (RFC 9110 §7.2), without userinfo.
_HOST = re.compile(rb"(?:[\w.~%!$&'()*+,;=-]+|\[[0-9A-Fa-fv:.]+\])(?::\d{0,5})?\Z", re.ASCII)


def fault_of(method: bytes, version: str, fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Why a head must be refused with 400, as a message for its sender; None when it is fine.

    ``fields`` have names in lower case; ``version`` is as in ``"1.1"``.
    """
    hosts, codings = [], []
    for name, value in fields:
        if name == b"host":
            hosts.append(value)
        elif name == b"transfer-encoding":
            codings.append(value)
    if version not in ("1.0", "1.1"):
        return f"This server does not speak HTTP/{version}. Send the request as HTTP/1.1."
    if method == b"CONNECT":
        return "This server is not a proxy. Send the request to the server that you want to reach."
    return _host_fault(version, hosts) or _coding_fault(version, codings)


def has_coded_body(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a body comes with a Content-Encoding (RFC 9110 §8.4) other than ``identity``."""
    coded = body = False
    for name, value in fields:
        if name == b"content-encoding":
            coded = coded or value.strip().lower() not in (b"", b"identity")
        elif name == b"content-length":
            body = body or value != b"0"
        elif name == b"transfer-encoding":
            body = True
    return coded and body


def _host_fault(version: str, hosts: list[bytes]) -> str | None:
    """RFC 9112 §3.2: two servers that choose different ones of two hosts see two requests."""
    if len(hosts) > 1:
        return "The request has more than one Host header. Send exactly one."
    if not hosts:
        return None if version == "1.0" else "The request has no Host header. Send exactly one."
    if not _HOST.match(hosts[0]):
        return "The Host header is not a host name with an optional port. Correct it."
    return None


def _coding_fault(version: str, codings: list[bytes]) -> str | None:
    """RFC 9112 §6.1: what one server takes for the body's end must be that of every other."""
    if not codings:
        return None
    if version == "1.0":
        return "HTTP/1.0 has no Transfer-Encoding. Send a Content-Length, or use HTTP/1.1."
    if len(codings) > 1 or codings[0].lower() != b"chunked":
        return "The only Transfer-Encoding accepted is a single `chunked`. Send the body in it."
    return None
