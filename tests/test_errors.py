"""The error tree is closed, drawn as it is, and mapped whole."""

from __future__ import annotations

import re

import pytest

from upwell import errors
from upwell.errors import UpwellError
from upwell.http.errors import STATUS, status_of

# Contract 1.6, and what HTTP itself asks for.
STATUSES = {400, 401, 403, 404, 409, 413, 415, 429, 507} | {405, 408, 412, 416, 500, 503}

# Clients know these: one may be added, none renamed or removed.
CODES = [
    "ACCOUNT_EXISTS",
    "AUTH_REQUIRED",
    "BODY_TIMEOUT",
    "BODY_TOO_LARGE",
    "BODY_TRUNCATED",
    "BUNDLE_NOT_FOUND",
    "CHECKSUM_MISMATCH",
    "CHECKSUM_UNSUPPORTED",
    "CHUNKS_MISSING",
    "CHUNK_BUSY",
    "CHUNK_CONFLICT",
    "CHUNK_INDEX_INVALID",
    "CHUNK_SIZE_MISMATCH",
    "CHUNK_SUPERSEDED",
    "CROSS_SITE",
    "ENCRYPTION_NOT_ALLOWED",
    "FILE_NOT_FOUND",
    "FILE_TOO_LARGE",
    "FORM_INVALID",
    "HASH_MISMATCH",
    "INTERNAL_ERROR",
    "LINK_NOT_FOUND",
    "LOGIN_INVALID",
    "MALFORMED_REQUEST",
    "METHOD_NOT_ALLOWED",
    "NOT_READY",
    "PASSCODE_REQUIRED",
    "PASSCODE_WRONG",
    "PASSWORD_REQUIRED",
    "PASSWORD_WRONG",
    "POOL_EXISTS",
    "POOL_IN_USE",
    "POOL_NOT_FOUND",
    "PRECONDITION_FAILED",
    "PREVIEW_NOT_FOUND",
    "QUOTA_EXCEEDED",
    "RANGE_NOT_SATISFIABLE",
    "ROUTE_NOT_FOUND",
    "SCOPE_MISSING",
    "SLUG_TAKEN",
    "STORAGE_FAILED",
    "STORAGE_FULL",
    "TASK_CLOSED",
    "TASK_NOT_FOUND",
    "TOKEN_INVALID",
    "TOO_MANY_GUESSES",
    "TOO_MANY_STREAMS",
    "TYPE_NOT_ACCEPTED",
    "UNSUPPORTED_MEDIA_TYPE",
    "VALIDATION_FAILED",
    "WEBHOOK_NOT_FOUND",
]


def _all(root: type[UpwellError]) -> list[type[UpwellError]]:
    return [root] + [each for child in root.__subclasses__() for each in _all(child)]


EVERY = _all(UpwellError)
LEAVES = [each for each in EVERY if not each.__subclasses__()]
BRANCHES = [each for each in EVERY if each.__subclasses__()]


def _drawn() -> dict[str, str]:
    """Child to parent, as the docstring's tree says."""
    parents: dict[str, str] = {}
    branch = root = "UpwellError"
    for line in (errors.__doc__ or "").splitlines():
        drawing = re.match(r" {4}([│├└ ]+[─ ]*)(.*)", line)
        names = re.findall(r"\b[A-Z][A-Za-z]+\b", line)
        if not drawing or not names or names == [root]:
            continue
        nested = not drawing[1].startswith(("├", "└"))
        if not nested:
            alike = re.match(r"\w+ ·", drawing[2])  # leaves side by side, no branch
            branch = root if alike else names[0]
            if not alike:
                parents[names.pop(0)] = root
        parents |= dict.fromkeys(names, branch)
    return parents


def test_the_tree_is_drawn_as_it_is() -> None:
    real = {each.__name__: each.__mro__[1].__name__ for each in EVERY if each is not UpwellError}
    assert _drawn() == real


def test_the_tree_is_closed() -> None:
    assert {each.__module__ for each in EVERY} == {"upwell.errors"}
    assert all(len(each.__bases__) == 1 for each in EVERY)


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_has_a_code_and_a_status(leaf: type[UpwellError]) -> None:
    assert re.fullmatch(r"[A-Z_]+", leaf.__dict__["code"])
    assert status_of(leaf) in STATUSES


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_branch_is_never_raised_itself(branch: type[UpwellError]) -> None:
    assert "code" not in branch.__dict__
    assert branch.__doc__


def test_codes_are_unique_and_stable() -> None:
    codes = [leaf.code for leaf in LEAVES]
    assert len(codes) == len(set(codes))
    assert set(CODES) <= set(codes)


def test_the_table_names_nothing_else() -> None:
    assert set(STATUS) <= set(EVERY)
    assert set(STATUS.values()) <= STATUSES
    used = {each for leaf in LEAVES for each in leaf.__mro__ if each in STATUS}
    assert used == set(STATUS), "an entry that no leaf needs"


def test_an_error_carries_what_it_is_given() -> None:
    error = errors.ValidationFailed("Say it.", errors={"a": ["b"]}, meta={"c": 1}, retry_after=3)
    assert (str(error), error.message) == ("Say it.", "Say it.")
    assert (error.errors, error.meta, error.retry_after) == ({"a": ["b"]}, {"c": 1}, 3)
    bare = errors.NotReady("x")
    assert (bare.errors, bare.meta, bare.retry_after) == (None, None, None)
