"""Pure decisions: who may, how large, of what type. Raise before any side effect (I5)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upwell.errors import (
    EncryptionNotAllowed,
    FileTooLarge,
    ScopeMissing,
    TypeNotAccepted,
    ValidationFailed,
)
from upwell.model import GENERIC_TYPE

if TYPE_CHECKING:
    from datetime import datetime

    from upwell.core.ports import StoreLimits
    from upwell.model import NewUpload, Policy, Principal, Scope


def require(principal: Principal, scope: Scope) -> None:
    """Raises ScopeMissing unless the credential in hand allows it."""
    if not principal.may(scope):
        message = f"This token lacks the scope {scope}; use one that has it."
        raise ScopeMissing(message, meta={"scope": str(scope)})


def accept(new: NewUpload, policy: Policy, now: datetime) -> None:
    """Raises what a pool's policy, or plain sense, has against a new upload."""
    if new.expired_at is not None and new.expired_at <= now:
        why = "must be in the future"
        raise ValidationFailed(f"expired_at {why}.", errors={"expired_at": [why]})
    if new.encrypted and not policy.allow_encryption:
        raise EncryptionNotAllowed(
            "This pool does not take encrypted files; leave encrypt_password out."
        )
    if policy.max_file_size is not None and new.file_size > policy.max_file_size:
        raise FileTooLarge(
            f"This pool takes files of at most {policy.max_file_size} bytes; "
            f"this one has {new.file_size}.",
            meta={"max_file_size": policy.max_file_size},
        )
    if policy.accept_types and not _accepted(new.content_type, policy.accept_types):
        raise TypeNotAccepted(
            f"This pool takes {', '.join(policy.accept_types)}, not {new.content_type}.",
            meta={"accept_types": list(policy.accept_types)},
        )


def _accepted(content_type: str, patterns: tuple[str, ...]) -> bool:
    plain = content_type.split(";", maxsplit=1)[0].strip().lower() or GENERIC_TYPE
    major = plain.split("/")[0] + "/*"
    return any(pattern in (plain, major, "*/*") for pattern in patterns)


def fit_chunk_size(size: int, wanted: int, limits: StoreLimits) -> int:
    """The chunk size in bytes nearest to what was asked for that the store can take."""
    least = max(limits.min_chunk_size, -(-size // limits.max_chunks))
    if least > limits.max_chunk_size:
        most = limits.max_chunk_size * limits.max_chunks
        raise FileTooLarge(
            f"This pool's store takes files of at most {most} bytes.", meta={"max_file_size": most}
        )
    return max(least, min(wanted, limits.max_chunk_size))
