"""Signed links: anyone who has one may read one file, until it expires, is used up or revoked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from upwell.core import policy
from upwell.core.keys import new_id
from upwell.core.ports import Page
from upwell.errors import FileNotFound, LinkNotFound
from upwell.model import Link, Scope

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from upwell.core.files import OpenFile
    from upwell.core.keys import ServerKey
    from upwell.core.ports import BlobReader, Catalog, Clock
    from upwell.model import CloudFile, Ends, Principal

_PURPOSE = "link"


@dataclass(frozen=True, slots=True)
class NewLink:
    """``ends`` then, or so long from now. ``max_downloads`` whole downloads, in as many pieces
    as it takes; None for any number."""

    ends: Ends
    max_downloads: int | None = None


@dataclass(frozen=True, slots=True)
class SignedLink:
    """A link with the signature that makes it worth something. ``downloads_left`` whole
    downloads are possible, None for any number."""

    link: Link
    signature: str
    downloads_left: int | None


class Links:
    def __init__(self, catalog: Catalog, clock: Clock, key: ServerKey) -> None:
        self._catalog = catalog
        self._clock = clock
        self._key = key

    def create(self, principal: Principal, file_id: str, new: NewLink) -> SignedLink:
        """Raises FileNotFound; ValidationFailed when it would be dead at once."""
        policy.require_sharing(principal)
        now = self._clock()
        file = self._owned(principal, file_id, now)
        expires_at = policy.end_of(new.ends, now, "expires_at")
        link = Link(
            id=new_id(),
            account_id=principal.account.id,
            file_id=file_id,
            created_at=now,
            expires_at=expires_at,
            max_downloads=new.max_downloads,
            allowance=new.max_downloads and new.max_downloads * cost_of(file.size),
        )
        self._catalog.add_link(link)
        return self._signed(link, file)

    def of_file(
        self,
        principal: Principal,
        file_id: str,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[SignedLink]:
        """The live links to a file of the caller's, newest first."""
        policy.require(principal, Scope.READ)
        now, account = self._clock(), principal.account.id
        file = self._owned(principal, file_id, now)
        page = self._catalog.links(account, file_id, now, offset, take, after)
        return Page([self._signed(link, file) for link in page.items], page.total, page.cursor)

    def revoke(self, principal: Principal, link_id: str) -> None:
        """It is worth nothing from now on. Raises LinkNotFound."""
        policy.require(principal, Scope.WRITE)
        if not self._catalog.remove_link(link_id, principal.account.id):
            raise _not_found()

    def open(self, link_id: str, signature: str) -> tuple[Link, CloudFile]:
        """The link and its file. Raises LinkNotFound for whatever is wrong with it."""
        now = self._clock()
        link = self._catalog.link(link_id, now)
        if link is None or not self._key.is_signed(_PURPOSE, _signed_part(link), signature):
            raise _not_found()
        if link.allowance == 0:
            raise _not_found()
        file = self._catalog.file(link.file_id, now, link.account_id)
        if file is None:
            raise _not_found()
        return link, file

    def metered(self, link: Link, opened: OpenFile, length: int) -> OpenFile:
        """The file to read ``length`` bytes from, which are taken from the link's allowance.
        Raises LinkNotFound when it is used up."""
        if link.allowance is None:
            return opened
        if not self._catalog.spend_link(link.id, cost_of(length), self._clock()):
            raise _not_found()
        give_back = partial(self._catalog.refund_link, link.id)
        return replace(opened, reader=_Metered(opened.reader, cost_of(length), give_back))

    def _owned(self, principal: Principal, file_id: str, now: datetime) -> CloudFile:
        file = self._catalog.file(file_id, now, principal.account.id)
        if file is None:
            raise FileNotFound("There is no such file of yours; it may have expired.")
        return file

    def _signed(self, link: Link, file: CloudFile) -> SignedLink:
        left = None if link.allowance is None else link.allowance // cost_of(file.size)
        return SignedLink(link, self._key.sign(_PURPOSE, _signed_part(link)), left)


class _Metered:
    """A ``BlobReader`` that counts what it hands out, and gives back what was taken for the
    rest when it is closed."""

    def __init__(self, reader: BlobReader, taken: int, give_back: Callable[[int], None]) -> None:
        self._reader = reader
        self._left = taken
        self._give_back = give_back
        self.size = reader.size

    def read_at(self, offset: int, length: int) -> bytes:
        data = self._reader.read_at(offset, length)
        self._left -= len(data)
        return data

    def fileno(self) -> int | None:
        """None: what the kernel sends by itself cannot be counted."""
        return None

    def close(self) -> None:
        self._reader.close()
        left, self._left = self._left, 0
        if left > 0 and self.size > 0:
            self._give_back(left)


def cost_of(length: int) -> int:
    """What reading so many bytes costs: an empty file is downloaded too."""
    return max(1, length)


def _signed_part(link: Link) -> str:
    return f"{link.id} {link.file_id} {link.expires_at.isoformat()}"


def _not_found() -> LinkNotFound:
    return LinkNotFound("This link is not valid: it has expired, is used up, or was revoked.")
