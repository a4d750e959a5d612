"""Facts and previews of stored files, made after complete."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from upwell.core.homes import home_of
from upwell.core.media_types import true_type
from upwell.jobs.runner import JobFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from upwell.core.homes import Home
    from upwell.core.ports import BlobStore, Catalog, Clock
    from upwell.jobs.runner import Lease
    from upwell.model import CloudFile

DELAYS = (timedelta(seconds=10), timedelta(minutes=1))


class Examined(Protocol):
    """What a file is: JSON facts, and images in WebP."""

    @property
    def facts(self) -> dict[str, Any]: ...

    @property
    def thumbnail(self) -> bytes | None: ...

    @property
    def preview(self) -> bytes | None: ...


@dataclass(frozen=True, slots=True)
class Previews:
    """``examine`` looks at the file behind a descriptor, apart from this process; None when
    nothing can be said about it."""

    catalog: Catalog
    homes: Mapping[str, Home]
    clock: Clock
    examine: Callable[[int, str], Examined | None]

    def do(self, lease: Lease) -> None:
        """Examine the file that the job is about, unless it is gone or is known already."""
        file = self.catalog.file(lease.job.subject, self.clock(), None)
        if file is None or file.encrypted or file.blob.facts is not None:
            return
        store = home_of(self.homes, file.blob.pool_id).store
        try:
            examined = self._look_at(store, file)
        except FileNotFoundError:
            return  # deleted meanwhile
        except OSError as error:
            raise JobFailed(f"its bytes cannot be read: {error.strerror}") from error
        self._keep(store, file, examined)

    def _look_at(self, store: BlobStore, file: CloudFile) -> Examined | None:
        with closing(store.open(file.blob.key)) as reader:
            fd, kind = reader.fileno(), true_type(file.mime_type, file.name)
            return None if fd is None else self.examine(fd, kind)

    def _keep(self, store: BlobStore, file: CloudFile, examined: Examined | None) -> None:
        """Bytes first, then the row (I2); what the row does not take is removed again."""
        rules = home_of(self.homes, file.pool_id).pool.policy
        facts = examined.facts if examined and not rules.no_metadata else {}
        images = [examined.thumbnail, examined.preview] if examined else [None, None]
        if rules.no_optimization:
            images = [None, None]
        with store.intake() as intake:  # until the row names the images
            keys = [image and intake.put(image) for image in images]
            thumbnail, preview = (str(key) if key else None for key in keys)
            kept = self.catalog.describe_blob(file.blob.id, facts, thumbnail, preview)
        for key in (thumbnail, preview):
            if key and not kept:
                store.delete(key)
