"""The calls about what an account shares: bundles, signed links; and about its recycle bin."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from upwell.client.api import API, Calls, _json, _segment
from upwell.client.model import CloudFile, _get, _object
from upwell.client.units import end_fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime, timedelta

    from upwell.client.api import Download
    from upwell.client.model import Page


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files at one public address, ``url``; ``raw`` is all that the server told."""

    id: str
    slug: str
    name: str
    url: str
    files_count: int
    has_passcode: bool
    expired_at: str | None
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> Bundle:
        fields = _object(answer)
        return cls(
            id=_get(fields, "id", str),
            slug=_get(fields, "slug", str),
            name=_get(fields, "name", str),
            url=_get(fields, "url", str),
            files_count=_get(fields, "files_count", int),
            has_passcode=fields.get("has_passcode") is True,
            expired_at=fields.get("expired_at"),
            raw=fields,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFields:
    """What a bundle is to be; None stays as it is, or as it is by default.

    ``passcode`` is a secret: it is kept out of ``repr``.
    """

    name: str | None = None
    slug: str | None = None
    description: str | None = None
    passcode: str | None = field(default=None, repr=False)
    expires_at: datetime | None = None
    expires_in: timedelta | None = None

    def as_json(self) -> dict[str, Any]:
        """The request's body; absent keys are left out."""
        fields = {
            "name": self.name,
            "slug": self.slug,
            "description": self.description,
            "passcode": self.passcode,
        } | end_fields(self.expires_at, self.expires_in)
        return {key: value for key, value in fields.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Link:
    """A signed link: whoever has its ``url`` reads the file."""

    id: str
    url: str = field(repr=False)
    expires_at: str
    max_downloads: int | None
    downloads_left: int | None
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def of(cls, answer: object) -> Link:
        fields = _object(answer)
        return cls(
            id=_get(fields, "id", str),
            url=_get(fields, "url", str),
            expires_at=_get(fields, "expires_at", str),
            max_downloads=fields.get("max_downloads"),
            downloads_left=fields.get("downloads_left"),
            raw=fields,
        )


class SharingCalls(Calls):
    """A client that also shares, and restores what was deleted."""

    def create_bundle(self, new: BundleFields) -> Bundle:
        """Not tried again by itself: that might make a second one."""
        return Bundle.of(_json(self._send("POST", "/bundles", root=API, json=new.as_json())))

    def bundles(self, *, offset: int = 0, take: int = 50, after: str | None = None) -> Page[Bundle]:
        """The caller's bundles, newest first."""
        return self._page("/bundles", Bundle.of, API, offset=offset, take=take, after=after)

    def bundle(self, bundle_id: str) -> Bundle:
        return Bundle.of(self._call("GET", _bundle(bundle_id), root=API))

    def bundle_files(
        self, bundle_id: str, *, offset: int = 0, take: int = 50, after: str | None = None
    ) -> Page[CloudFile]:
        """Oldest first."""
        path = f"{_bundle(bundle_id)}/files"
        return self._page(path, CloudFile.of, API, offset=offset, take=take, after=after)

    def change_bundle(
        self, bundle_id: str, fields: BundleFields, unset: Sequence[str] = ()
    ) -> Bundle:
        """``unset`` names what is taken away: description, passcode, expired_at."""
        body = fields.as_json() | {"unset": list(unset)}
        return Bundle.of(self._call("PATCH", _bundle(bundle_id), root=API, json=body))

    def delete_bundle(self, bundle_id: str) -> None:
        """With its files: into the recycle bin where there is one."""
        self._delete(_bundle(bundle_id), root=API)

    def download_bundle(
        self, slug: str, start: int = 0, etag: str | None = None, *, passcode: str | None = None
    ) -> AbstractContextManager[Download]:
        """Receive all files of a bundle as one ZIP from ``start`` on, once; see ``download``."""
        secret = {} if passcode is None else {"X-Bundle-Passcode": passcode}
        path = f"/bundles/public/{_segment(slug)}/zip"
        return self._receive(path, API, secret, start, etag)

    def place(self, file_id: str, bundle_id: str) -> CloudFile:
        """Put a file into a bundle."""
        path, body = f"/{_segment(file_id)}/bundle", {"bundle_id": bundle_id}
        return CloudFile.of(self._call("PUT", path, json=body))

    def take_out(self, file_id: str) -> CloudFile:
        """Take a file out of the bundle it is in; it stays."""
        return CloudFile.of(self._call("DELETE", f"/{_segment(file_id)}/bundle"))

    def share(
        self,
        file_id: str,
        *,
        expires_at: datetime | None = None,
        expires_in: timedelta | None = None,
        max_downloads: int | None = None,
    ) -> Link:
        """A new signed link; the server decides how long it lives when that is not said."""
        asked = {"max_downloads": max_downloads}
        asked |= end_fields(expires_at, expires_in, "expires_at")
        return Link.of(self._call("POST", f"/{_segment(file_id)}/links", json=asked))

    def links(
        self, file_id: str, *, offset: int = 0, take: int = 50, after: str | None = None
    ) -> Page[Link]:
        """The live links to a file, newest first."""
        path = f"/{_segment(file_id)}/links"
        return self._page(path, Link.of, offset=offset, take=take, after=after)

    def unshare(self, link_id: str) -> None:
        """Revoke a link."""
        self._delete(f"/links/{_segment(link_id)}")

    def recycled(
        self, *, offset: int = 0, take: int = 50, after: str | None = None
    ) -> Page[CloudFile]:
        """What is in the recycle bin, newest first."""
        return self._page("/recycle", CloudFile.of, offset=offset, take=take, after=after)

    def restore(self, file_id: str) -> CloudFile:
        """Take a file out of the recycle bin."""
        return CloudFile.of(self._call("POST", f"/{_segment(file_id)}/restore"))


def _bundle(bundle_id: str) -> str:
    return f"/bundles/{_segment(bundle_id)}"
