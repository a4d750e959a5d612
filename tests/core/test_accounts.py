"""Accounts, tokens, logins. Secrets are random and kept only as digests (I9)."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from upwell.core.accounts import DEFAULT_SCOPES, LOGIN_LIFE, SESSION_LIFE, digest_of
from upwell.errors import AccountExists, LoginInvalid, TokenInvalid
from upwell.model import Scope

if TYPE_CHECKING:
    from tests.core.world import World


def test_a_name_is_taken_once(small: World) -> None:
    account = small.accounts.create("ann", admin=True)
    assert small.accounts.find("ann") == account
    with pytest.raises(AccountExists):
        small.accounts.create("ann")
    assert small.accounts.find("Ann") is None
    assert [each.name for each in small.accounts.all()].count("ann") == 1


def test_a_token_says_who_and_what(small: World) -> None:
    secret = small.accounts.issue(small.me.account, "laptop", scopes=[Scope.READ])
    principal = small.accounts.authenticate(secret)
    assert principal.account == small.me.account
    assert principal.scopes == {Scope.READ}
    assert secret.startswith("upw_")
    other = small.accounts.issue(small.me.account, "laptop")
    assert other != secret
    assert small.accounts.authenticate(other).scopes == DEFAULT_SCOPES


@pytest.mark.parametrize("change", [str.upper, lambda s: s[:-1], lambda s: s + " ", lambda _: ""])
def test_what_is_nearly_a_token_is_none(small: World, change: object) -> None:
    secret = small.accounts.issue(small.me.account, "x")
    assert callable(change)
    with pytest.raises(TokenInvalid):
        small.accounts.authenticate(change(secret))


@pytest.mark.parametrize("secret", ["\udcff", "upw_", "é", "x" * 100_000])
def test_odd_secrets_are_just_invalid(small: World, secret: str) -> None:
    with pytest.raises(TokenInvalid):
        small.accounts.authenticate(secret)
    with pytest.raises(LoginInvalid):
        small.accounts.log_in(secret)


def test_a_token_expires(small: World) -> None:
    secret = small.accounts.issue(small.me.account, "x", life=timedelta(hours=1))
    small.clock.advance(minutes=59)
    small.accounts.authenticate(secret)
    small.clock.advance(minutes=1)
    with pytest.raises(TokenInvalid):
        small.accounts.authenticate(secret)


def test_a_revoked_token_is_worth_nothing(small: World) -> None:
    secret = small.accounts.issue(small.me.account, "x")
    kept = small.accounts.issue(small.me.account, "y")
    token = small.accounts.authenticate(secret).token_id
    assert not small.accounts.revoke(small.stranger.account, token), "it is not theirs"
    small.accounts.authenticate(secret)
    assert small.accounts.revoke(small.me.account, token)
    assert not small.accounts.revoke(small.me.account, token)
    with pytest.raises(TokenInvalid):
        small.accounts.authenticate(secret)
    small.accounts.authenticate(kept)
    assert {each.name for each in small.accounts.tokens(small.me.account)} == {"x", "y"}
    assert small.accounts.tokens(small.stranger.account) == []


def test_a_login_works_once(small: World) -> None:
    code = small.accounts.invite(small.me.account)
    principal = small.accounts.authenticate(small.accounts.log_in(code))
    assert principal.account == small.me.account
    assert principal.scopes == DEFAULT_SCOPES
    with pytest.raises(LoginInvalid):
        small.accounts.log_in(code)


def test_eight_browsers_with_one_code(small: World) -> None:
    code = small.accounts.invite(small.me.account)

    def enter(_: int) -> bool:
        try:
            small.accounts.log_in(code)
        except LoginInvalid:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(enter, range(8))) == 1


def test_a_login_and_a_session_expire(small: World) -> None:
    late, code = small.accounts.invite(small.me.account), small.accounts.invite(small.me.account)
    session = small.accounts.log_in(code)
    small.clock.advance(seconds=LOGIN_LIFE.total_seconds())
    with pytest.raises(LoginInvalid):
        small.accounts.log_in(late)
    small.accounts.authenticate(session)
    small.clock.advance(seconds=SESSION_LIFE.total_seconds())
    with pytest.raises(TokenInvalid):
        small.accounts.authenticate(session)


def test_an_admin_logs_in_as_one(small: World) -> None:
    boss = small.accounts.create("boss", admin=True)
    principal = small.accounts.authenticate(small.accounts.log_in(small.accounts.invite(boss)))
    assert principal.may(Scope.ADMIN)


def test_only_digests_are_stored(small: World) -> None:
    """I9: no secret, in no encoding one would think of, in any byte of the database."""
    account = small.me.account
    secret = small.accounts.issue(account, "x")
    code = small.accounts.invite(account)
    spent = small.accounts.invite(account)
    session = small.accounts.log_in(spent)
    stored = small.database()
    assert digest_of(secret) in stored, "the haystack is the right one"
    assert account.name.encode() in stored
    for each in (secret, code, spent, session):
        bare = each.removeprefix("upw_")
        raw = base64.urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
        for form in (each.encode(), bare.encode(), raw, raw.hex().encode()):
            assert form not in stored
    assert secret not in repr(small.accounts.tokens(account))
