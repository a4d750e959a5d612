"""Keys of sealed files: passwords, wrapping, resuming, and what is remembered of them."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from upwell.core import age
from upwell.core import derivations as deriving
from upwell.core.sealing import (
    KeyCache,
    Sealing,
    align_chunk_size,
    head_of,
    resume_check,
    stored_layout,
)
from upwell.errors import NotReady, PasswordWrong, ServerBusy, ValidationFailed
from upwell.model import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

B = age.BLOCK
KEY = bytes(range(32))
PASSWORDS = ["p", "pässwörd 密码 🔑", "\0", "x\0y", " x ", "\r\n", "long" * 4096]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Derivations of 1 ms, and headers as long as the real ones."""
    monkeypatch.setattr(age, "LOG_N", 10)


# sizes


@pytest.mark.parametrize(
    ("size", "aligned"), [(1, B), (B - 1, B), (B, B), (B + 1, 2 * B), (80 * B, 80 * B)]
)
def test_a_chunk_size_is_aligned_upwards(size: int, aligned: int) -> None:
    assert align_chunk_size(size) == aligned


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("chunks", [1, 2, 5])
@pytest.mark.parametrize("less", [-1, 0, 1, B - 1, B, B + 1])
def test_a_stored_layout_holds_the_same_chunks(blocks: int, chunks: int, less: int) -> None:
    layout = Layout("k", max(1, chunks * blocks * B - less), blocks * B)
    stored = stored_layout(layout, 166)
    assert (stored.key, stored.head) == (layout.key, 166)
    assert stored.count == layout.count
    at = 0
    for index in range(layout.count):
        assert stored.offset(index) == at
        head = 0 if index else 166
        assert stored.length(index) == age.sealed_size(layout.length(index), head)
        at += stored.length(index)
    assert at == stored.size == age.sealed_size(layout.size, 166)


@pytest.mark.parametrize("chunk_size", [1, B - 1, B + 1])
def test_chunks_that_cannot_be_sealed_one_by_one_are_refused(chunk_size: int) -> None:
    with pytest.raises(ValueError, match="cannot be sealed"):
        stored_layout(Layout("k", 10, chunk_size), 166)


# passwords


@pytest.mark.parametrize("password", PASSWORDS, ids=lambda p: repr(p)[:12])
def test_the_password_that_made_it_unlocks_it(password: str) -> None:
    made = Sealing.new(password)
    assert Sealing.unlock(made.header, password) == made
    assert Sealing.unlock(made.header + bytes(999), password) == made
    for other in (password + "x", "x" + password, ""):
        with pytest.raises(PasswordWrong):
            Sealing.unlock(made.header, other)


def test_every_file_has_keys_of_its_own() -> None:
    one, two = Sealing.new("p"), Sealing.new("p")
    assert one.file_key != two.file_key
    assert one.header[-age.NONCE :] != two.header[-age.NONCE :]
    assert (
        age.parse(one.header).stanzas[0].arguments[1]
        != (age.parse(two.header).stanzas[0].arguments[1])
    )


def test_the_work_factor_is_ours_and_the_head_always_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    made = Sealing.new("p")
    assert age.parse(made.header).stanzas[0].arguments[2] == "16"
    assert len(made.header) == 166
    assert len(head_of(made.header)) == 166


@pytest.mark.parametrize("password", ["", "\ud800"])
def test_what_is_no_password_is_refused(password: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        Sealing.new(password)
    assert caught.value.errors == {"encrypt_password": ["must be text, and not empty"]}
    with pytest.raises(ValidationFailed):
        resume_check(password, KEY, "c")
    header = Sealing.new("p").header
    with pytest.raises(PasswordWrong):
        Sealing.unlock(header, password)
    with pytest.raises(PasswordWrong):
        KeyCache().unlock(header, password)


def test_a_damaged_head_is_not_a_wrong_password() -> None:
    made = Sealing.new("p")
    mac = made.header.index(b"--- ")
    broken = [
        b"",
        b"x" + made.header,
        made.header[:-1],
        made.header[: -age.NONCE],
        made.header[:mac],
        made.header[: mac + 4] + age._encode(bytes(32)).encode() + made.header[mac + 47 :],
        made.header.replace(b" 10\n", b" 30\n"),
        made.header.replace(b"-> scrypt", b"-> SCRYPT"),
    ]
    for head in broken:
        for unlock in (Sealing.unlock, KeyCache().unlock):
            with pytest.raises(OSError, match="head of an encrypted file is damaged") as caught:
                unlock(head, "p")
            assert caught.value.errno == 5


def test_keys_do_not_show() -> None:
    made = Sealing.new("secret password")
    for shown in (repr(made), str(made), f"{made}", repr([made]), repr(made.stream())):
        for hidden in (made.file_key, made.header[-age.NONCE :]):
            assert repr(hidden)[2:-1] not in shown
            assert hidden.hex() not in shown
        assert "secret" not in shown
    with pytest.raises(PasswordWrong) as caught:
        Sealing.unlock(made.header, "wrong password")
    assert "password" not in str(caught.value).replace("This password does", "")


def test_a_streams_keys_cannot_be_written_anywhere() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Sealing.new("p").stream())


# under the server's key


def test_a_wrapped_key_opens_in_its_own_context_only() -> None:
    made, other = Sealing.new("p"), Sealing.new("p")
    wrapped = made.wrap(KEY, "task 1")
    assert Sealing.unwrap(wrapped, KEY, "task 1", made.header) == made
    assert made.file_key not in wrapped
    assert wrapped != made.wrap(KEY, "task 1"), "the nonce is random"
    flipped = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    for attempt in [
        (wrapped, bytes(32), "task 1", made.header),
        (wrapped, KEY, "task 2", made.header),
        (wrapped, KEY, "task 1", other.header),
        (flipped, KEY, "task 1", made.header),
        (wrapped[:-1], KEY, "task 1", made.header),
        (b"", KEY, "task 1", made.header),
    ]:
        with pytest.raises(OSError, match="does not open with the server's"):
            Sealing.unwrap(*attempt)


def test_context_and_header_do_not_run_into_each_other() -> None:
    made = Sealing(b"header", bytes(16))
    wrapped = made.wrap(KEY, "ab")
    with pytest.raises(OSError, match="does not open"):
        Sealing.unwrap(wrapped, KEY, "a", b"bheader")


def test_a_resume_check_tells_passwords_apart_for_one_context() -> None:
    check = resume_check("p", KEY, "c")
    assert check == resume_check("p", KEY, "c")
    others = {
        resume_check("P", KEY, "c"),
        resume_check("p", bytes(32), "c"),
        resume_check("p", KEY, "C"),
        resume_check("pp", KEY, "c"),
    }
    assert len(others | {check}) == 5
    assert len(bytes.fromhex(check)) == 32


def test_zero_bytes_at_the_end_do_not_count() -> None:
    """So it is with scrypt (HMAC pads keys with zeros), and with every age file therefore."""
    made = Sealing.new("p")
    assert Sealing.unlock(made.header, "p\0") == made
    assert resume_check("p", KEY, "c") == resume_check("p\0", KEY, "c")


# how much is done at once


def test_derivations_are_few_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lock, now, most = threading.Lock(), 0, 0
    gate = threading.Event()

    def stretch(password: bytes, salt: bytes, log_n: int) -> bytes:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        gate.wait(0.02)
        with lock:
            now -= 1
        return bytes(32)

    header = Sealing.new("p").header
    monkeypatch.setattr(age, "stretch", stretch)

    def anything(number: int) -> None:
        if number % 3 == 0:
            Sealing.new("p")
        elif number % 3 == 1:
            resume_check("p", KEY, "c")
        else:
            with pytest.raises(PasswordWrong):
                Sealing.unlock(header, "p")

    with ThreadPoolExecutor(9) as threads:
        list(threads.map(anything, range(9)))
    assert most == deriving.AT_ONCE


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(deriving, "WAIT", 0.01)
    for _ in range(deriving.AT_ONCE):
        assert deriving._turns.acquire(timeout=1)
    yield
    for _ in range(deriving.AT_ONCE):
        deriving._turns.release()


@pytest.mark.usefixtures("busy")
def test_who_waits_too_long_is_told_when_to_come_back() -> None:
    with pytest.raises(ServerBusy) as caught:
        Sealing.new("p")
    assert caught.value.retry_after
    with pytest.raises(ServerBusy):
        resume_check("p", KEY, "c")
    header = age._written([age.Stanza(("scrypt", age._encode(bytes(16)), "10"), bytes(32))])
    with pytest.raises(ServerBusy):
        Sealing.unlock(header + b" " + age._encode(bytes(32)).encode() + b"\n" + bytes(16), "p")


def test_a_derivation_that_fails_gives_its_place_back() -> None:
    made = Sealing.new("p")
    for _ in range(5):
        with pytest.raises(PasswordWrong):
            Sealing.unlock(made.header, "q")
    assert Sealing.unlock(made.header, "p") == made


# remembering


class Derivations:
    """Counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._stretch = age.stretch
        monkeypatch.setattr(age, "stretch", self)

    def __call__(self, password: bytes, salt: bytes, log_n: int) -> bytes:
        self.count += 1
        return self._stretch(password, salt, log_n)


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> Derivations:
    return Derivations(monkeypatch)


def test_what_was_unlocked_is_remembered_for_a_while(derivations: Derivations) -> None:
    made = Sealing.new("p")
    now = 100.0
    cache = KeyCache(seconds=300, clock=lambda: now)
    derivations.count = 0
    for rest in (b"", b"x", bytes(500)):
        assert cache.unlock(made.header + rest, "p") == made
    now += 299.9
    assert cache.unlock(made.header, "p") == made
    assert derivations.count == 1
    now += 0.1
    assert cache.unlock(made.header, "p") == made
    assert derivations.count == 2
    assert len(cache._known._known) == 1


def test_what_is_remembered_is_for_that_password_and_that_file(derivations: Derivations) -> None:
    one, two, cache = Sealing.new("p"), Sealing.new("p"), KeyCache()
    assert cache.unlock(one.header, "p") == one
    assert cache.unlock(two.header, "p") == two
    derivations.count = 0
    for _ in range(2):
        with pytest.raises(PasswordWrong):
            cache.unlock(one.header, "P")
    assert derivations.count == 2, "a wrong password is not remembered"
    nonce = bytes(a ^ 1 for a in one.header[-age.NONCE :])
    swapped = replace(one, header=one.header[: -age.NONCE] + nonce)
    assert cache.unlock(swapped.header, "p") == swapped, "the nonce belongs to the head"


def test_a_cache_is_bounded(derivations: Derivations) -> None:
    cache = KeyCache(most=3)
    made = [Sealing.new("p") for _ in range(4)]
    for each in made:
        cache.unlock(each.header, "p")
    assert len(cache._known._known) == 3
    derivations.count = 0
    for each in made[1:]:
        cache.unlock(each.header, "p")
    assert derivations.count == 0
    cache.unlock(made[0].header, "p")
    assert derivations.count == 1


def test_a_cache_shows_neither_passwords_nor_keys() -> None:
    cache, made = KeyCache(), Sealing.new("hunter2")
    cache.unlock(made.header, "hunter2")
    shown = repr(cache.__dict__)
    for hidden in (b"hunter2", made.file_key, made.header[:20], made.header[-16:]):
        assert repr(hidden)[2:-1] not in shown


def test_many_who_ask_for_the_same_cost_one_derivation(derivations: Derivations) -> None:
    made, cache, guesses = Sealing.new("p"), KeyCache(), []
    derivations.count = 0
    with ThreadPoolExecutor(8) as threads:
        asked = [
            threads.submit(cache.unlock, made.header, "p", lambda: guesses.append(1))
            for _ in range(8)
        ]
        assert all(each.result(10) == made for each in asked)
    assert (derivations.count, len(guesses)) == (1, 1)


def test_who_waits_for_one_that_fails_tries_for_itself(derivations: Derivations) -> None:
    made, cache, guesses = Sealing.new("p"), KeyCache(), []
    derivations.count = 0

    def attempt(_: int) -> None:
        with pytest.raises(PasswordWrong):
            cache.unlock(made.header, "q", lambda: guesses.append(1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(attempt, range(4), timeout=10))
    assert (derivations.count, len(guesses)) == (4, 4)
    assert not cache._known._under_way


def test_nobody_waits_forever_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    made, cache, hanging, end = Sealing.new("p"), KeyCache(), threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        end.wait(30)

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(cache.unlock, made.header, "p", hang)
        assert hanging.wait(10)
        monkeypatch.setattr(deriving, "WAIT", 0.01)
        with pytest.raises(ServerBusy):
            cache.unlock(made.header, "p")
        monkeypatch.undo()
        end.set()
        assert first.result(10).header == made.header


def test_a_guess_that_is_refused_derives_nothing(derivations: Derivations) -> None:
    made, cache = Sealing.new("p"), KeyCache()
    derivations.count = 0

    def refuse() -> None:
        raise NotReady("too many guesses")

    with pytest.raises(NotReady):
        cache.unlock(made.header, "p", refuse)
    assert derivations.count == 0
    assert cache.unlock(made.header, "p") == made
    assert cache.unlock(made.header, "p", refuse) == made, "what is known is no guess"
