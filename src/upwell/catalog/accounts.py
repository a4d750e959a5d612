"""Accounts, tokens and login codes: what is done inside one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from upwell.catalog.prepared import Prepared
from upwell.catalog.schema import accounts, logins, tokens
from upwell.errors import AccountExists
from upwell.model import Account, Principal, Scope, Token

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection

_NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=tokens.c.created_at.type)
_LIVE = sa.and_(
    tokens.c.revoked_at.is_(None),
    sa.or_(tokens.c.expires_at.is_(None), tokens.c.expires_at > _NOW),
)
_PRINCIPAL = Prepared(
    sa.select(accounts, tokens.c.id.label("token_id"), tokens.c.scopes)
    .join(tokens, tokens.c.account_id == accounts.c.id)
    .where(tokens.c.digest == sa.bindparam("digest"), _LIVE)
)


def add(conn: Connection, account: Account) -> None:
    values = {
        "id": account.id,
        "name": account.name,
        "is_admin": account.is_admin,
        "created_at": account.created_at,
        "quota": account.quota,
        "number": sa.select(
            sa.func.coalesce(sa.func.max(accounts.c.number), 0) + 1
        ).scalar_subquery(),
    }
    try:
        conn.execute(sa.insert(accounts).values(values))
    except IntegrityError as error:
        raise AccountExists(
            f"An account named {account.name!r} exists already: choose another name."
        ) from error


def by_name(conn: Connection, name: str) -> Account | None:
    row = conn.execute(sa.select(accounts).where(accounts.c.name == name)).first()
    return None if row is None else _account(row)


def set_quota(conn: Connection, account_id: str, quota: int | None) -> Account | None:
    """The account as changed."""
    change = sa.update(accounts).where(accounts.c.id == account_id).values(quota=quota)
    row = conn.execute(change.returning(accounts)).first()
    return None if row is None else _account(row)


def everyone(conn: Connection) -> list[Account]:
    query = sa.select(accounts).order_by(accounts.c.created_at, accounts.c.id)
    return [_account(row) for row in conn.execute(query)]


def add_token(conn: Connection, token: Token) -> None:
    values = {
        "id": token.id,
        "account_id": token.account_id,
        "name": token.name,
        "digest": token.digest,
        "scopes": " ".join(sorted(token.scopes)),
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
    }
    conn.execute(sa.insert(tokens), values)


def tokens_of(conn: Connection, account_id: str) -> list[Token]:
    query = (
        sa.select(tokens)
        .where(tokens.c.account_id == account_id)
        .order_by(tokens.c.created_at, tokens.c.id)
    )
    return [_token(row) for row in conn.execute(query)]


def revoke(conn: Connection, account_id: str, token_id: str, now: datetime) -> bool:
    mine = sa.and_(tokens.c.id == token_id, tokens.c.account_id == account_id)
    change = sa.update(tokens).where(mine, _LIVE).values(revoked_at=_NOW)
    return conn.execute(change, {"now": now}).rowcount > 0


def principal(conn: Connection, digest: bytes, now: datetime) -> Principal | None:
    row = _PRINCIPAL.first(conn, {"digest": digest, "now": now})
    return None if row is None else Principal(_account(row), _scopes(row.scopes), row.token_id)


def add_login(conn: Connection, digest: bytes, account_id: str, expires_at: datetime) -> None:
    values = {"digest": digest, "account_id": account_id, "expires_at": expires_at}
    conn.execute(sa.insert(logins), values)


def take_login(conn: Connection, digest: bytes, now: datetime) -> Account | None:
    """The row goes with the code, so a second taker finds none; run-out codes go along."""
    conn.execute(sa.delete(logins).where(logins.c.expires_at <= now))
    spend = sa.delete(logins).where(logins.c.digest == digest).returning(logins.c.account_id)
    account_id = conn.execute(spend).scalar()
    row = conn.execute(sa.select(accounts).where(accounts.c.id == account_id)).first()
    return None if row is None else _account(row)


def _account(row: sa.Row[Any]) -> Account:
    return Account(row.id, row.name, row.is_admin, row.created_at, row.quota)


def _token(row: sa.Row[Any]) -> Token:
    return Token(
        id=row.id,
        account_id=row.account_id,
        name=row.name,
        digest=row.digest,
        scopes=_scopes(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _scopes(text: str) -> frozenset[Scope]:
    return frozenset(map(Scope, text.split()))
