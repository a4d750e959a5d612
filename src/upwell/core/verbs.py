"""All the verbs in one hand: what the rooms that speak a protocol are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.core.accounts import Accounts
    from upwell.core.bundles import Bundles
    from upwell.core.events import Events
    from upwell.core.files import Files
    from upwell.core.links import Links
    from upwell.core.pools import Pools
    from upwell.core.uploads import Uploads


@dataclass(frozen=True, slots=True)
class Verbs:
    """``check`` raises when the server cannot do its work."""

    accounts: Accounts
    uploads: Uploads
    files: Files
    pools: Pools
    bundles: Bundles
    links: Links
    events: Events
    check: Callable[[], None]
