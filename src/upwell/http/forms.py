"""Small forms of pages: how a secret is given in a body."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect

from upwell import errors as e

if TYPE_CHECKING:
    from starlette.requests import Request

FORM_TYPE = "application/x-www-form-urlencoded"
_LIMIT = 8 << 10  # bytes
_SECONDS = 30.0


async def form_field(request: Request, name: str) -> str:
    """A field of a small form, empty when it is not in it.

    Raises WrongMediaType, FormInvalid, BodyTooLarge, BodyTimeout, BodyTruncated.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != FORM_TYPE:
        raise e.WrongMediaType(f"Send the form as {FORM_TYPE}.")
    try:
        async with asyncio.timeout(_SECONDS):
            body = await _small_body(request)
        fields = parse_qs(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=20)
    except TimeoutError:
        raise e.BodyTimeout("The form did not come in time; send it again.") from None
    except ClientDisconnect:
        raise e.BodyTruncated("The form did not come whole; send it again.") from None
    except ValueError:
        raise e.FormInvalid("The form cannot be read; send it as UTF-8.") from None
    return fields.get(name, [""])[0]


async def _small_body(request: Request) -> bytes:
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > _LIMIT:
            raise e.BodyTooLarge(f"A form may have at most {_LIMIT} bytes.")
    return bytes(body)
