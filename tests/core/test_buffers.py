"""Memory for encrypted chunks: content that is at hand is the chunk's, is wiped, is bounded."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from upwell.core.buffers import Recent

N = 100


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def kept(recent: Recent, index: int, fill: int, size: int = N) -> bytearray:
    plain = recent.lend(size)
    assert plain is not None
    plain[:] = bytes([fill]) * size
    recent.keep("k", index, plain)
    return plain


def take(recent: Recent, index: int, key: str = "k") -> bytes | None:
    with recent.taken(key, index) as content:
        return None if content is None else bytes(content)


def test_a_chunk_is_found_once_and_wiped() -> None:
    recent = Recent()
    one, two = kept(recent, 1, 7), kept(recent, 2, 8)
    assert take(recent, 1, key="other") is None
    assert take(recent, 0) is None
    assert take(recent, 2) == bytes([8]) * N
    assert take(recent, 2) is None
    assert (any(one), any(two)) == (True, False)
    assert recent.used == N
    assert take(recent, 1) == bytes([7]) * N
    assert not any(one)
    assert recent.used == 0


def test_it_is_wiped_also_when_hashing_it_failed() -> None:
    recent = Recent()
    plain = kept(recent, 0, 7)
    with pytest.raises(OSError, match="5"), recent.taken("k", 0):
        raise OSError(5)
    assert not any(plain)
    assert recent.used == 0
    assert take(recent, 0) is None


def test_what_was_lent_in_vain_is_wiped_and_lent_again() -> None:
    recent = Recent()
    plain = recent.lend(N)
    assert plain is not None
    plain[:5] = b"clear"
    recent.take_back(plain)
    assert not any(plain)
    assert recent.used == 0
    assert recent.lend(N) is plain


def test_a_chunk_sent_again_takes_the_place_of_the_first() -> None:
    recent = Recent()
    first, second = kept(recent, 0, 7), kept(recent, 0, 7)
    assert not any(first)
    assert any(second)
    assert recent.used == N
    assert take(recent, 0) == bytes([7]) * N


def test_memory_is_bounded_and_the_young_are_not_driven_out() -> None:
    clock = Clock()
    recent = Recent(3 * N, clock)
    oldest = kept(recent, 0, 7)
    clock.now += 0.4
    kept(recent, 1, 8)
    under_way = recent.lend(N)
    assert recent.lend(N) is None, "somebody is about to come for both"
    clock.now += 0.2
    assert recent.lend(N) is not None
    assert not any(oldest)
    assert recent.lend(N) is None
    assert recent.used == 3 * N
    assert take(recent, 0) is None
    assert take(recent, 1) == bytes([8]) * N
    clock.now += 100
    assert recent.lend(N) is not None
    assert recent.lend(N) is None, "what is under way is never driven out"
    assert under_way is not None


def test_what_nobody_wants_any_more_is_wiped() -> None:
    recent = Recent()
    mine = [kept(recent, index, 7) for index in range(3)]
    other = recent.lend(N)
    assert other is not None
    recent.keep("other", 0, other)
    recent.forget("k")
    assert not any(map(any, mine))
    assert recent.used == N
    assert take(recent, 0, key="other") == bytes(N)


def test_threads_never_share_memory() -> None:
    recent = Recent(4 * N)

    def work(index: int) -> None:
        for _ in range(300):
            plain = recent.lend(N)
            if plain is not None:
                plain[:] = bytes([index]) * N
                recent.keep("k", index, plain)
            assert take(recent, index) in (None, bytes([index]) * N)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert recent.used == 0


def test_what_nobody_comes_for_is_wiped() -> None:
    """Of an upload that was left, or that another process hashes."""
    recent = Recent(life=0.05)
    plain = [kept(recent, index, 7) for index in range(2)]
    until = time.monotonic() + 30
    while recent.used and time.monotonic() < until:
        time.sleep(0.01)
    assert plain == [bytes(N)] * 2
    assert recent.used == 0
    assert take(recent, 0) is None
