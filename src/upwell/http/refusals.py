"""What a person sees in place of a refusal: a page, which asks for the secret where one helps."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from upwell import errors as e
from upwell.http import render
from upwell.http.errors import status_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

_BUNDLE_PATH = re.compile(r"/b/[^/]+")
_LINK_PATH = re.compile(r"/s/[^/]+")
_SENTENCES: dict[type[e.UpwellError], str] = {
    e.PasscodeRequired: "These files are behind a passcode.",
    e.PasscodeWrong: "This is not the passcode.",
    e.PasswordRequired: "This file is encrypted. Whoever shared it has its password.",
    e.PasswordWrong: "This is not the password of the file.",
}
_LIMITED = (e.TooManyGuesses, e.TooManyDerivations)
_WRONG = (e.PasscodeWrong, e.PasswordWrong, *_LIMITED)


@dataclass(frozen=True, slots=True)
class _Form:
    """Where a secret goes, and what it is called."""

    action: str
    name: str
    label: str
    button: str


def wants_page(request: Request) -> bool:
    """Whether a person's browser asks, who is better told by a page."""
    return request.method != "HEAD" and "text/html" in request.headers.get("accept", "")


def refusal_page(error: e.UpwellError, request: Request) -> Response:
    values = {
        "title": "Shared files",
        "why": _SENTENCES.get(type(error), error.message),
        "wrong": isinstance(error, _WRONG),
        "form": _asking_form(error, request),
    }
    answer = render.page(request, "refusal.html", values, status_of(type(error)))
    if error.retry_after is not None:
        answer.headers["Retry-After"] = str(error.retry_after)
    return answer


def _asking_form(error: e.UpwellError, request: Request) -> _Form | None:
    """For the passcode of the bundle, or for the password of the file that was asked for."""
    path = request.url.path
    bundle = _BUNDLE_PATH.match(path)
    limited = isinstance(error, _LIMITED)
    wants_passcode = isinstance(error, e.PasscodeRequired | e.PasscodeWrong)
    if bundle and (wants_passcode or (limited and bundle[0] == path)):
        return _Form(bundle[0], "passcode", "Passcode", "Open")
    if limited or isinstance(error, e.PasswordRequired | e.PasswordWrong):
        link = _LINK_PATH.match(path)
        target = f"{link[0]}/open?{request.url.query}" if link else path
        return _Form(target, "password", "Password", "Download")
    return None
