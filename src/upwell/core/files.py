"""The verbs of a stored file: read, describe, rename, list, delete."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from upwell.core import policy
from upwell.errors import FileNotFound
from upwell.model import Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from upwell.core.ports import BlobReader, Catalog, Clock, Page
    from upwell.core.uploads import Home
    from upwell.model import CloudFile, Principal


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A file with its content; the caller closes ``reader``."""

    file: CloudFile
    reader: BlobReader


class Files:
    def __init__(self, catalog: Catalog, homes: Mapping[str, Home], clock: Clock) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock

    def info(self, principal: Principal, file_id: str) -> CloudFile:
        """Raises FileNotFound for what is unknown, expired or not the caller's alike."""
        policy.require(principal, Scope.READ)
        file = self._catalog.file(file_id, self._clock(), principal.account.id)
        if file is None:
            raise _not_found()
        return file

    def open(self, principal: Principal, file_id: str) -> OpenFile:
        """The file and a reader of its bytes."""
        file = self.info(principal, file_id)
        try:
            return OpenFile(file, self._homes[file.blob.pool_id].store.open(file.blob.key))
        except FileNotFoundError:
            self.info(principal, file_id)  # deleted meanwhile: not found, as it should be
            raise

    def mine(self, principal: Principal, offset: int, take: int) -> Page[CloudFile]:
        """The caller's files, newest first."""
        policy.require(principal, Scope.READ)
        return self._catalog.files(principal.account.id, self._clock(), offset, take)

    def rename(self, principal: Principal, file_id: str, name: str) -> CloudFile:
        return self._change(principal, file_id, lambda file: replace(file, name=name))

    def set_meta(self, principal: Principal, file_id: str, meta: dict[str, Any]) -> CloudFile:
        return self._change(principal, file_id, lambda file: replace(file, user_meta=meta))

    def set_marks(self, principal: Principal, file_id: str, marks: Sequence[str]) -> CloudFile:
        marked = tuple(marks)
        return self._change(principal, file_id, lambda file: replace(file, sensitive_marks=marked))

    def delete(self, principal: Principal, file_id: str) -> None:
        """The row goes first, then the bytes unless another file shares them (I8)."""
        policy.require(principal, Scope.WRITE)
        account = principal.account.id
        file = self._catalog.file(file_id, self._clock(), account)
        if file is None or not self._catalog.delete_file(file_id, account, self._clock()):
            raise _not_found()
        with suppress(OSError):  # the sweeper comes back for what is left
            self._free(file)

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
        for item in self._catalog.garbage(100):
            if (item.pool_id, item.key) == (file.blob.pool_id, file.blob.key):
                self._homes[item.pool_id].store.delete(item.key)
                self._catalog.forget_garbage([item])


def _not_found() -> FileNotFound:
    return FileNotFound("There is no such file of yours; it may have expired or been deleted.")
