"""The verbs of a bundle: files shared under one slug, perhaps behind a passcode."""

from __future__ import annotations

import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from uuid import uuid4

from upwell.core import passcodes, policy
from upwell.core.blobs import stored_size
from upwell.core.homes import home_of
from upwell.core.zips import Archive, Entry, Plan, Plans, archive_names
from upwell.errors import (
    BundleNotFound,
    FileNotFound,
    PasscodeRequired,
    PasscodeWrong,
    Unavailable,
    UpwellError,
)
from upwell.model import Bundle, Scope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from upwell.core.guesses import Asker, Guesses
    from upwell.core.homes import Home
    from upwell.core.keys import ServerKey
    from upwell.core.ports import BlobReader, Catalog, Clock, Page
    from upwell.model import CloudFile, Ends, Principal

_SLUG_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"  # none that are taken for each other
_SLUG_LENGTH = 14  # 69 bits: not to be found by trying
_PROOF = "bundle proof"
_EVERYTHING = 2**31
_PLANNED = 100_000  # files in the plans of archives that are kept: about 60 MB


@dataclass(frozen=True, slots=True)
class NewBundle:
    """What a caller asks for; ``slug`` is made up when it is None."""

    name: str
    slug: str | None = None
    description: str | None = None
    passcode: str | None = None
    expired_at: Ends | None = None

    def __repr__(self) -> str:
        return f"NewBundle({self.name!r})"


class Bundles:
    def __init__(
        self,
        catalog: Catalog,
        homes: Mapping[str, Home],
        clock: Clock,
        key: ServerKey,
        guesses: Guesses,
    ) -> None:
        self._catalog = catalog
        self._homes = homes
        self._clock = clock
        self._key = key
        self._guesses = guesses
        self._passcodes = passcodes.Passcodes()
        self._plans = Plans(_PLANNED)

    # the owner's

    def create(self, principal: Principal, new: NewBundle) -> Bundle:
        """Raises SlugTaken, ValidationFailed."""
        policy.require(principal, Scope.WRITE)
        now = self._clock()
        ends = policy.end_of(new.expired_at, now) if new.expired_at else None
        bundle = Bundle(
            id=str(uuid4()),
            account_id=principal.account.id,
            slug=new.slug or _new_slug(),
            name=new.name,
            description=new.description,
            passcode_hash=passcodes.hash_of(new.passcode) if new.passcode else None,
            expired_at=ends,
            created_at=now,
            updated_at=now,
        )
        self._catalog.add_bundle(bundle)
        return bundle

    def get(self, principal: Principal, bundle_id: str) -> Bundle:
        """Raises BundleNotFound for what is unknown, expired or not the caller's alike."""
        policy.require(principal, Scope.READ)
        bundle = self._catalog.bundle(bundle_id, principal.account.id, self._clock())
        if bundle is None:
            raise not_yours()
        return bundle

    def mine(
        self, principal: Principal, offset: int, take: int, after: str | None = None
    ) -> Page[Bundle]:
        """The caller's bundles, newest first."""
        policy.require(principal, Scope.READ)
        return self._catalog.bundles(principal.account.id, self._clock(), offset, take, after)

    def files(
        self,
        principal: Principal,
        bundle_id: str,
        offset: int,
        take: int,
        after: str | None = None,
    ) -> Page[CloudFile]:
        """The files of a bundle of the caller's, oldest first."""
        bundle = self.get(principal, bundle_id)
        return self._catalog.bundle_files(bundle.id, self._clock(), offset, take, after)

    def count(self, bundle: Bundle) -> int:
        """How many files are in a bundle."""
        return self._catalog.bundle_files(bundle.id, self._clock(), 0, 1).total

    def update(self, principal: Principal, bundle_id: str, changes: Mapping[str, Any]) -> Bundle:
        """Change some of slug, name, description, passcode and expired_at; a passcode or an
        expiry of None is taken away. Raises SlugTaken, ValidationFailed."""
        policy.require_sharing(principal)
        now = self._clock()
        values = dict(changes)
        if values.get("expired_at") is not None:
            values["expired_at"] = policy.end_of(values["expired_at"], now)
        if "passcode" in values:
            passcode = values.pop("passcode")
            values["passcode_hash"] = passcodes.hash_of(passcode) if passcode else None

        def change(bundle: Bundle) -> Bundle:
            return replace(bundle, **values)

        bundle = self._catalog.update_bundle(bundle_id, principal.account.id, now, change)
        if bundle is None:
            raise not_yours()
        return bundle

    def delete(self, principal: Principal, bundle_id: str) -> None:
        """Remove it; its files go to the recycle bin, or are deleted where there is none."""
        policy.require(principal, Scope.WRITE)
        if not self._catalog.delete_bundle(bundle_id, principal.account.id, self._clock()):
            raise not_yours()

    def place(self, principal: Principal, file_id: str, bundle_id: str | None) -> CloudFile:
        """Put a file into a bundle, or with None take it out of the one it is in."""
        if bundle_id is None:
            policy.require(principal, Scope.WRITE)
        else:
            policy.require_sharing(principal)
        now, account = self._clock(), principal.account.id
        if bundle_id is not None and self._catalog.bundle(bundle_id, account, now) is None:
            raise not_yours()
        file = self._catalog.set_bundle(file_id, account, bundle_id, now)
        if file is None:
            raise FileNotFound("There is no such file of yours; it may have expired.")
        return file

    # anyone's

    def open(self, slug: str, asker: Asker) -> Bundle:
        """The bundle of a slug, for anyone with its passcode; its owner needs none.

        Raises BundleNotFound, PasscodeRequired, PasscodeWrong, TooManyGuesses, ScopeMissing.
        """
        policy.require_reader(asker.principal)
        bundle = self._catalog.bundle_by_slug(slug, self._clock())
        if bundle is None:
            raise BundleNotFound("There is no such bundle; it may have expired.")
        admitted = self._admitted(bundle, asker)
        if admitted is None:
            raise PasscodeRequired(
                "This bundle has a passcode: send it as X-Bundle-Passcode, or as ?passcode=."
            )
        return admitted

    def admits(self, bundle: Bundle, asker: Asker) -> bool:
        """Whether an asker may read a bundle; False when a passcode is needed and none was
        given. Raises PasscodeWrong, TooManyGuesses."""
        return self._admitted(bundle, asker) is not None

    def _admitted(self, bundle: Bundle, asker: Asker) -> Bundle | None:
        """The bundle as it is after the check, which may have renewed its passcode's hash."""
        if bundle.passcode_hash is None or _owns(asker, bundle):
            return bundle
        if asker.proof and self._key.is_signed(_PROOF, _proven(bundle), asker.proof):
            return bundle
        if asker.passcode is None:
            return None
        return self._checked(bundle, bundle.passcode_hash, asker, asker.passcode)

    def prove(self, bundle: Bundle) -> str:
        """What shows later that the passcode was given; worth nothing once it is changed."""
        return self._key.sign(_PROOF, _proven(bundle))

    def public_files(
        self, bundle: Bundle, offset: int, take: int, after: str | None = None
    ) -> Page[CloudFile]:
        """The files of an opened bundle, oldest first."""
        return self._catalog.bundle_files(bundle.id, self._clock(), offset, take, after)

    def public_file(self, bundle: Bundle, file_id: str) -> CloudFile:
        """A file of an opened bundle. Raises FileNotFound."""
        file = self._catalog.file(file_id, self._clock(), bundle.account_id)
        if file is None or file.bundle_id != bundle.id:
            raise FileNotFound("There is no such file in this bundle, or not any more.")
        return file

    def known_plan(self, bundle: Bundle) -> Plan | None:
        """The plan of an opened bundle's archive when it was made before. Quick."""
        return self._plans.get(bundle.id, bundle.revision, self._clock())

    def plan(self, bundle: Bundle) -> Plan:
        """The plan of an opened bundle's archive: all its files, encrypted ones as they are stored,
        with ``.age`` at the end of their names.

        Takes a quarter of a millisecond of processor time for each file, once for each revision.
        """
        known = self.known_plan(bundle)
        if known is not None:
            return known
        # The files are read after the revision was: a plan may be newer than it says, never older.
        now = self._clock()
        files = self._catalog.bundle_files(bundle.id, now, 0, _EVERYTHING).items
        names = archive_names([f.name + ".age" * f.encrypted for f in files])
        plan = Plan([self._entry(file, name) for file, name in zip(files, names, strict=True)])
        until = min((f.expired_at for f in files if f.expired_at is not None), default=None)
        self._plans.keep(bundle.id, bundle.revision, until, plan)
        return plan

    def archive(self, plan: Plan) -> Archive:
        """The archive of a plan, for one reader."""
        return Archive(plan, self._learn)

    def _learn(self, entry: Entry, crc32: int) -> None:
        with suppress(UpwellError):  # of a full disk: it is learnt the next time
            self._catalog.set_crc32(entry.key, crc32)

    def _entry(self, file: CloudFile, name: str) -> Entry:
        blob = file.blob
        return Entry(
            name=name,
            size=stored_size(blob),
            modified=file.created_at,
            crc32=blob.crc32,
            open=self._opener(blob.pool_id, blob.key),
            key=blob.id,
        )

    def _opener(self, pool_id: str, key: str) -> Callable[[], BlobReader]:
        return lambda: home_of(self._homes, pool_id).store.open(key)

    def _checked(self, bundle: Bundle, phc: str, asker: Asker, passcode: str) -> Bundle:
        thing, guessed = f"bundle {bundle.id}", False

        def guess() -> None:
            nonlocal guessed
            guessed = True
            self._guesses.count(thing, asker)

        if not self._passcodes.is_right(passcode, phc, guess):
            raise PasscodeWrong("This is not the passcode of the bundle.")
        if not guessed:
            return bundle
        self._guesses.forgive(thing, asker)
        return self._renewed(bundle, phc, passcode) if passcodes.is_outdated(phc) else bundle

    def _renewed(self, bundle: Bundle, phc: str, passcode: str) -> Bundle:
        """A bundle whose outdated hash is replaced, unless its owner has just changed it."""
        try:
            better = passcodes.hash_of(passcode)

            def change(now: Bundle) -> Bundle:
                return replace(now, passcode_hash=better) if now.passcode_hash == phc else now

            which = (bundle.id, bundle.account_id, self._clock())
            return self._catalog.update_bundle(*which, change) or bundle
        except Unavailable:  # the passcode was right, and opens the bundle in any case
            return bundle


def public_facts(file: CloudFile) -> dict[str, Any]:
    """What strangers may know of a content: all but where it was made."""
    return {key: value for key, value in (file.blob.facts or {}).items() if key != "location"}


def _owns(asker: Asker, bundle: Bundle) -> bool:
    return asker.principal is not None and asker.principal.account.id == bundle.account_id


def _proven(bundle: Bundle) -> str:
    return f"{bundle.id} {bundle.passcode_hash}"


def _new_slug() -> str:
    return "".join(secrets.choice(_SLUG_LETTERS) for _ in range(_SLUG_LENGTH))


def not_yours() -> BundleNotFound:
    return BundleNotFound("There is no such bundle of yours; it may have expired.")
