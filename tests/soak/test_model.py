"""The judgement of the campaigns, without a server."""

from __future__ import annotations

import pytest

from tests.soak.model import Part, Small, Upload, judge_file


def upload() -> Upload:
    """Chunk 0 was acknowledged, sent again and cut off; 1 was never answered; 2 never sent."""
    parts = [Part(), Part(), Part()]
    parts[0].send(b"old0")
    parts[0].acknowledge()
    parts[0].send(b"new0")
    parts[1].send(b"one1")
    return Upload("task", 4, parts)


@pytest.mark.parametrize(
    ("uploaded", "lost", "wrong"),
    [
        ({0}, 0, 0),
        ({0, 1}, 0, 0),
        (set(), 1, 0),
        ({1}, 1, 0),
        ({0, 2}, 0, 1),
    ],
)
def test_an_acknowledged_chunk_must_be_there_and_an_unsent_one_must_not(
    uploaded: set[int], lost: int, wrong: int
) -> None:
    found = upload().judge_chunks(uploaded)
    assert (found.checked, len(found.lost), len(found.wrong)) == (1, lost, wrong)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"old0one1", None),
        (b"new0one1", None),
        (b"ole0one1", "chunk 0"),
        (b"old0\0\0\0\0", "chunk 1 of upload task holds 4 bytes 0x00 of 4"),
        (b"old0", "4 bytes"),
    ],
)
def test_a_content_is_what_was_acknowledged_or_sent_after_it(
    content: bytes, wrong: str | None
) -> None:
    sent = upload()
    sent.parts.pop()
    found = sent.judge_content(content)
    assert [wrong in each for each in found.wrong if wrong] == ([True] if wrong else [])
    assert found.well == (wrong is None)


def test_an_acknowledged_chunk_replaces_what_was_sent_before() -> None:
    part = upload().parts[0]
    assert part.candidates() == [b"new0", b"old0"]
    part.acknowledge()
    assert part.may_hold(b"new0")
    assert not part.may_hold(b"old0")
    assert part.candidates() == [b"new0"]


@pytest.mark.parametrize(
    ("deleting", "deleted", "status", "content", "lost", "wrong"),
    [
        (False, False, 200, b"abc", 0, 0),
        (False, False, 200, b"abd", 0, 1),
        (False, False, 404, b"", 1, 0),
        (False, False, 500, b"", 1, 0),
        (True, False, 404, b"", 0, 0),
        (True, False, 200, b"abc", 0, 0),
        (True, False, 200, b"ab", 0, 1),
        (True, True, 404, b"", 0, 0),
        (True, True, 200, b"abc", 0, 1),
    ],
)
def test_a_file_is_there_until_its_deletion_was_asked_for(
    *, deleting: bool, deleted: bool, status: int, content: bytes, lost: int, wrong: int
) -> None:
    file = Small("id", b"abc", deleting=deleting, deleted=deleted)
    found = judge_file(file, status, content)
    assert (len(found.lost), len(found.wrong)) == (lost, wrong)
