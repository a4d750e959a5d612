"""Judges what a server answers after a crash by what its clients knew before.

An answer is a promise; a request without one may have had its effect or not. Everything here is
plain data and plain judgement, so the campaigns' verdict is tested without a server.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


@dataclass
class Verdict:
    """The result of a comparison."""

    checked: int = 0  # acknowledgements that were compared
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, other: Verdict) -> None:
        self.checked += other.checked
        self.lost += other.lost
        self.wrong += other.wrong

    @property
    def well(self) -> bool:
        return not self.lost and not self.wrong


@dataclass
class Part:
    """A chunk as its one sender knows it."""

    acknowledged: bytes | None = None
    unanswered: list[bytes] = field(default_factory=list)

    def send(self, data: bytes) -> None:
        self.unanswered.append(data)

    def acknowledge(self) -> None:
        """The newest request was answered 200: whatever was sent before it is replaced."""
        self.acknowledged = self.unanswered[-1]
        self.unanswered = []

    def may_hold(self, data: bytes) -> bool:
        return data == self.acknowledged or data in self.unanswered

    def candidates(self) -> list[bytes]:
        """What its sender can send again, the newest first."""
        known = [] if self.acknowledged is None else [self.acknowledged]
        return [*reversed(self.unanswered), *known]


@dataclass
class Upload:
    """An upload in chunks. ``file`` is its file's id once complete was answered."""

    task: str
    chunk_size: int
    parts: list[Part]
    password: str | None = None
    file: str | None = None
    deleting: bool = False
    deleted: bool = False

    def judge_chunks(self, uploaded: Collection[int]) -> Verdict:
        """Compare the chunks that the server says it has."""
        found = Verdict()
        for index, part in enumerate(self.parts):
            if part.acknowledged is not None:
                found.checked += 1
                if index not in uploaded:
                    found.lost.append(f"chunk {index} of upload {self.task}")
            elif index in uploaded and not part.unanswered:
                found.wrong.append(f"chunk {index} of upload {self.task}, which nobody sent")
        return found

    def judge_content(self, content: bytes) -> Verdict:
        """Compare a completed upload's content, chunk by chunk."""
        found = Verdict(checked=1)
        size = self.chunk_size
        pieces = [content[at : at + size] for at in range(0, len(content), size)]
        if len(pieces) != len(self.parts):
            found.wrong.append(f"upload {self.task} has {len(content)} bytes")
            return found
        for index, (part, piece) in enumerate(zip(self.parts, pieces, strict=True)):
            if not part.may_hold(piece):
                text = f"chunk {index} of upload {self.task} holds {appearance(piece)}"
                found.wrong.append(text)
        return found


@dataclass
class Small:
    """A file stored in one request, as its answer named it."""

    file: str
    content: bytes
    password: str | None = None
    deleting: bool = False
    deleted: bool = False

    def judge_content(self, content: bytes) -> Verdict:
        found = Verdict(checked=1)
        if content != self.content:
            found.wrong.append(f"file {self.file} holds {appearance(content)}")
        return found


Kept = Upload | Small


def judge_file(kept: Kept, status: int, content: bytes) -> Verdict:
    """Compare the answer to a download of a file that was acknowledged."""
    if kept.deleted:
        gone = [] if status == 404 else [f"deleted file {kept.file} answers {status}"]
        return Verdict(checked=1, wrong=gone)
    if status == 404 and kept.deleting:
        return Verdict()
    if status != 200:
        return Verdict(checked=1, lost=[f"file {kept.file} answers {status}"])
    return kept.judge_content(content)


def appearance(data: bytes) -> str:
    """Describe unexpected bytes for the report."""
    if not data:
        return "no bytes"
    ((byte, count),) = Counter(data).most_common(1)
    kind = f"{count} bytes {byte:#04x}" if 2 * count > len(data) else "other bytes"
    return f"{kind} of {len(data)}"
