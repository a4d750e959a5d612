"""The age format: the published vectors, the RFCs' own, and what must be refused."""

from __future__ import annotations

import contextlib
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyrage
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core import age_vectors
from upwell.core import age
from upwell.errors import PasswordWrong

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.core.age_vectors import Vector

B = age.BLOCK
LOG_N = 10  # 1 ms
FILE_KEY = bytes(range(16))
SALT = bytes(range(16, 32))
NONCE = bytes(range(32, 48))
SIZES = [0, 1, 15, 16, 17, B - 1, B, B + 1, 2 * B - 1, 2 * B, 2 * B + 1, 5 * B]
PASSWORDS = [
    "p",
    "a b",
    "pässwörd 密码 🔑",
    "e\u0301 is not \u00e9",
    "\0",
    "x\0y",
    "\r\n",
    "long" * 4096,
]


@pytest.fixture(scope="session")
def vectors(pytestconfig: pytest.Config) -> list[Vector]:
    return age_vectors.load(pytestconfig.cache.mkdir("age-vectors"))


# the published vectors


def opened(stream: age.Stream, payload: bytes) -> tuple[bytes, bool]:
    """The blocks of a payload up to the first that does not open, and whether that was all."""
    try:
        age.plain_size(len(payload))
    except age.Damaged:
        return b"", False
    found, count = b"", -(-len(payload) // age.SEALED_BLOCK)
    for block in range(count):
        plain = opened_block(stream, payload, block, last=block == count - 1)
        if plain is None:
            return found, False
        found += plain
    return found, True


def opened_block(stream: age.Stream, payload: bytes, block: int, *, last: bool) -> bytes | None:
    sealed = payload[block * age.SEALED_BLOCK : (block + 1) * age.SEALED_BLOCK]
    plain = bytearray(max(0, len(sealed) - age.TAG))
    try:
        stream.open(block, memoryview(sealed), memoryview(plain), last=last)
    except age.Damaged:
        return None
    return bytes(plain)


def header_outcome(read: Callable[[], tuple[bytes, int]]) -> tuple[str, bytes, int]:
    try:
        return "", *read()
    except (PasswordWrong, age.NoRecipient):
        return "no match", b"", 0
    except age.BadMac:
        return "HMAC failure", b"", 0
    except age.Malformed:
        return "header failure", b"", 0


def by_password(vector: Vector) -> tuple[bytes, int]:
    last: Exception | None = None
    for passphrase in vector.passphrases:
        try:
            return age.open_header(vector.file, passphrase.encode(), max_log_n=22)
        except PasswordWrong as error:
            last = error
    assert last
    raise last


def by_file_key(vector: Vector) -> tuple[bytes, int]:
    """As if the recipient had been opened: for kinds of recipients that we do not know."""
    header = age.parse(vector.file)
    assert vector.file_key is not None
    age.check_mac(header, vector.file, vector.file_key)
    return vector.file_key, header.length


def wrong(vector: Vector, read: Callable[[Vector], tuple[bytes, int]]) -> str | None:
    """What is not as the vector expects."""
    expect, file_key, length = header_outcome(lambda: read(vector))
    nonce, payload = vector.file[length:][: age.NONCE], vector.file[length + age.NONCE :]
    if not expect and len(nonce) < age.NONCE:
        expect = "header failure"  # for them, the nonce belongs to the header
    given: set[str] = set()
    if not expect:
        stream = age.Stream(file_key, nonce)
        plain, whole = opened(stream, payload)
        expect = "success" if whole else "payload failure"
        given = {sha256(plain)} if whole or plain else set()
        if plain and not whole:
            # We know from the size which block is the last, and never give one away that is
            # not marked accordingly; a reader of a stream learns it one block later.
            for last in (False, True):
                late = opened_block(stream, payload, len(plain) // B, last=last)
                given |= {sha256(plain + late)} if late else set()
    if expect != vector.expect:
        return f"{vector.name}: {expect} instead of {vector.expect}"
    return f"{vector.name}: other plaintext" if given and vector.payload not in given else None


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_the_vectors_with_passwords(vectors: list[Vector]) -> None:
    mine = [v for v in vectors if v.passphrases and not v.armored]  # armor is not for storage
    assert len(mine) == 25
    assert not [w for v in mine if (w := wrong(v, by_password))]


def test_the_vectors_of_other_recipients_by_their_file_key(vectors: list[Vector]) -> None:
    """Their headers' form and MAC, and their payloads, as if we knew such recipients."""
    expected = {"success", "HMAC failure", "payload failure"}
    streams = [v for v in vectors if v.expect in expected or v.name.startswith("stream_")]
    mine = [v for v in streams if v.file_key and not v.armored]
    assert len(mine) == 40
    assert not [w for v in mine if (w := wrong(v, by_file_key))]


def test_the_vectors_of_other_recipients_are_not_for_a_password(vectors: list[Vector]) -> None:
    """What is wrong with their stanzas is theirs to find; what is wrong with the form is ours.
    The nonce is not looked at here."""
    mine = [v for v in vectors if not v.passphrases and not v.armored]
    assert len(mine) == 85
    for vector in mine:
        with pytest.raises(age.Malformed) as caught:
            age.open_header(vector.file, b"password")
        well_formed = isinstance(caught.value, age.NoRecipient)
        if vector.expect != "header failure":
            assert well_formed, vector.name
        elif not vector.name.startswith(("x25519_", "hybrid_", "stream_")):
            assert not well_formed, vector.name


def test_headers_of_the_vectors_are_written_as_they_were_read(vectors: list[Vector]) -> None:
    count = 0
    for vector in vectors:
        if vector.expect != "header failure" and not vector.armored:
            header = age.parse(vector.file)
            assert age._written(header.stanzas) == vector.file[: header.signed], vector.name
            count += 1
    assert count == 50


def test_payloads_of_the_vectors_are_sealed_as_they_were(vectors: list[Vector]) -> None:
    count = 0
    for vector in vectors:
        if vector.expect == "success" and not vector.armored and vector.file_key:
            start = age.parse(vector.file).length + age.NONCE
            stream = age.Stream(vector.file_key, vector.file[start - age.NONCE : start])
            plain, whole = opened(stream, vector.file[start:])
            assert whole
            assert seal(stream, plain) == vector.file[start:], vector.name
            count += 1
    assert count == 19


# the RFCs' vectors


def test_hkdf_is_that_of_rfc_5869() -> None:
    key, salt, info = b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA))
    assert age.hkdf(key, info, salt, 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    assert age.hkdf(key, b"", None, 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


def test_stretch_is_the_scrypt_of_rfc_7914() -> None:
    found = age.stretch(b"pleaseletmein", b"SodiumChloride", 14)
    assert found.hex() == "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"


# the header


def make(password: str = "password", log_n: int = LOG_N) -> bytes:
    return age.make_header(FILE_KEY, password.encode(), SALT, log_n)


@pytest.mark.parametrize("password", PASSWORDS, ids=lambda p: repr(p)[:12])
def test_what_a_password_closed_it_opens(password: str) -> None:
    header = make(password)
    assert age.open_header(header, password.encode()) == (FILE_KEY, len(header))
    assert age.open_header(header + b"more", password.encode()) == (FILE_KEY, len(header))
    with pytest.raises(PasswordWrong):
        age.open_header(header, password.encode() + b"x")


def test_a_header_is_what_the_specification_says() -> None:
    lines = make(log_n=11).split(b"\n")
    assert lines[0] == b"age-encryption.org/v1"
    assert lines[1] == b"-> scrypt EBESExQVFhcYGRobHB0eHw 11"
    assert [len(line) for line in lines[2:]] == [43, 4 + 43, 0]


def test_the_default_work_factor_is_what_age_opens() -> None:
    assert make(log_n=age.LOG_N).split(b"\n")[1].endswith(b" 16")


def test_a_work_factor_beyond_the_limit_is_refused_unworked() -> None:
    header = make()
    assert age.open_header(header, b"password", max_log_n=LOG_N)[0] == FILE_KEY
    with pytest.raises(age.Malformed, match="more than 9"):
        age.open_header(header, b"password", max_log_n=LOG_N - 1)
    for factor in (b"21", b"99"):
        with pytest.raises(age.Malformed, match="more than 20"):
            age.open_header(header.replace(b" 10\n", b" %s\n" % factor), b"password")


@pytest.mark.parametrize(
    "factor",
    [b"", b"0", b"010", b"+10", b"-10", b"10 ", b"1e1", b"100", b"\xd9\xa1\xd9\xa0", b"0x0a"],
)
def test_a_work_factor_is_plain_digits(factor: bytes) -> None:
    with pytest.raises(age.Malformed):
        age.open_header(make().replace(b" 10\n", b" " + factor + b"\n"), b"password")


def test_a_header_without_recipients_is_malformed() -> None:
    mac = age._encode(age.header_mac(FILE_KEY, b"age-encryption.org/v1\n---")).encode()
    with pytest.raises(age.Malformed, match="no recipient"):
        age.parse(b"age-encryption.org/v1\n--- " + mac + b"\n")


@pytest.mark.parametrize("size", [0, 1, 32, 47, 48, 49, 96])
def test_bodies_are_broken_into_lines_of_64_columns(size: int) -> None:
    stanza, mac = age.Stanza(("kind", "x"), bytes(size)), b" " + b"A" * 43 + b"\n"
    written = age._written([stanza])
    header = age.parse(written + mac)
    assert (header.stanzas, header.signed) == ((stanza,), len(written))
    body = written.split(b"\n", 2)[2].removesuffix(b"---").replace(b"\n", b"") + b"\n"
    if len(body) > 64:
        with pytest.raises(age.Malformed):
            age.parse(b"age-encryption.org/v1\n-> kind x\n" + body + b"---" + mac)


def test_every_cut_of_a_header_is_malformed() -> None:
    header = make()
    for length in range(len(header)):
        with pytest.raises(age.Malformed):
            age.open_header(header[:length], b"password")


@pytest.mark.slow
def test_every_flipped_bit_of_a_header_is_refused() -> None:
    header = make()
    for at in range(len(header)):
        for bit in range(8):
            other = bytearray(header)
            other[at] ^= 1 << bit
            with pytest.raises((age.Malformed, PasswordWrong)):
                age.open_header(bytes(other), b"password", max_log_n=12)


def test_a_changed_mac_is_told_from_a_wrong_password() -> None:
    header = make()
    mac = header.rindex(b"--- ") + 4
    other = header[:mac] + (b"A" if header[mac : mac + 1] != b"A" else b"B") + header[mac + 1 :]
    with pytest.raises(age.BadMac):
        age.open_header(other, b"password")


@given(st.binary(max_size=300))
def test_no_bytes_make_parsing_fail_otherwise(data: bytes) -> None:
    for each in (data, b"age-encryption.org/v1\n-> scrypt " + data, make() + data):
        with contextlib.suppress(age.Malformed, PasswordWrong):
            age.open_header(each, b"password", max_log_n=LOG_N)


# sizes


@pytest.mark.parametrize("head", [0, 166])
@pytest.mark.parametrize("size", SIZES)
def test_sizes_are_those_of_age(size: int, head: int) -> None:
    sealed = age.sealed_size(size, head)
    assert age.plain_size(sealed, head) == size
    blocks = max(1, len(range(0, size, B)))
    assert (age.blocks(size), sealed) == (blocks, head + size + 16 * blocks)


@given(st.integers(-20, 3 * age.SEALED_BLOCK), st.sampled_from([0, 166]))
def test_a_size_is_that_of_one_content_or_refused(size: int, head: int) -> None:
    try:
        plain = age.plain_size(size + head, head)
    except age.Damaged:
        rest = size % age.SEALED_BLOCK
        assert size < age.TAG or (size > age.SEALED_BLOCK and 0 < rest <= age.TAG)
    else:
        assert age.sealed_size(plain, head) == size + head


# the payload


def seal(stream: age.Stream, plain: bytes) -> bytes:
    sealed = bytearray(age.sealed_size(len(plain)))
    stream.seal_all(0, memoryview(plain), memoryview(sealed), last=True)
    return bytes(sealed)


def content(size: int) -> bytes:
    return (hashlib.sha256(b"%d" % size).digest() * (size // 32 + 1))[:size]


@pytest.mark.parametrize("size", SIZES)
def test_another_implementation_opens_what_is_sealed(size: int) -> None:
    header = make("pässwörd")
    whole = header + NONCE + seal(age.Stream(FILE_KEY, NONCE), content(size))
    assert pyrage.passphrase.decrypt(whole, "pässwörd") == content(size)
    with pytest.raises(pyrage.DecryptError):
        pyrage.passphrase.decrypt(whole, "passwörd")


@pytest.mark.parametrize("last", [False, True])
def test_a_block_opens_only_as_what_it_was_sealed(last: bool) -> None:
    stream, plain = age.Stream(FILE_KEY, NONCE), content(B)
    sealed = bytearray(age.SEALED_BLOCK)
    stream.seal(3, memoryview(plain), memoryview(sealed), last=last)
    target = bytearray(B)
    stream.open(3, memoryview(sealed), memoryview(target), last=last)
    assert target == plain
    attempts = [
        (stream, 2, last),
        (stream, 3 + (1 << 32), last),
        (stream, 3, not last),
        (age.Stream(FILE_KEY, SALT), 3, last),
        (age.Stream(SALT, NONCE), 3, last),
    ]
    for other, block, final in attempts:
        target[:] = plain
        with pytest.raises(age.Damaged):
            other.open(block, memoryview(sealed), memoryview(target), last=final)
        assert target == bytes(B), "what was not verified is not left behind"


def test_the_counter_fills_eleven_bytes() -> None:
    assert age._nonce((1 << 88) - 1, last=True) == b"\xff" * 11 + b"\x01"
    assert age._nonce(258, last=False) == bytes(9) + b"\x01\x02\x00"


def test_a_stream_serves_several_threads() -> None:
    stream, plain = age.Stream(FILE_KEY, NONCE), content(8 * B)
    with ThreadPoolExecutor(4) as threads:
        found = set(threads.map(lambda _: seal(stream, plain), range(16)))
    assert found == {seal(age.Stream(FILE_KEY, NONCE), plain)}
