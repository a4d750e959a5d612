"""The chunk endpoint, in front of the framework.

Routing, dependencies and middleware cost more than all else that a chunk needs besides its
bytes, so the common form of the path is served here. The framework's route describes it in
the OpenAPI document, and serves what does not look like a chunk's path.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from upwell.core.receiving import Checksum
from upwell.errors import ValidationFailed
from upwell.http.bodies import receive_chunk
from upwell.http.guard import CHUNK_PATH, secret_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from upwell.core.receiving import ChunkWriter
    from upwell.core.verbs import Verbs

CHECKSUM_HEADER = r"^[A-Za-z0-9-]{1,16} [A-Za-z0-9+/]{1,88}={0,2}$"

_PATH = re.compile(rf"/(?:api|drive){CHUNK_PATH}([0-9A-Za-z_-]{{1,64}})/([0-9]{{1,9}})\Z")
_CHECKSUM = re.compile(CHECKSUM_HEADER)


class ChunkEndpoint:
    def __init__(self, app: ASGIApp, verbs: Verbs) -> None:
        self._app = app
        self._verbs = verbs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match = scope["type"] == "http" and _PATH.match(scope["path"])
        if not match or scope["method"] not in ("POST", "PUT"):
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        await self._receive(request, match[1], int(match[2]))
        await Response()(scope, receive, send)

    async def _receive(self, request: Request, task_id: str, index: int) -> None:
        secret = secret_of(request.scope, request.headers)
        header = request.headers.get("upload-checksum")

        def open_writer() -> ChunkWriter:
            principal = self._verbs.accounts.authenticate(secret)
            checksum = parse_checksum(header)
            return self._verbs.uploads.open_chunk(principal, task_id, index, checksum)

        await receive_chunk(request, open_writer)


def parse_checksum(header: str | None) -> Checksum | None:
    """``Upload-Checksum: algorithm base64`` (tus 1.0, checksum). Raises ValidationFailed."""
    if header is None:
        return None
    algorithm, _, encoded = header.partition(" ")
    try:
        digest = base64.b64decode(encoded, validate=True) if _CHECKSUM.match(header) else b""
    except binascii.Error:
        digest = b""
    if not digest:
        why = "must be an algorithm, a space, and the digest in base64"
        raise ValidationFailed(
            f"Upload-Checksum {why}.", errors={"Upload-Checksum": [why]}
        ) from None
    return Checksum(algorithm.lower().replace("-", ""), digest)
