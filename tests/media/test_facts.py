"""Facts are safe to store and to show, wherever they come from."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.media.answer import _HEAD, Nonsense, understand
from upwell.media.facts import (
    LARGEST_FACTS,
    clean,
    clean_number,
    clean_text,
    without_location,
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
WEBP = b"RIFF\x04\x00\x00\x00WEBP"


def frame(kind: bytes, payload: bytes) -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def facts(**values: Any) -> bytes:
    return frame(b"f", json.dumps(values).encode())


def test_text_becomes_one_clean_line() -> None:
    assert clean_text("  a\x00b\x1b[31m\ud800c\u202ed\r\ne\uffff ") == "ab[31mcd e"
    assert clean_text(b"caf\xc3\xa9 \xff") == "café \ufffd"
    assert clean_text("👩‍👩‍👧 x") == "👩‍👩‍👧 x"
    assert clean_text("\x00\n ") is None
    assert clean_text("x" * 10**6) == "x" * 200


def test_numbers_are_finite() -> None:
    assert clean_number(0.1234567) == 0.123457
    for bad in (math.nan, math.inf, 10**400, 1e300, "x", None, True):
        assert clean_number(bad) is None


@pytest.mark.slow
@given(st.dictionaries(st.text(max_size=5) | st.sampled_from(["exif", "tags", "kind"]), ANYTHING))
def test_whatever_is_cleaned_is_small_json(values: dict[str, Any]) -> None:
    text = json.dumps(clean(values), allow_nan=False)
    assert len(text) <= LARGEST_FACTS
    text.encode("utf-8")
    assert clean(clean(values)) == clean(values)


def test_what_is_too_large_loses_its_texts() -> None:
    wordy = {f"a{number}": "𝄞" * 200 for number in range(30)}
    assert clean({"kind": "image", "exif": wordy, "tags": wordy}) == {"kind": "image"}


def test_strangers_do_not_see_the_place() -> None:
    known = clean({"kind": "image", "location": {"latitude": 1.0}, "exif": {"make": "x"}})
    assert without_location(known) == {"kind": "image", "exif": {"make": "x"}}
    assert "location" in known


def test_an_answer_is_what_was_said_in_full() -> None:
    whole = facts(kind="image") + frame(b"t", WEBP) + facts(kind="image", width=3)
    found = understand(whole + frame(b"p", WEBP)[:-1])
    assert found
    assert found.facts == {"kind": "image", "width": 3}
    assert (found.thumbnail, found.preview) == (WEBP, None)
    assert understand(b"") is None
    assert understand(frame(b"t", WEBP)) is None


@pytest.mark.parametrize(
    "said",
    [
        frame(b"x", b""),
        _HEAD.pack(b"f", 2**31),
        frame(b"f", b"[" * 10_000),
        frame(b"f", b"null"),
        frame(b"f", b"\xff"),
        facts(kind="exploit"),
        facts(width=1),
        facts(kind="image") + frame(b"t", b"<svg onload=alert(1)>"),
        facts(kind="image") + frame(b"t", WEBP + b"<script>"),
    ],
)
def test_nonsense_is_refused(said: bytes) -> None:
    with pytest.raises(Nonsense):
        understand(said)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_nonsense(said: bytes) -> None:
    with suppress(Nonsense):
        understand(said)


def test_a_worker_that_lies_is_cleaned() -> None:
    lie = facts(kind="image", exif={"make": "a\x00" + "b" * 999}, __proto__="x", n=1e300)
    found = understand(lie)
    assert found
    assert found.facts == {"kind": "image", "exif": {"make": "a" + "b" * 199}}
