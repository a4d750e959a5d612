"""All the verbs in one hand: what the rooms that speak a protocol are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from upwell.core.accounts import Accounts
    from upwell.core.files import Files
    from upwell.core.uploads import Uploads
    from upwell.model import Pool


@dataclass(frozen=True, slots=True)
class Verbs:
    """``check`` raises when the server cannot do its work."""

    accounts: Accounts
    uploads: Uploads
    files: Files
    pools: Mapping[str, Pool]
    check: Callable[[], None]
