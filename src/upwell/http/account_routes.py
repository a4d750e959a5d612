"""Who the caller is, and the end of a browser's session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from upwell import errors as e
from upwell.http.errors import responses
from upwell.http.guard import SESSION_COOKIE, call, in_thread, session_secret
from upwell.model import Scope

if TYPE_CHECKING:
    from upwell.core.verbs import Verbs
    from upwell.model import Principal


class AccountOut(BaseModel):
    """The caller's account, and what the credential in hand lets it do."""

    id: str
    name: str
    scopes: list[Scope] = Field(description="`admin` only for an account that is one.")

    @classmethod
    def of(cls, principal: Principal) -> Self:
        account, scopes = principal.account, sorted(filter(principal.may, Scope))
        return cls(id=account.id, name=account.name, scopes=scopes)


def make_routes(verbs: Verbs) -> APIRouter:
    """The routes, with their whole paths."""
    router = APIRouter(tags=["accounts"])

    @router.get("/api/accounts/me", summary="Who the caller is", responses=responses())
    async def my_account(request: Request) -> AccountOut:
        return await call(request, AccountOut.of)

    @router.post(
        "/logout",
        summary="End the browser's session",
        status_code=204,
        responses=responses(e.CrossSite, e.StorageFull),
    )
    async def log_out(request: Request) -> Response:
        """Its cookie is worth nothing from now on. A token in a header is not looked at."""
        secret = session_secret(request.scope, request.headers)
        await in_thread(lambda: verbs.accounts.log_out(secret))
        answer = Response(status_code=204)
        answer.delete_cookie(SESSION_COOKIE, httponly=True, samesite="lax")
        return answer

    return router
