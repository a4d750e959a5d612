"""Bundles under ``/api/bundles``, for their owner and for anyone; signed links to files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import AfterValidator

from upwell import errors as e
from upwell.core.files import Form
from upwell.http import listings
from upwell.http.bundle_zip import zip_response
from upwell.http.downloads import FileResponse, form_of
from upwell.http.errors import CHANGES, DERIVING, JSON_BODY, described_headers, responses
from upwell.http.file_routes import (
    Base64Password,
    Download,
    FileId,
    Password,
    Preview,
    Thumbnail,
    content_responses,
    password_of,
)
from upwell.http.forms import form_field
from upwell.http.guard import ask, asker_of, call
from upwell.http.listings import After, Offset, Take
from upwell.http.refusals import refusal_page, wants_page
from upwell.http.schemas import CloudFileOut
from upwell.http.sharing_schemas import (
    BundleOut,
    ChangeBundle,
    CreateBundle,
    CreateLink,
    LinkOut,
    PlaceFile,
    PublicBundleOut,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from upwell.core.ports import Page
    from upwell.core.verbs import Verbs
    from upwell.model import Bundle, CloudFile, Principal

BundleId = Annotated[str, Path(description="The bundle's `id`."), AfterValidator(str.lower)]
PublicSlug = Annotated[str, Path(description="The bundle's `slug`.")]
LinkId = Annotated[str, Path(description="The link's `id`.")]
Signature = Annotated[str, Query(description="From the link's `url`.")]
PasscodeQuery = Annotated[str | None, Query(alias="passcode", description="The bundle's.")]
PasscodeHeader = Annotated[
    str | None, Header(alias="X-Bundle-Passcode", description="The same as a header.")
]
PublicTake = Annotated[int, Query(ge=1, le=1000, description="Files to answer.")]
_OPENING = (
    e.BundleNotFound,
    e.PasscodeRequired,
    e.PasscodeWrong,
    e.TooManyGuesses,
    *DERIVING,
)
_SECRET = {"Cache-Control": "no-store"}
_ZIP = {"application/zip": {"schema": {"type": "string", "format": "binary"}}}
_ZIP_HEADERS = {
    "ETag": "Of these files under these names; take it for `If-None-Match` and `If-Range`.",
    "Content-Disposition": "The bundle's name.",
}


def make_routes(verbs: Verbs, public_url: str | None) -> APIRouter:
    """The routes with their whole paths."""
    router = APIRouter(tags=["sharing"])
    _add_public(router, verbs, public_url)  # first: its path would else be taken for an id
    _add_bundles(router, verbs, public_url)
    _add_changes(router, verbs, public_url)
    _add_linked(router, verbs)
    return router


def make_file_routes(verbs: Verbs, public_url: str | None) -> APIRouter:
    """The routes of a file, without their prefix."""
    router = APIRouter(tags=["sharing"])
    _add_placing(router, verbs)
    _add_links(router, verbs, public_url)
    return router


def base_of(request: Request, public_url: str | None) -> str:
    """How people reach this server: as it was told, or as it was asked."""
    return (public_url or str(request.base_url)).rstrip("/")


def _add_bundles(router: APIRouter, verbs: Verbs, public_url: str | None) -> None:
    def counted(bundle: Bundle, base: str) -> BundleOut:
        return BundleOut.of(bundle, verbs.bundles.count(bundle), base)

    @router.post(
        "/api/bundles",
        summary="Make a bundle",
        status_code=201,
        responses=responses(*JSON_BODY, e.SlugTaken, *DERIVING),
    )
    async def create_bundle(request: Request, body: CreateBundle) -> BundleOut:
        new, base = body.command(), base_of(request, public_url)
        return BundleOut.of(await call(request, lambda p: verbs.bundles.create(p, new)), 0, base)

    listed = responses(e.ValidationFailed)
    listed[200] = {"description": "Newest first.", "headers": listings.HEADERS}

    @router.get("/api/bundles", summary="The caller's bundles", responses=listed)
    async def list_bundles(
        request: Request,
        response: Response,
        offset: Offset = 0,
        take: Take = 20,
        after: After = None,
    ) -> list[BundleOut]:
        base = base_of(request, public_url)

        def page(principal: Principal) -> tuple[list[BundleOut], Page[Bundle]]:
            found = verbs.bundles.mine(principal, offset, take, after)
            return [counted(bundle, base) for bundle in found.items], found

        bundles, found = await call(request, page)
        listings.describe(response, found)
        return bundles

    @router.get(
        "/api/bundles/{bundle_id}",
        summary="A bundle of the caller's",
        responses=responses(e.BundleNotFound),
    )
    async def get_bundle(request: Request, bundle_id: BundleId) -> BundleOut:
        base = base_of(request, public_url)
        return await call(request, lambda p: counted(verbs.bundles.get(p, bundle_id), base))

    listed = responses(e.ValidationFailed, e.BundleNotFound)
    listed[200] = {"description": "Oldest first.", "headers": listings.HEADERS}

    @router.get("/api/bundles/{bundle_id}/files", summary="Its files", responses=listed)
    async def bundle_files(
        request: Request,
        response: Response,
        bundle_id: BundleId,
        offset: Offset = 0,
        take: Take = 20,
        after: After = None,
    ) -> list[CloudFileOut]:
        page = await call(request, lambda p: verbs.bundles.files(p, bundle_id, offset, take, after))
        listings.describe(response, page)
        return [_file_out(verbs, file) for file in page.items]


def _add_changes(router: APIRouter, verbs: Verbs, public_url: str | None) -> None:
    @router.patch(
        "/api/bundles/{bundle_id}",
        summary="Change a bundle",
        responses=responses(*JSON_BODY, e.BundleNotFound, e.SlugTaken, *DERIVING),
    )
    async def change_bundle(request: Request, bundle_id: BundleId, body: ChangeBundle) -> BundleOut:
        """No file in it outlives a new `expired_at`. With another passcode, who gave the old
        one is asked again."""
        changes, base = body.changes(), base_of(request, public_url)

        def change(principal: Principal) -> BundleOut:
            bundle = verbs.bundles.update(principal, bundle_id, changes)
            return BundleOut.of(bundle, verbs.bundles.count(bundle), base)

        return await call(request, change)

    @router.delete(
        "/api/bundles/{bundle_id}",
        summary="Delete a bundle and its files",
        status_code=204,
        responses=responses(*CHANGES, e.BundleNotFound),
    )
    async def delete_bundle(request: Request, bundle_id: BundleId) -> Response:
        """Its files go to the recycle bin where their pool has one, and are deleted elsewhere."""
        await call(request, lambda p: verbs.bundles.delete(p, bundle_id))
        return Response(status_code=204)


def _add_placing(router: APIRouter, verbs: Verbs) -> None:
    async def answer(request: Request, verb: Callable[[Principal], CloudFile]) -> CloudFileOut:
        return _file_out(verbs, await call(request, verb))

    @router.put(
        "/{file_id}/bundle",
        summary="Put into a bundle",
        responses=responses(*JSON_BODY, e.FileNotFound, e.BundleNotFound),
    )
    async def place_file(request: Request, file_id: FileId, body: PlaceFile) -> CloudFileOut:
        """It is in one bundle at a time, and does not outlive it."""
        bundle_id = str(body.bundle_id)
        return await answer(request, lambda p: verbs.bundles.place(p, file_id, bundle_id))

    @router.delete(
        "/{file_id}/bundle",
        summary="Take out of its bundle",
        responses=responses(*CHANGES, e.FileNotFound),
    )
    async def take_file(request: Request, file_id: FileId) -> CloudFileOut:
        """The file stays."""
        return await answer(request, lambda p: verbs.bundles.place(p, file_id, None))


# anyone's


def _add_public(router: APIRouter, verbs: Verbs, public_url: str | None) -> None:
    listed = responses(e.ValidationFailed, *_OPENING)
    listed[200] = {"description": "The bundle.", "headers": listings.HEADERS}

    @router.get("/api/bundles/public/{slug}", summary="A bundle, for anyone", responses=listed)
    async def public_bundle(
        request: Request,
        response: Response,
        slug: PublicSlug,
        offset: Offset = 0,
        take: PublicTake = 100,
        after: After = None,
        passcode: PasscodeQuery = None,
        header: PasscodeHeader = None,
    ) -> PublicBundleOut:
        """Its files, oldest first. No credential is needed, but its passcode if it has one."""
        del passcode, header  # the asker's
        asker = asker_of(request)

        def read() -> tuple[Bundle, Page[CloudFile]]:
            bundle = verbs.bundles.open(slug, asker)
            return bundle, verbs.bundles.public_files(bundle, offset, take, after)

        bundle, page = await ask(asker, read)
        listings.describe(response, page)
        response.headers.update(_SECRET)
        return PublicBundleOut.of(bundle, page.items, page.total, base_of(request, public_url))

    async def bundle_zip(
        request: Request,
        slug: PublicSlug,
        passcode: PasscodeQuery = None,
        header: PasscodeHeader = None,
    ) -> Response:
        """Made while it is sent; `Range` (one range) and `If-Range` are honoured, so a download
        that was cut goes on. Encrypted files are in it as they are stored, as `NAME.age`."""
        del passcode, header  # the asker's
        return await zip_response(verbs, request, slug, asker_of(request))

    for method, name in (("GET", "bundle_zip"), ("HEAD", "head_bundle_zip")):
        router.add_api_route(
            "/api/bundles/public/{slug}/zip",
            bundle_zip,
            methods=[method],
            name=name,
            summary="All its files as one ZIP" if method == "GET" else "The ZIP's headers",
            responses=_zip_responses(),
            response_class=Response,
        )


def _zip_responses() -> dict[int | str, dict[str, Any]]:
    conditions = (e.RangeNotSatisfiable, e.PreconditionFailed)
    described = responses(e.ValidationFailed, e.TooManyDownloads, *conditions, *_OPENING)
    whole = described_headers(_ZIP_HEADERS)
    part = described_headers({"Content-Range": "Which bytes, and of how many."}) | whole
    described[200] = {"description": "The archive.", "content": _ZIP, "headers": whole}
    described[206] = {"description": "The range asked for.", "content": _ZIP, "headers": part}
    described[304] = {"description": "The caller has it already.", "headers": whole}
    return described


# signed links


def _add_links(router: APIRouter, verbs: Verbs, public_url: str | None) -> None:
    @router.post(
        "/{file_id}/links",
        summary="Make a signed link",
        status_code=201,
        responses=responses(*JSON_BODY, e.FileNotFound),
    )
    async def create_link(
        request: Request, response: Response, file_id: FileId, body: CreateLink
    ) -> LinkOut:
        """Whoever has it may read the file, until it expires, is used up or revoked."""
        new, base = body.command(), base_of(request, public_url)
        response.headers.update(_SECRET)
        return LinkOut.of(await call(request, lambda p: verbs.links.create(p, file_id, new)), base)

    listed = responses(e.ValidationFailed, e.FileNotFound)
    listed[200] = {"description": "Newest first.", "headers": listings.HEADERS}

    @router.get("/{file_id}/links", summary="The live links to a file", responses=listed)
    async def list_links(
        request: Request,
        response: Response,
        file_id: FileId,
        offset: Offset = 0,
        take: Take = 100,
        after: After = None,
    ) -> list[LinkOut]:
        base = base_of(request, public_url)
        response.headers.update(_SECRET)
        page = await call(request, lambda p: verbs.links.of_file(p, file_id, offset, take, after))
        listings.describe(response, page)
        return [LinkOut.of(each, base) for each in page.items]

    @router.delete(
        "/links/{link_id}",
        summary="Revoke a signed link",
        status_code=204,
        responses=responses(*CHANGES, e.LinkNotFound),
    )
    async def revoke_link(request: Request, link_id: LinkId) -> Response:
        """What is being downloaded through it goes on to its end."""
        await call(request, lambda p: verbs.links.revoke(p, link_id))
        return Response(status_code=204)


def _add_linked(router: APIRouter, verbs: Verbs) -> None:
    async def linked_file(
        request: Request,
        link_id: LinkId,
        signature: Signature = "",
        download: Download = False,
        thumbnail: Thumbnail = False,
        preview: Preview = False,
        password: Password = None,
        password_base64: Base64Password = None,
    ) -> Response:
        """As `GET /api/files/{file_id}`, for whoever has the link. One that counts its
        downloads gives no thumbnail and no preview; a part counts by its length."""
        form = form_of(thumbnail=thumbnail, preview=preview)
        asker, secret = asker_of(request), password_of(password, password_base64)
        try:
            opened, take = await ask(
                asker,
                lambda: verbs.files.open_linked(link_id, signature, asker, form, secret),
            )
        except e.UpwellError as error:
            if not wants_page(request):
                raise
            return refusal_page(error, request)
        return FileResponse(opened, request.headers, download=download, take=take)

    for method, name in (("GET", "linked_file"), ("HEAD", "head_linked_file")):
        router.add_api_route(
            "/s/{link_id}",
            linked_file,
            methods=[method],
            name=name,
            summary="The content" if method == "GET" else "The content's headers",
            responses=content_responses(e.LinkNotFound),
            response_class=Response,
        )

    @router.post("/s/{link_id}/open", include_in_schema=False)
    async def unlock_linked_file(
        request: Request, link_id: LinkId, signature: Signature = ""
    ) -> Response:
        """For the form that a person gets in place of an encrypted file."""
        try:
            secret, asker = await form_field(request, "password"), asker_of(request)
            opened, take = await ask(
                asker,
                lambda: verbs.files.open_linked(
                    link_id, signature, asker, Form.CONTENT, secret or None
                ),
            )
        except e.UpwellError as error:
            return refusal_page(error, request)
        return FileResponse(opened, request.headers, download=True, take=take)


def _file_out(verbs: Verbs, file: CloudFile) -> CloudFileOut:
    return CloudFileOut.of(file, verbs.pools.named(file.pool_id))
