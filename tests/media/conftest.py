"""A way to examine bytes as the server does, with a worker of its own."""

from __future__ import annotations

import os
import tempfile
from typing import TYPE_CHECKING, Protocol

import pytest

from upwell.media.examine import Examiner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from upwell.media.facts import Examined


class Examine(Protocol):
    def __call__(self, content: bytes, mime_type: str = "image/png") -> Examined | None: ...


@pytest.fixture
def examiner() -> Iterator[Examiner]:
    examiner = Examiner()
    yield examiner
    examiner.close()


@pytest.fixture
def examine(examiner: Examiner) -> Examine:
    def examine(content: bytes, mime_type: str = "image/png") -> Examined | None:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            before = os.lseek(file.fileno(), 7, os.SEEK_SET)
            found = examiner.examine(file.fileno(), mime_type)
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == before
            return found

    return examine
