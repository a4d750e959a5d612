"""The values' own arithmetic, and the pure decisions of policy."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.core import policy
from upwell.core.ports import StoreLimits
from upwell.errors import (
    EncryptionNotAllowed,
    FileTooLarge,
    ScopeMissing,
    TypeNotAccepted,
    ValidationFailed,
)
from upwell.model import (
    Account,
    Digest,
    Ends,
    Layout,
    NewUpload,
    Policy,
    Principal,
    Scope,
    TaskStatus,
    UploadTask,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HEX = {name: hashlib.new(name, b"x").hexdigest() for name in Digest.ALGORITHMS}


# Digest.parse


@pytest.mark.parametrize("name", Digest.ALGORITHMS)
def test_the_algorithm_is_told_by_the_length(name: str) -> None:
    assert Digest.parse(HEX[name]) == Digest(name, HEX[name])
    assert Digest.parse(HEX[name].upper()) == Digest(name, HEX[name])
    assert Digest.parse(f" {HEX[name]}\n") == Digest(name, HEX[name])


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("md5", "md5"), ("SHA1", "sha1"), ("sha-1", "sha1"), ("SHA-256", "sha256")],
)
def test_the_algorithm_may_be_named(prefix: str, name: str) -> None:
    assert Digest.parse(f"{prefix}:{HEX[name]}") == Digest(name, HEX[name])


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "md5",
        "md5:",
        ":" + HEX["md5"],
        HEX["md5"][:-1],
        HEX["md5"] + "0",
        HEX["md5"][:-1] + "g",
        "sha256:" + HEX["md5"],
        "crc32:" + HEX["md5"],
        "md5:md5:" + HEX["md5"],
        "md5: " + HEX["md5"],
        "\u0660" * 32,  # digits to Python, not to us
        HEX["md5"][:-1] + "\n0",
        "0x" + HEX["md5"][2:],
        "sha512-256:" + HEX["sha256"],
    ],
)
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        Digest.parse(text)
    assert set(refused.value.errors or {}) == {"hash"}


@given(st.text(max_size=140))
def test_parse_raises_nothing_else(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except ValidationFailed:
        return
    assert Digest.parse(str(digest)) == digest


# Layout


@given(size=st.integers(0, 1 << 50), chunk_size=st.integers(1 << 40, 1 << 45))
def test_chunks_tile_the_file(size: int, chunk_size: int) -> None:
    layout = Layout("k", size, chunk_size)
    lengths = [layout.length(index) for index in range(layout.count)]
    assert sum(lengths) == size
    assert all(length == chunk_size for length in lengths[:-1])
    assert all(0 < length <= chunk_size for length in lengths)
    ends = [layout.offset(index) + length for index, length in enumerate(lengths)]
    assert [layout.offset(index) for index in range(1, layout.count)] == ends[:-1]


@pytest.mark.parametrize(
    ("size", "count", "last"), [(0, 0, 0), (1, 1, 1), (7, 1, 7), (8, 1, 8), (9, 2, 1), (17, 3, 1)]
)
def test_boundaries_of_a_layout(size: int, count: int, last: int) -> None:
    layout = Layout("k", size, 8)
    assert layout.count == count
    assert layout.length(max(0, count - 1)) == last


# UploadTask


def _task(size: int = 10, received: int = 0, digest: Digest | None = None) -> UploadTask:
    return UploadTask(
        id="t",
        account_id="a",
        pool_id="p",
        bundle_id=None,
        file_name="n",
        content_type="x/y",
        digest=digest,
        expired_at=None,
        layout=Layout("k", size, 4),
        status=TaskStatus.IN_PROGRESS,
        created_at=NOW,
        updated_at=NOW,
        expires_at=NOW,
        received_bytes=received,
    )


@pytest.mark.parametrize(
    ("size", "received", "progress"),
    [(0, 0, 100.0), (10, 0, 0.0), (10, 10, 100.0), (3, 1, 33.33), (10**6, 10**6 - 1, 99.99)],
)
def test_progress_says_100_only_when_all_is_here(size: int, received: int, progress: float) -> None:
    assert _task(size, received).progress == progress


def test_identity_is_content_and_destination() -> None:
    digest = Digest("md5", HEX["md5"])
    one = _task(digest=digest)
    assert one.identity() == _task(digest=digest, received=3).identity()
    assert _task().identity() is None
    others = [_task(11, digest=digest), _task(digest=Digest("sha1", HEX["sha1"]))]
    assert len({one.identity(), *(other.identity() for other in others)}) == 3


def test_identity_takes_any_name() -> None:
    task = _task(digest=Digest("md5", HEX["md5"]))
    object.__setattr__(task, "file_name", "\udcff\0")
    assert task.identity()


# policy


def _who(*scopes: Scope, admin: bool = False) -> Principal:
    return Principal(Account("a", "a", admin, NOW), frozenset(scopes), "t")


def test_a_scope_is_needed() -> None:
    policy.require(_who(Scope.READ), Scope.READ)
    with pytest.raises(ScopeMissing) as refused:
        policy.require(_who(Scope.READ), Scope.WRITE)
    assert refused.value.meta == {"scope": "files:write"}


def test_an_admin_token_of_someone_who_is_no_admin() -> None:
    with pytest.raises(ScopeMissing):
        policy.require(_who(Scope.ADMIN), Scope.ADMIN)
    policy.require(_who(Scope.ADMIN, admin=True), Scope.ADMIN)


def _new(**fields: object) -> NewUpload:
    known: dict[str, object] = {"file_name": "n", "file_size": 10, "content_type": "image/png"}
    return NewUpload(**(known | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("new", "rules", "error"),
    [
        (_new(file_size=11), Policy(max_file_size=10), FileTooLarge),
        (_new(password="p"), Policy(allow_encryption=False), EncryptionNotAllowed),
        (_new(), Policy(accept_types=("text/*",)), TypeNotAccepted),
        (_new(content_type="image"), Policy(accept_types=("image/png",)), TypeNotAccepted),
        (_new(content_type=""), Policy(accept_types=("image/*",)), TypeNotAccepted),
    ],
)
def test_policy_refuses(new: NewUpload, rules: Policy, error: type[Exception]) -> None:
    with pytest.raises(error):
        policy.accept(new, rules)


@pytest.mark.parametrize(
    ("new", "rules"),
    [
        (_new(), Policy()),
        (_new(), Policy(max_file_size=10)),
        (_new(file_size=0), Policy(max_file_size=0)),
        (_new(password="p"), Policy(allow_encryption=True)),
        (_new(content_type="Image/PNG; q=1"), Policy(accept_types=("text/*", "image/*"))),
        (_new(content_type="image/png"), Policy(accept_types=("image/png",))),
        (_new(content_type="image/unknown"), Policy(accept_types=("*/*",))),
        (_new(content_type=""), Policy(accept_types=("application/octet-stream",))),
    ],
)
def test_policy_accepts(new: NewUpload, rules: Policy) -> None:
    policy.accept(new, rules)


@pytest.mark.parametrize("ends", [NOW, NOW - timedelta(days=1), timedelta(), timedelta(-1)])
def test_what_ends_does_so_in_the_future(ends: Ends) -> None:
    with pytest.raises(ValidationFailed, match="expires_at must be in the future"):
        policy.end_of(ends, NOW, "expires_at")
    tick = timedelta(microseconds=1)
    assert policy.end_of(NOW + tick, NOW) == policy.end_of(tick, NOW) == NOW + tick


@given(
    size=st.integers(0, 1 << 40),
    wanted=st.integers(1, 1 << 40),
    least=st.integers(1, 1 << 20),
    span=st.integers(0, 1 << 20),
    most_chunks=st.integers(1, 100_000),
)
def test_a_chunk_size_is_one_that_the_store_takes(
    size: int, wanted: int, least: int, span: int, most_chunks: int
) -> None:
    limits = StoreLimits(least, least + span, most_chunks)
    try:
        fitted = policy.fit_chunk_size(size, wanted, limits)
    except FileTooLarge:
        assert size > limits.max_chunk_size * most_chunks
        return
    assert limits.min_chunk_size <= fitted <= limits.max_chunk_size
    assert Layout("k", size, fitted).count <= most_chunks
    if limits.min_chunk_size <= wanted <= limits.max_chunk_size:
        assert fitted >= wanted
        assert fitted == wanted or -(-size // wanted) > most_chunks
