"""direct and batch: small files stored in one go, or found to be there already.

What may be against an upload is looked at where create looks at it (``creating``), before the
first side effect (I5); one file is a batch of one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from upwell.core import derivations, hashing, policy
from upwell.core.creating import HEAD, check_digest, sealed_of
from upwell.core.keys import new_id
from upwell.core.ports import NewFile
from upwell.core.sealing import Sealing, align_chunk_size, seal_whole
from upwell.errors import HashMismatch, StorageFailed, UpwellError
from upwell.model import Blob, CloudFile, Digest, Layout, NewUpload, Scope, Sealed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upwell.core.creating import Creating, Destination, Senses
    from upwell.core.ports import BlobStore, Catalog, Clock, Intake
    from upwell.model import Principal


@dataclass(frozen=True, slots=True)
class Stored:
    """A file; ``existed`` when the account held its content already."""

    file: CloudFile
    existed: bool


@dataclass(frozen=True, slots=True)
class _Admitted:
    """A small file that may be stored, and is not there yet."""

    at: int
    new: NewUpload
    data: bytes
    digests: dict[str, str]
    there: Destination


@dataclass(slots=True)
class _Batch:
    """Small files of one caller, and what became of each so far."""

    principal: Principal
    given: Sequence[tuple[NewUpload, bytes]]
    outcomes: dict[int, Stored | UpwellError]

    def next(self) -> list[int]:
        """Those whose turn it is. A content that is given twice is found to be there by its
        second file, as if they had come one after the other."""
        seen: dict[object, int] = {}
        for at in range(len(self.given)):
            if at not in self.outcomes:
                seen.setdefault(self.given[at][0].digest or at, at)
        return list(seen.values())


class Direct:
    def __init__(
        self, creating: Creating, catalog: Catalog, clock: Clock, *, senses: Senses
    ) -> None:
        self._creating = creating
        self._catalog = catalog
        self._clock = clock
        self._senses = senses

    def store(self, principal: Principal, new: NewUpload, data: bytes) -> CloudFile:
        """A small file in one go."""
        (outcome,) = self.store_many(principal, [(new, data)])
        if not isinstance(outcome, Stored):
            raise outcome
        return outcome.file

    def find_many(
        self, principal: Principal, asked: Sequence[NewUpload]
    ) -> list[Stored | UpwellError | None]:
        """What create would find to be there already; None for what is to be sent."""
        policy.require(principal, Scope.WRITE)
        return [self._found(principal, new) for new in asked]

    def store_many(
        self, principal: Principal, given: Sequence[tuple[NewUpload, bytes]]
    ) -> list[Stored | UpwellError]:
        """Small files in one go, each stored or refused for itself."""
        policy.require(principal, Scope.WRITE)
        if any(new.password for new, _ in given):
            derivations.require_here()  # before the first file is stored
        batch = _Batch(principal, given, {})
        while turn := batch.next():
            admitted = defaultdict(list)
            for at in turn:
                outcome = self._admit(batch, at)
                if isinstance(outcome, _Admitted):
                    admitted[outcome.there.pool_id].append(outcome)
                else:
                    batch.outcomes[at] = outcome
            for each in admitted.values():
                batch.outcomes |= self._keep(principal, each)
        return [batch.outcomes[at] for at in range(len(given))]

    def _found(self, principal: Principal, new: NewUpload) -> Stored | UpwellError | None:
        try:
            there = self._creating.admit(principal, new)
            existing = self._creating.existing(principal, new, there)
        except UpwellError as error:
            return error
        return Stored(existing, existed=True) if existing else None

    def _admit(self, batch: _Batch, at: int) -> _Admitted | Stored | UpwellError:
        """Everything that may be against it, and whether it is there, before anything is done."""
        principal, (new, data) = batch.principal, batch.given[at]
        try:
            there = self._creating.admit(principal, new)
            _check_size(len(data), new.file_size)
            digests = hashing.digests_of(data, new.digest)
            check_digest(new.digest, digests)
            existing = self._creating.existing(principal, new, there)
            if existing:
                return Stored(existing, existed=True)
            self._creating.require_room(principal, there, len(data))
        except UpwellError as error:
            return error
        return _Admitted(at, new, data, digests, there)

    def _keep(
        self, principal: Principal, admitted: Sequence[_Admitted]
    ) -> dict[int, Stored | UpwellError]:
        """Store what was admitted to one pool: bytes, then rows (I2)."""
        store, account = admitted[0].there.home.store, principal.account.id
        with store.intake() as intake:  # until the rows name the bytes
            try:
                blobs = self._put(store, intake, admitted)
            except UpwellError as error:
                return {each.at: error for each in admitted}
            new = [self._row(account, *pair) for pair in zip(admitted, blobs, strict=True)]
            refused = self._catalog.add_files(new)
        for each, why in zip(new, refused, strict=True):
            if why is not None and not isinstance(why, StorageFailed):
                store.delete(each.blob.key)  # else the row may be there: see I2
        return {
            each.at: why or Stored(row.file, existed=False)
            for each, row, why in zip(admitted, new, refused, strict=True)
        }

    def _put(self, store: BlobStore, intake: Intake, admitted: Sequence[_Admitted]) -> list[Blob]:
        sealings = [Sealing.new(a.new.password) if a.new.password else None for a in admitted]
        contents = [
            bytes(seal_whole(sealing, each.data)) if sealing else each.data
            for each, sealing in zip(admitted, sealings, strict=True)
        ]
        keys = intake.put_many(contents)
        return [
            self._blob(each, key, _sealed(store, key, len(each.data), sealing))
            for each, key, sealing in zip(admitted, keys, sealings, strict=True)
        ]

    def _blob(self, given: _Admitted, key: str, sealed: Sealed | None) -> Blob:
        now, pool_id = self._clock(), given.there.pool_id
        return Blob(new_id(), pool_id, key, len(given.data), given.digests, now, sealed=sealed)

    def _row(self, account_id: str, given: _Admitted, blob: Blob) -> NewFile:
        new, there = given.new, given.there
        kind = self._senses.type_of(new.content_type, given.data[:HEAD])
        declared = new.digest or Digest("sha256", given.digests["sha256"])
        told = replace(new, content_type=kind)
        file = self._creating.file_of(account_id, told, there, blob, declared)
        jobs = self._senses.jobs_for(file, there.home.pool.policy)
        return NewFile(blob, file, there.allowance, jobs)


def _sealed(store: BlobStore, key: str, size: int, sealing: Sealing | None) -> Sealed | None:
    if sealing is None:
        return None
    layout = Layout(key, size, align_chunk_size(max(1, size)))
    return sealed_of(store, layout, len(sealing.header))


def _check_size(received: int, declared: int) -> None:
    if received != declared:
        raise HashMismatch(
            f"The file has {received} bytes, not the declared {declared}; check file_size.",
            meta={"expected_size": declared, "size": received},
        )
