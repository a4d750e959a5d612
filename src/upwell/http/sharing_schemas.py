"""Bundles and signed links as JSON."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import quote
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints, field_validator

from upwell.core.bundles import NewBundle, public_facts
from upwell.core.links import NewLink, SignedLink
from upwell.errors import ValidationFailed
from upwell.http.schemas import (
    WHOLE,
    AskedInstant,
    Instant,
    Life,
    Name,
    RequestBody,
    Secret,
    end_asked,
    one_end,
)

if TYPE_CHECKING:
    from upwell.model import Bundle, CloudFile

MAX_DOWNLOADS = 1_000_000
LONGEST_LINK = 10 * 366 * 86_400  # seconds
LINK_LIFE = 7 * 86_400

Slug = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9-]{1,62}[a-z0-9]$",
        description="In the bundle's address: 3 to 64 lower-case letters, digits and inner "
        "hyphens.",
    ),
]
Description = Annotated[
    str, StringConstraints(min_length=1, max_length=10_000, pattern=r"^[^\x00]+$")
]
Passcode = Annotated[
    Secret | None, Field(description="Who reads the bundle needs it; kept as Argon2id.", repr=False)
]
EndsAt = Annotated[
    AskedInstant, Field(description="In the future; the bundle and its files are gone then.")
]
EndsIn = Annotated[
    Life, Field(description="Seconds from now by the server's clock, instead of `expired_at`.")
]
Removable = Literal["description", "passcode", "expired_at"]


class CreateBundle(RequestBody):
    """A bundle to be made; its slug is made up when there is none."""

    name: Name
    slug: Slug | None = None
    description: Description | None = None
    passcode: Passcode = None
    expired_at: EndsAt | None = None
    expires_in: EndsIn | None = None

    _one_end = field_validator("expires_in")(one_end)

    def command(self) -> NewBundle:
        ends = end_asked(self.expired_at, self.expires_in)
        return NewBundle(self.name, self.slug, self.description, self.passcode, ends)


class ChangeBundle(RequestBody):
    """What is to be different. ``null`` is as good as absent: ``unset`` takes something away."""

    name: Name | None = None
    slug: Slug | None = None
    description: Description | None = None
    passcode: Passcode = None
    expired_at: EndsAt | None = None
    expires_in: EndsIn | None = None
    unset: Annotated[
        list[Removable] | None, Field(max_length=10, description="What is to be taken away.")
    ] = None

    _one_end = field_validator("expires_in")(one_end)

    def changes(self) -> dict[str, Any]:
        """As fields of a bundle. Raises ValidationFailed when they contradict each other."""
        names = ("name", "slug", "description", "passcode")
        values = {name: getattr(self, name) for name in names}
        values["expired_at"] = end_asked(self.expired_at, self.expires_in)
        given = {name: value for name, value in values.items() if value is not None}
        without = dict.fromkeys(self.unset or ())
        both = sorted({*given} & {*without})
        if both:
            why = f"names {', '.join(both)}, which the request sets too"
            raise ValidationFailed(f"unset {why}.", errors={"unset": [why]})
        return given | without


class PlaceFile(RequestBody):
    """Which bundle a file goes into."""

    bundle_id: Annotated[UUID, Field(description="A bundle of the caller's.")]


class BundleOut(BaseModel):
    """Files shared under one address, for their owner."""

    id: UUID
    slug: str = Field(description="In its address.")
    name: str
    description: str | None
    has_passcode: bool = Field(description="Who reads it is asked for one.")
    expired_at: Instant | None = Field(description="From when on it and its files are gone.")
    files_count: int = Field(description="That are in it now.")
    url: str = Field(description="Its public page.")
    created_at: Instant
    updated_at: Instant

    @classmethod
    def of(cls, bundle: Bundle, files_count: int, base: str) -> BundleOut:
        return cls(
            id=UUID(bundle.id),
            slug=bundle.slug,
            name=bundle.name,
            description=bundle.description,
            has_passcode=bundle.passcode_hash is not None,
            expired_at=bundle.expired_at,
            files_count=files_count,
            url=f"{base}/b/{bundle.slug}",
            created_at=bundle.created_at,
            updated_at=bundle.updated_at,
        )


class SharedFileOut(BaseModel):
    """A file of a bundle, as anyone may see it."""

    id: str
    name: str
    size: int = Field(description="Bytes of the content.")
    mime_type: str
    created_at: Instant
    has_thumbnail: bool = Field(description="There is a `thumbnail_url`.")
    is_encrypted: bool = Field(description="To be read with its password.")
    file_meta: dict[str, Any] = Field(description="What the content is; never where it was made.")
    url: str = Field(description="Its bytes; send the bundle's passcode there too.")
    thumbnail_url: str | None = Field(description="A small image of it, in WebP.")

    @classmethod
    def of(cls, file: CloudFile, base: str) -> SharedFileOut:
        url = f"{base}/api/files/{file.id}"
        has_thumbnail = file.has_thumbnail
        return cls(
            id=file.id,
            name=file.name,
            size=file.size,
            mime_type=file.mime_type,
            created_at=file.created_at,
            has_thumbnail=has_thumbnail,
            is_encrypted=file.encrypted,
            file_meta=public_facts(file),
            url=url,
            thumbnail_url=f"{url}?thumbnail=true" if has_thumbnail else None,
        )


class PublicBundleOut(BaseModel):
    """A bundle as anyone may see it who has its slug, and its passcode where it has one."""

    slug: str = Field(description="In its address.")
    name: str
    description: str | None
    expired_at: Instant | None = Field(description="From when on it and its files are gone.")
    files_count: int = Field(description="In all.")
    files: list[SharedFileOut] = Field(description="A page of them, oldest first.")
    zip_url: str = Field(description="All files as one ZIP; send the passcode there too.")

    @classmethod
    def of(cls, bundle: Bundle, files: list[CloudFile], total: int, base: str) -> PublicBundleOut:
        return cls(
            slug=bundle.slug,
            name=bundle.name,
            description=bundle.description,
            expired_at=bundle.expired_at,
            files_count=total,
            files=[SharedFileOut.of(file, base) for file in files],
            zip_url=f"{base}/api/bundles/public/{bundle.slug}/zip",
        )


class CreateLink(RequestBody):
    """A signed link to be made; it lives a week when nothing else is said."""

    expires_at: Annotated[AskedInstant | None, Field(description="In the future.")] = None
    expires_in: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=LONGEST_LINK), WHOLE] | None,
        Field(description="Seconds from now by the server's clock, instead of `expires_at`."),
    ] = None
    max_downloads: Annotated[
        Annotated[int, Field(strict=True, ge=1, le=MAX_DOWNLOADS), WHOLE] | None,
        Field(
            description="Whole downloads, in as many pieces as it takes; any number when absent.",
        ),
    ] = None

    _one_end = field_validator("expires_in")(one_end)

    def command(self) -> NewLink:
        ends = end_asked(self.expires_at, self.expires_in) or timedelta(seconds=LINK_LIFE)
        return NewLink(ends, self.max_downloads)


class LinkOut(BaseModel):
    """A signed link: whoever has its ``url`` reads the file."""

    id: str
    file_id: str
    url: str = Field(description="Keep it as secret as the file.")
    expires_at: Instant = Field(description="From when on it is worth nothing.")
    max_downloads: int | None = Field(description="Whole ones; null for any number.")
    downloads_left: int | None = Field(description="Whole ones; null for any number.")
    created_at: Instant

    @classmethod
    def of(cls, signed: SignedLink, base: str) -> LinkOut:
        link = signed.link
        return cls(
            id=link.id,
            file_id=link.file_id,
            url=f"{base}/s/{link.id}?signature={quote(signed.signature)}",
            expires_at=link.expires_at,
            max_downloads=link.max_downloads,
            downloads_left=signed.downloads_left,
            created_at=link.created_at,
        )
