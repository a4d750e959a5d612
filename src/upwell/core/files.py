"""The verbs of a stored file: read, describe, rename, list, delete."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from upwell.core import media_types, policy
from upwell.core.homes import home_of
from upwell.core.sealed import SealedReader
from upwell.core.sealing import KeyCache
from upwell.errors import (
    AuthRequired,
    FileNotFound,
    NotReady,
    PasswordRequired,
    PreviewNotFound,
)
from upwell.model import ALL_FILES, GENERIC_TYPE, Garbage, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from upwell.core.bundles import Bundles
    from upwell.core.guesses import Asker, Guesses
    from upwell.core.homes import Home
    from upwell.core.links import Links
    from upwell.core.ports import BlobReader, Catalog, Clock, Page
    from upwell.model import Bundle, CloudFile, FileQuery, Principal


class Form(StrEnum):
    """What of a file is asked for: its content, the object as it is stored, or an image made
    from the content."""

    CONTENT = "content"
    RAW = "raw"
    THUMBNAIL = "thumbnail"
    PREVIEW = "preview"


@dataclass(frozen=True, slots=True)
class OpenFile:
    """Bytes to be handed out; the caller closes ``reader``. ``mime_type`` is what they are
    (``media_types``), not what was declared; ``version`` never names two different contents."""

    name: str
    mime_type: str
    version: str
    modified: datetime
    reader: BlobReader


class Files:
    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        *,
        bundles: Bundles,
        links: Links,
        guesses: Guesses,
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._bundles = bundles
        self._links = links
        self._guesses = guesses
        self._keys = KeyCache()

    def info(self, principal: Principal, file_id: str) -> CloudFile:
        """Raises FileNotFound for what is unknown, expired or not the caller's alike."""
        policy.require(principal, Scope.READ)
        file = self._catalog.file(file_id, self._clock(), principal.account.id)
        if file is None:
            raise _not_found()
        return file

    def open(
        self, asker: Asker, file_id: str, form: Form = Form.CONTENT, password: str | None = None
    ) -> OpenFile:
        """A file for whoever may read it: its owner, anyone when its pool says so, and who can
        open the bundle it is in. The stored object is its owner's alone.

        Raises FileNotFound, or AuthRequired for a stranger, for what is unknown, expired or not
        theirs to read alike; PasscodeWrong, PasswordRequired, PasswordWrong, TooManyGuesses,
        PreviewNotFound.
        """

        def find() -> CloudFile:
            return self._readable(asker, file_id, owned=form is Form.RAW)

        return self._found(find, asker, form, password)

    def open_shared(
        self,
        bundle: Bundle,
        asker: Asker,
        file_id: str,
        form: Form = Form.CONTENT,
        password: str | None = None,
    ) -> OpenFile:
        """A file of a bundle that the asker has opened (``Bundles.open``)."""

        def find() -> CloudFile:
            return self._bundles.public_file(bundle, file_id)

        return self._found(find, asker, form, password)

    def open_linked(
        self,
        link_id: str,
        signature: str,
        asker: Asker,
        form: Form = Form.CONTENT,
        password: str | None = None,
    ) -> tuple[OpenFile, Callable[[int], OpenFile]]:
        """The file of a signed link, and what takes so many bytes of it from the link and gives
        the file to read them from. Raises LinkNotFound too.

        A link that counts its downloads gives the content alone: an image of it would be worth
        much of a download, and cost nothing.
        """
        link, _ = self._links.open(link_id, signature)
        if link.allowance is not None and form is not Form.CONTENT:
            raise PreviewNotFound("This link counts its downloads; it gives the file alone.")

        def find() -> CloudFile:
            return self._links.open(link_id, signature)[1]

        opened = self._found(find, asker, form, password)
        return opened, lambda length: self._links.metered(link, opened, length)

    def _found(
        self, find: Callable[[], CloudFile], asker: Asker, form: Form, password: str | None
    ) -> OpenFile:
        """Looked up once more when the bytes are not there: it was moved or deleted between
        its row and them."""
        try:
            return self._opened(find(), asker, form, password)
        except FileNotFoundError:
            return self._opened(find(), asker, form, password)

    def _opened(self, file: CloudFile, asker: Asker, form: Form, password: str | None) -> OpenFile:
        """A file that the asker was found to be allowed to read."""
        if form in (Form.THUMBNAIL, Form.PREVIEW):
            return self._derived(file, form)
        store, blob = home_of(self._homes, file.blob.pool_id).store, file.blob
        reader = store.open(blob.key)
        if form is Form.RAW and file.encrypted:
            version, name = f"{blob.id}.age", f"{file.name}.age"
            return OpenFile(name, GENERIC_TYPE, version, file.created_at, reader)
        try:
            if blob.sealed is not None:
                reader = self._unsealed(file, blob.sealed.head, reader, asker, password)
            kind = media_types.served_type(file.mime_type, file.name, reader)
        except BaseException:
            reader.close()
            raise
        version = blob.digests["sha256"]
        return OpenFile(file.name, kind, version, file.created_at, reader)

    def _derived(self, file: CloudFile, form: Form) -> OpenFile:
        blob = file.blob
        key = blob.thumbnail_key if form is Form.THUMBNAIL else blob.preview_key
        if key is None:
            raise PreviewNotFound(f"There is no {form} of this file, or not yet.")
        reader = home_of(self._homes, blob.pool_id).store.open(key)
        return OpenFile(f"{file.name}.webp", "image/webp", key, file.created_at, reader)

    def _unsealed(
        self,
        file: CloudFile,
        head_size: int,
        stored: BlobReader,
        asker: Asker,
        password: str | None,
    ) -> BlobReader:
        if password is None:
            raise PasswordRequired(
                "This file is encrypted: send its password as X-Encrypt-Password, or, in base64, "
                "as X-Encrypt-Password-Base64."
            )
        thing, guessed = f"file {file.id}", False

        def guess() -> None:
            nonlocal guessed
            guessed = True
            self._guesses.count(thing, asker)

        sealing = self._keys.unlock(stored.read_at(0, head_size), password, guess)
        if guessed:
            self._guesses.forgive(thing, asker)
        return SealedReader(stored, sealing)

    def _readable(self, asker: Asker, file_id: str, *, owned: bool = False) -> CloudFile:
        now, principal = self._clock(), asker.principal
        policy.require_reader(principal)
        if principal is not None:
            mine = self._catalog.file(file_id, now, principal.account.id)
            if mine is not None:
                return mine
        file = None if owned else self._catalog.file(file_id, now, None)
        # Asked of an unknown file too, so that it takes as long.
        bundle = None if owned else self._catalog.bundle_of_file(file_id, now)
        if file is not None and self._is_shared(file, bundle, asker):
            return file
        if principal is None:
            raise AuthRequired("Send a token as `Authorization: Bearer …`, or log in first.")
        raise _not_found()

    def _is_shared(self, file: CloudFile, bundle: Bundle | None, asker: Asker) -> bool:
        with suppress(NotReady):  # it may be shared all the same, and a stranger is told nothing
            if home_of(self._homes, file.pool_id).pool.policy.allow_anonymous:
                return True
        return bundle is not None and self._bundles.admits(bundle, asker)

    def mine(
        self,
        principal: Principal,
        offset: int,
        take: int,
        query: FileQuery = ALL_FILES,
        *,
        recycled: bool = False,
        after: str | None = None,
    ) -> Page[CloudFile]:
        """The caller's files; or those in the recycle bin."""
        policy.require(principal, Scope.READ)
        now, account = self._clock(), principal.account.id
        return self._catalog.files(
            account, now, offset, take, query, recycled=recycled, after=after
        )

    def rename(self, principal: Principal, file_id: str, name: str) -> CloudFile:
        return self._change(principal, file_id, lambda file: replace(file, name=name))

    def describe(self, principal: Principal, file_id: str, text: str) -> CloudFile:
        """An empty text takes the description away."""
        return self._change(
            principal, file_id, lambda file: replace(file, description=text or None)
        )

    def set_meta(self, principal: Principal, file_id: str, meta: dict[str, Any]) -> CloudFile:
        return self._change(principal, file_id, lambda file: replace(file, user_meta=meta))

    def set_marks(self, principal: Principal, file_id: str, marks: Sequence[str]) -> CloudFile:
        marked = tuple(marks)
        return self._change(principal, file_id, lambda file: replace(file, sensitive_marks=marked))

    def delete(self, principal: Principal, file_id: str) -> None:
        """Into the recycle bin where the pool has one; else, and when it is there already, it
        is gone: the row first, then the bytes unless another file shares them (I8)."""
        policy.require(principal, Scope.WRITE)
        now, account = self._clock(), principal.account.id
        file = self._catalog.file(file_id, now, account)
        pool = None if file is None else self._catalog.pool(file.pool_id)
        if pool is not None and pool.policy.enable_recycle:
            if not self._catalog.recycle_file(file_id, account, now):
                raise _not_found()
            return
        if not self._catalog.delete_file(file_id, account, now):
            raise _not_found()
        if file is not None:
            with suppress(OSError, NotReady):  # the sweeper comes back for what is left
                self._free(file)

    def restore(self, principal: Principal, file_id: str) -> CloudFile:
        """Take a file out of the recycle bin. Raises FileNotFound when it is not in there."""
        policy.require(principal, Scope.WRITE)
        file = self._catalog.restore_file(file_id, principal.account.id, self._clock())
        if file is None:
            raise FileNotFound("There is no such file in your recycle bin.")
        return file

    def delete_many(self, principal: Principal, file_ids: Sequence[str]) -> list[str]:
        """Delete those that are the caller's; the ids that were deleted."""
        policy.require(principal, Scope.WRITE)
        deleted = []
        for file_id in dict.fromkeys(file_ids):
            with suppress(FileNotFound):
                self.delete(principal, file_id)
                deleted.append(file_id)
        return deleted

    def _change(
        self, principal: Principal, file_id: str, change: Callable[[CloudFile], CloudFile]
    ) -> CloudFile:
        policy.require(principal, Scope.WRITE)
        now = self._clock()
        file = self._catalog.update_file(file_id, principal.account.id, now, change)
        if file is None:
            raise _not_found()
        return file

    def _free(self, file: CloudFile) -> None:
        """Remove the bytes if the catalog has marked them as garbage."""
        blob = file.blob
        for key in (blob.key, blob.thumbnail_key, blob.preview_key):
            item = key and Garbage(blob.pool_id, key)
            if item and self._catalog.is_garbage(item):
                home_of(self._homes, item.pool_id).store.delete(item.key)
                self._catalog.forget_garbage([item])


def _not_found() -> FileNotFound:
    return FileNotFound("There is no such file of yours; it may have expired or been deleted.")
