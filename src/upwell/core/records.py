"""What the catalog's contract passes besides the model: pages of a list, files to be recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from upwell.model import Allowance, Blob, CloudFile, NewJob

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file with bytes of its own, as it is to be recorded."""

    blob: Blob
    file: CloudFile
    allowance: Allowance
    jobs: Sequence[NewJob] = ()


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing, and how many rows there are in all.

    ``cursor`` says where the next page begins, None after the last row. Given as ``after`` to the
    same listing with the same filters, it continues behind the last row of this page: rows that
    came or went meanwhile move no other row from one page to the next.
    """

    items: list[T]
    total: int
    cursor: str | None = None
