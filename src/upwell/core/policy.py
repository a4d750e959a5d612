"""Pure decisions: who may, how large, of what type, how long. Raise before any side effect (I5)."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from upwell.core.media_types import true_type, usual
from upwell.errors import (
    EncryptionNotAllowed,
    FileTooLarge,
    QuotaExceeded,
    ScopeMissing,
    TooManyOpenUploads,
    TooManyUnsentBytes,
    TypeNotAccepted,
    ValidationFailed,
)
from upwell.model import Allowance, Scope

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from upwell.core.ports import StoreLimits
    from upwell.model import (
        CloudFile,
        Ends,
        NewUpload,
        OpenLimits,
        OpenUploads,
        Policy,
        Pool,
        Principal,
        Usage,
    )

_RETRY = 30  # seconds in which an upload in progress may have ended or got bytes


def require(principal: Principal, scope: Scope) -> None:
    """Raises ScopeMissing unless the credential in hand allows it."""
    if not principal.may(scope):
        message = f"This token lacks the scope {scope}; use one that has it."
        raise ScopeMissing(message, meta={"scope": str(scope)})


def require_sharing(principal: Principal) -> None:
    """Raises ScopeMissing unless the credential may let others read what its account holds.

    Publishing takes ``files:read`` beside ``files:write``: a token that may not read could
    otherwise make a link, a bundle or a webhook and read through that.
    """
    require(principal, Scope.READ)
    require(principal, Scope.WRITE)


def require_reader(principal: Principal | None) -> None:
    """Raises ScopeMissing when content is asked for with a credential that may not read.

    A stranger, who has none, is judged by what the content is shared with.
    """
    if principal is not None:
        require(principal, Scope.READ)


def may_reuse(principal: Principal, rules: Policy, bundle_id: str | None) -> bool:
    """Whether a hash alone may turn content the account holds into a file at this destination.

    Others can read a bundle or an anonymous pool, so a token that may not read has to send the
    bytes there, which shows that it has them.
    """
    published = rules.allow_anonymous or bundle_id is not None
    return not published or principal.may(Scope.READ)


def may_use(principal: Principal, pool: Pool) -> bool:
    """Whether the account may upload to a pool, and know of it."""
    owns = pool.account_id == principal.account.id
    return pool.policy.public_usable or owns or principal.account.is_admin


def end_of(asked: Ends, now: datetime, field: str = "expired_at") -> datetime:
    """The instant at which something ends that a caller asked to end then, or after a duration.

    ``field`` is the request's name for the instant. Raises ValidationFailed unless it is after
    ``now``.
    """
    end = now + asked if isinstance(asked, timedelta) else asked
    if end <= now:
        why = "must be in the future"
        raise ValidationFailed(f"{field} {why}.", errors={field: [why]})
    return end


def is_same_end(held: datetime | None, wanted: datetime | None, asked: Ends | None) -> bool:
    """Whether a file that ends at ``held`` is the one that a caller wants to end at ``wanted``.

    A duration names a slightly later instant each time it is sent. A request that is repeated
    because its answer was lost must find the file it made, so a duration matches within a
    sixtieth of it, at most a minute.
    """
    if held is None or wanted is None or not isinstance(asked, timedelta):
        return held == wanted
    return abs(wanted - held) <= min(asked / 60, timedelta(minutes=1))


def accept(new: NewUpload, policy: Policy) -> None:
    """Raises what a pool's policy has against a new upload."""
    kind = true_type(new.content_type, new.file_name)
    _accept(policy, new.file_size, kind, encrypted=new.password is not None)


def accept_file(file: CloudFile, policy: Policy) -> None:
    """Raises what a pool's policy has against a file that comes from another one."""
    kind = true_type(file.mime_type, file.name)
    _accept(policy, file.size, kind, encrypted=file.encrypted)


def _accept(policy: Policy, size: int, content_type: str, *, encrypted: bool) -> None:
    if encrypted and not policy.allow_encryption:
        raise EncryptionNotAllowed(
            "This pool does not take encrypted files; leave encrypt_password out."
        )
    if policy.max_file_size is not None and size > policy.max_file_size:
        raise FileTooLarge(
            f"This pool takes files of at most {policy.max_file_size} bytes; this one has {size}.",
            meta={"max_file_size": policy.max_file_size},
        )
    if policy.accept_types and not accepted(content_type, policy.accept_types):
        raise TypeNotAccepted(
            f"This pool takes {', '.join(policy.accept_types)}, not {content_type}.",
            meta={"accept_types": list(policy.accept_types)},
        )


def accepted(content_type: str, patterns: tuple[str, ...]) -> bool:
    """Whether a media type is one of ``image/png``, ``image/*``, ``*/*`` …"""
    plain = usual(content_type)
    major = plain.split("/")[0] + "/*"
    return any(usual(pattern) in (plain, major, "*/*") for pattern in patterns)


def lives_until(
    asked: datetime | None, policy: Policy, bundle_expiry: datetime | None, now: datetime
) -> datetime | None:
    """When a file of a pool and a bundle expires: at the earliest of what is set."""
    pool_expiry = now + policy.file_expiry if policy.file_expiry is not None else None
    return min((each for each in (asked, pool_expiry, bundle_expiry) if each), default=None)


def allowance(principal: Principal, pool: Pool, default_quota: int | None) -> Allowance:
    """What a pool and an account may hold; ``default_quota`` is for accounts without one."""
    own = principal.account.quota
    account = default_quota if own is None else own
    return Allowance(pool.policy.quota, account, tells_pool=principal.may(Scope.ADMIN))


def fit(more: int, allowed: Allowance, pool: Usage, account: Iterable[Usage]) -> None:
    """Raises QuotaExceeded when ``more`` bytes are over what may be held; none always fit.

    The catalog decides again, in the transaction that takes them.
    """
    for scope, quota, used, told in (
        ("pool", allowed.pool, pool.total, allowed.told(pool.total)),
        ("account", allowed.account, held := sum(each.total for each in account), held),
    ):
        if more and quota is not None and used + more > quota:
            raise QuotaExceeded.of(scope, quota=quota, used=told, needed=more)


def begin(size: int, limits: OpenLimits, held: OpenUploads) -> None:
    """Raises TooManyOpenUploads or TooManyUnsentBytes when an account that has ``held`` in
    progress may not begin an upload of ``size`` bytes. One upload may always be in progress,
    however large."""
    if limits.count is not None and held.count >= limits.count:
        raise TooManyOpenUploads(
            f"Your account has {held.count} uploads in progress, and may have {limits.count}. "
            "Complete or cancel some of them first.",
            meta={"limit": limits.count, "open_uploads": held.count},
            retry_after=_RETRY,
        )
    if limits.unsent_bytes is None or not held.unsent_bytes or not size:
        return
    if held.unsent_bytes + size > limits.unsent_bytes:
        raise TooManyUnsentBytes(
            f"Your uploads in progress have reserved {held.unsent_bytes} bytes that were not sent "
            f"yet; with this one it would be more than {limits.unsent_bytes}. Send or cancel "
            "those first.",
            meta={
                "limit": limits.unsent_bytes,
                "unsent_bytes": held.unsent_bytes,
                "needed": size,
            },
            retry_after=_RETRY,
        )


def fit_chunk_size(size: int, wanted: int, limits: StoreLimits) -> int:
    """The chunk size in bytes nearest to what was asked for that the store can take."""
    least = max(limits.min_chunk_size, -(-size // limits.max_chunks))
    if least > limits.max_chunk_size:
        most = limits.max_chunk_size * limits.max_chunks
        raise FileTooLarge(
            f"This pool's store takes files of at most {most} bytes.", meta={"max_file_size": most}
        )
    return max(least, min(wanted, limits.max_chunk_size))
