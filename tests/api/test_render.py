"""How the server's own pages say things."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from upwell.http import render


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (1234, "1.2 kB"),
        (9949, "9.9 kB"),
        (9950, "10 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (34_400_000, "34 MB"),
        (5_000_000_000, "5 GB"),
        (1_500_000_000_000, "1.5 TB"),
        (10**18, "1,000,000 TB"),
    ],
)
def test_sizes(count: int, said: str) -> None:
    assert render.size(count).replace("\N{NO-BREAK SPACE}", " ") == said


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        (timedelta(days=400), "400 days"),
        (timedelta(days=2), "2 days"),
        (timedelta(hours=47), "47 hours"),
        (timedelta(hours=2), "2 hours"),
        (timedelta(minutes=119), "119 minutes"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(seconds=1), "1 minute"),
        (timedelta(seconds=-9), "1 minute"),
    ],
)
def test_what_is_left(rest: timedelta, said: str) -> None:
    assert render.left(datetime.now(UTC) + rest + timedelta(seconds=20)) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "0:00"), (7, "0:07"), (59.6, "1:00"), (3723, "1:02:03")]
)
def test_lengths_of_recordings(seconds: float, said: str) -> None:
    assert render.length(seconds) == said


def test_what_is_to_be_typed_is_set_apart_and_all_is_escaped() -> None:
    said = render._prose("Run `upwell <x>`, \u202enow & `then")
    assert said == "Run <code>upwell &lt;x&gt;</code>, \N{REPLACEMENT CHARACTER}now &amp; `then"
