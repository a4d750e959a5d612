"""Accounts, bearer tokens and one-time logins. Only digests of secrets are stored (I9)."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from upwell.core.keys import new_id
from upwell.errors import LoginInvalid, TokenInvalid
from upwell.model import Account, Scope, Token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from upwell.core.ports import Catalog, Clock
    from upwell.model import Principal

OWNER = "owner"
TOKEN_PREFIX = "upw_"  # noqa: S105 - what secret scanners know our tokens by
DEFAULT_SCOPES = frozenset({Scope.READ, Scope.WRITE})
LOGIN_LIFE = timedelta(hours=24)
SESSION_LIFE = timedelta(days=30)


def digest_of(secret: str) -> bytes:
    """SHA-256: the secrets are random and long, so no slow hash is called for."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


class Accounts:
    def __init__(self, catalog: Catalog, clock: Clock) -> None:
        self._catalog = catalog
        self._clock = clock

    def create(self, name: str, *, admin: bool = False) -> Account:
        """Raises AccountExists when the name is taken."""
        account = Account(new_id(), name, admin, self._clock())
        self._catalog.add_account(account)
        return account

    def find(self, name: str) -> Account | None:
        return self._catalog.account(name)

    def all(self) -> list[Account]:
        return self._catalog.accounts()

    def set_quota(self, account: Account, quota: int | None) -> None:
        """Bytes it may hold over all pools; None for the server's default."""
        self._catalog.set_quota(account.id, quota)

    def issue(
        self,
        account: Account,
        name: str,
        *,
        scopes: Iterable[Scope] = DEFAULT_SCOPES,
        life: timedelta | None = None,
    ) -> str:
        """Make a token; its secret, which is not kept anywhere."""
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        now = self._clock()
        self._catalog.add_token(
            Token(
                id=new_id(),
                account_id=account.id,
                name=name,
                digest=digest_of(secret),
                scopes=frozenset(scopes),
                created_at=now,
                expires_at=now + life if life else None,
            )
        )
        return secret

    def tokens(self, account: Account) -> list[Token]:
        return self._catalog.tokens(account.id)

    def revoke(self, account: Account, token_id: str) -> bool:
        """Whether there was such a live token; it is worth nothing from now on."""
        return self._catalog.revoke_token(account.id, token_id, self._clock())

    def authenticate(self, secret: str) -> Principal:
        """Raises TokenInvalid for what is unknown, expired or revoked alike."""
        principal = self._catalog.principal(digest_of(secret), self._clock())
        if principal is None:
            raise TokenInvalid("This token is not valid; it may have expired or been revoked.")
        return principal

    def invite(self, account: Account) -> str:
        """A one-time code that logs a browser in."""
        code = secrets.token_urlsafe(24)
        self._catalog.add_login(digest_of(code), account.id, self._clock() + LOGIN_LIFE)
        return code

    def log_in(self, code: str) -> str:
        """Spend a login code; the secret of a new session token with the account's rights."""
        account = self._catalog.take_login(digest_of(code), self._clock())
        if account is None:
            raise LoginInvalid(
                "This login link was used already or is too old; run `upwell login` for a new one."
            )
        scopes = DEFAULT_SCOPES | ({Scope.ADMIN} if account.is_admin else set())
        return self.issue(account, "browser", scopes=scopes, life=SESSION_LIFE)

    def log_out(self, secret: str) -> None:
        """Revoke a session's token. Raises TokenInvalid when it is not a live one."""
        principal = self.authenticate(secret)
        self.revoke(principal.account, principal.token_id)
