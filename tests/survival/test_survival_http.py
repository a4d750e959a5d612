"""HTTP as real and hostile clients speak it, on the real process, byte by byte."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.harness import BOUNDARY, Answer, Api, Server, Wire, chunked, form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.slow

K = 64 << 10
RAW = {"Content-Type": "application/octet-stream"}
FORM = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("http") / "data") as running:
        yield running
        assert not running.bugs()
        assert "Traceback" not in running.log()


@pytest.fixture
def api(server: Server) -> Api:
    return server.api()


def _send(api: Api, task: str, index: int, kind: str, data: bytes) -> Answer:
    path = api.chunk_path(task, index)
    if kind == "raw":
        return api.call("PUT", path, data, RAW)
    if kind == "form":
        return api.call("POST", path, form(data), FORM)
    te = {"Transfer-Encoding": "chunked"}
    with api.wire() as wire:
        if kind == "raw-chunked":
            wire.try_send(api.head("PUT", path, te) + chunked(data, 10_000))
        else:
            wire.try_send(api.head("POST", path, FORM | te) + chunked(form(data), 10_000))
        return wire.answer()


def _dribble(api: Api, task: str, index: int, kind: str, data: bytes) -> Answer:
    """The head alone, the part's head alone, then the data in odd pieces."""
    path = api.chunk_path(task, index)
    whole = api.request("PUT", path, data) if kind == "raw" else b""
    if kind == "form":
        whole = api.request("POST", path, form(data), FORM)
    head, _, body = whole.partition(b"\r\n\r\n")
    pieces = [head + b"\r\n\r\n", body[:50], body[50:201], body[201:202]]
    pieces += [body[at : at + 30_011] for at in range(202, len(body), 30_011)]
    with api.wire() as wire:
        for piece in pieces:
            wire.send(piece)
            time.sleep(0.01)
        return wire.answer()


@pytest.mark.parametrize("kind", ["raw", "form", "raw-chunked", "form-chunked"])
@pytest.mark.parametrize("size", [0, 1, K - 1, K, K + 1, 2 * K, 2 * K + 1])
def test_every_length_at_every_boundary(api: Api, size: int, kind: str) -> None:
    content = os.urandom(size)
    task = api.create(size, K)
    count = -(-size // K)
    for index in range(max(1, count)):  # one empty chunk 0 is tolerated
        part = content[index * K : (index + 1) * K]
        answer = _send(api, task, index, kind, part)
        assert (answer.status, answer.body) == (200, b""), answer
        if kind in ("raw", "form") and part:
            assert _dribble(api, task, index, kind, part).status == 200
    assert api.uploaded(task) == list(range(count))
    answer = _send(api, task, count + (not size), kind, b"x")
    assert answer.code == "CHUNK_INDEX_INVALID"
    answer = api.complete(task)
    assert answer.status == 200, answer
    assert answer.json()["hash"] == hashlib.sha256(content).hexdigest()
    assert api.download(answer.json()["id"]) == content


@pytest.mark.parametrize("kind", ["raw", "form", "raw-chunked", "form-chunked"])
@pytest.mark.parametrize("off", [-1, 1, -K, K, 100_000])
def test_i6_a_chunk_of_another_length_changes_nothing(api: Api, kind: str, off: int) -> None:
    task = api.create(2 * K, K)
    answer = _send(api, task, 0, kind, bytes(K + off))
    assert answer.code == "CHUNK_SIZE_MISMATCH", answer
    assert api.uploaded(task) == []
    assert api.put(task, 0, b"Z" * K).status == 200
    assert _send(api, task, 0, kind, bytes(K + off)).code == "CHUNK_SIZE_MISMATCH"
    assert api.finish(task, b"Z" * K + b"Y" * K, K)


@pytest.mark.parametrize("half_open", [True, False])
@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_a_body_that_ends_early_changes_nothing(api: Api, kind: str, half_open: bool) -> None:
    task = api.create(K, K)
    assert api.put(task, 0, b"Z" * K).status == 200
    path = api.chunk_path(task, 0)
    if kind == "raw":
        whole = api.request("PUT", path, b"A" * K)
    elif kind == "form":
        whole = api.request("POST", path, form(b"A" * K), FORM)
    else:
        whole = api.head("PUT", path, {"Transfer-Encoding": "chunked"}) + chunked(b"A" * K)
    with api.wire() as wire:
        wire.send(whole[:-7])
        if half_open:
            wire.finish_sending()
            try:
                assert wire.answer().code == "BODY_TRUNCATED"
            except ConnectionError:
                assert kind == "chunked"  # an ordinary receive learns of it too late to answer
        else:
            wire.reset()
    file = api.finish(task, b"Z" * K, K)
    assert file["size"] == K


# one connection, many requests


def test_pipelined_requests_are_answered_in_order(api: Api) -> None:
    task = api.create(2 * K + 5, K)
    content = os.urandom(2 * K + 5)
    parts = [content[:K], content[K : 2 * K], content[2 * K :]]
    resume = f"/api/files/upload/resume/{task}"
    sent = api.request("PUT", api.chunk_path(task, 1), parts[1])
    sent += api.request("GET", resume)
    sent += api.request("POST", api.chunk_path(task, 0), form(parts[0]), FORM)
    sent += api.head("PUT", api.chunk_path(task, 2), {"Transfer-Encoding": "chunked"})
    sent += chunked(parts[2])
    sent += api.request("GET", resume)
    sent += api.request("POST", f"/api/files/upload/complete/{task}", b"")
    with api.wire() as wire:
        wire.send(sent)
        answers = [wire.answer() for _ in range(6)]
    assert [answer.status for answer in answers] == [200] * 6, answers
    assert answers[1].json()["uploaded_chunks"] == [1]
    assert answers[4].json()["uploaded_chunks"] == [0, 1, 2]
    assert api.download(answers[5].json()["id"]) == content


def test_two_puts_and_a_get_in_one_segment(api: Api) -> None:
    small = 1000
    task = api.create(2 * small, small)
    sent = b"".join(
        api.request("PUT", api.chunk_path(task, index), bytes([index]) * small) for index in (0, 1)
    )
    with api.wire() as wire:
        wire.send(sent + api.request("GET", f"/api/files/upload/resume/{task}"))
        answers = [wire.answer() for _ in range(3)]
    assert [answer.status for answer in answers] == [200] * 3, answers
    assert answers[2].json()["uploaded_chunks"] == [0, 1]
    assert api.finish(task, bytes(small) + bytes([1]) * small, small)


def _too_long(api: Api, task: str) -> tuple[bytes, str]:
    return api.request("PUT", api.chunk_path(task, 0), bytes(3 * K)), "CHUNK_SIZE_MISMATCH"


def _bad_checksum(api: Api, task: str) -> tuple[bytes, str]:
    checksum = {"Upload-Checksum": "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA="}
    sent = api.request("PUT", api.chunk_path(task, 0), bytes(K), checksum)
    return sent, "CHECKSUM_MISMATCH"


def _unknown_task(api: Api, task: str) -> tuple[bytes, str]:
    del task
    return api.request("PUT", api.chunk_path("0" * 32, 0), bytes(K)), "TASK_NOT_FOUND"


def _no_token(api: Api, task: str) -> tuple[bytes, str]:
    sent = api.request("PUT", api.chunk_path(task, 0), bytes(5 * K))
    return sent.replace(b"Authorization: ", b"X-Nothing: "), "AUTH_REQUIRED"


def _bad_index(api: Api, task: str) -> tuple[bytes, str]:
    return api.request("PUT", api.chunk_path(task, 9), bytes(K)), "CHUNK_INDEX_INVALID"


def _not_a_form(api: Api, task: str) -> tuple[bytes, str]:
    sent = api.request("POST", api.chunk_path(task, 0), bytes(K), {"Content-Type": "text/plain"})
    return sent, "UNSUPPORTED_MEDIA_TYPE"


def _broken_form(api: Api, task: str) -> tuple[bytes, str]:
    body = form(bytes(K))[:-8] + b"xxxx--\r\n"
    return api.request("POST", api.chunk_path(task, 0), body, FORM), "FORM_INVALID"


def _too_large_json(api: Api, task: str) -> tuple[bytes, str]:
    del task
    kind = {"Content-Type": "application/json"}
    sent = api.request("POST", "/api/files/upload/create", b" " * (2 << 20), kind)
    return sent, "BODY_TOO_LARGE"


def _chunked_too_long(api: Api, task: str) -> tuple[bytes, str]:
    head = api.head("PUT", api.chunk_path(task, 0), {"Transfer-Encoding": "chunked"})
    return head + chunked(bytes(3 * K)), "CHUNK_SIZE_MISMATCH"


REFUSED = [
    _too_long,
    _bad_checksum,
    _unknown_task,
    _no_token,
    _bad_index,
    _not_a_form,
    _broken_form,
    _too_large_json,
    _chunked_too_long,
]


@pytest.mark.parametrize("late", [False, True], ids=["at-once", "body-later"])
@pytest.mark.parametrize("refused", REFUSED)
def test_the_next_request_on_the_connection_works_after_a_refusal(
    api: Api, refused: Callable[[Api, str], tuple[bytes, str]], late: bool
) -> None:
    """The body that nobody wanted is passed over, whether it came before the answer or not."""
    task = api.create(K, K)
    sent, code = refused(api, task)
    head, _, body = sent.partition(b"\r\n\r\n")
    with api.wire() as wire:
        if late:
            wire.send(head + b"\r\n\r\n" + body[:10])
            time.sleep(0.1)
            wire.send(body[10:])
        else:
            wire.send(sent)
        answer = wire.answer()
        assert answer.code in (code, "CHUNK_SIZE_MISMATCH"), answer
        assert answer.headers.get("connection") != "close"
        wire.send(api.request("PUT", api.chunk_path(task, 0), b"Z" * K))
        assert wire.answer().status == 200
        wire.send(api.request("GET", f"/api/files/upload/resume/{task}"))
        assert wire.answer().json()["uploaded_chunks"] == [0]


def test_many_chunks_on_one_connection(api: Api) -> None:
    content = os.urandom(10 * 1000)
    task = api.create(len(content), 1000)
    with api.wire() as wire:
        for index in range(10):
            part = content[index * 1000 : (index + 1) * 1000]
            if index % 2:
                wire.send(api.request("PUT", api.chunk_path(task, index), part))
            else:
                wire.send(api.request("POST", api.chunk_path(task, index), form(part), FORM))
            assert wire.answer().status == 200
    assert api.finish(task, content, 1000)


def test_expect_100_continue(api: Api) -> None:
    task = api.create(K, K)
    expect: Mapping[str, str | int] = {"Content-Length": K, "Expect": "100-continue"}
    with api.wire() as wire:
        wire.send(api.head("PUT", api.chunk_path(task, 0), expect))
        assert wire.answer(interim=True).status == 100
        wire.send(b"Z" * K)
        assert wire.answer().status == 200
    body = form(b"Y" * K)
    with api.wire() as wire:
        more = FORM | {"Content-Length": str(len(body)), "Expect": "100-continue"}
        wire.send(api.head("POST", api.chunk_path(task, 0), more))
        assert wire.answer(interim=True).status == 100
        wire.send(body)
        assert wire.answer().status == 200
    assert api.finish(task, b"Y" * K, K)


def test_what_expects_100_continue_is_refused_without_it(api: Api) -> None:
    """Whether the body comes then is open: so the connection ends, or takes it."""
    task = api.create(K, K)
    more: dict[str, str | int] = {"Content-Length": 2 * K, "Expect": "100-continue"}
    with api.wire() as wire:
        wire.send(api.head("PUT", api.chunk_path(task, 0), more))
        answer = wire.answer(interim=True)
        assert answer.code == "CHUNK_SIZE_MISMATCH"
        assert answer.headers["connection"] == "close"
        assert wire.closed_within(20)


def test_an_upgrade_that_is_not_offered_is_passed_over(api: Api) -> None:
    """Java's HttpClient asks for h2c on its first request, whatever that is."""
    api.timeout = 20
    task = api.create(K, K)
    more: dict[str, str | int] = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c"}
    more["HTTP2-Settings"] = "AAMAAABkAARAAAAAAAIAAAAA"
    with api.wire() as wire:
        for _ in range(2):
            wire.send(api.request("PUT", api.chunk_path(task, 0), b"Z" * K, more))
            assert wire.answer().status == 200
            wire.send(api.request("GET", f"/api/files/upload/resume/{task}", None, more))
            assert wire.answer().json()["uploaded_chunks"] == [0]
        wire.send(api.request("POST", f"/api/files/upload/complete/{task}", b"", more))
        assert wire.answer().status == 200
        wire.send(api.request("GET", "/api/files/me"))
        assert wire.answer().status == 200


def test_http_1_0(api: Api) -> None:
    task = api.create(K, K)
    for sent in (
        api.request("PUT", api.chunk_path(task, 0), b"Z" * K),
        api.request("POST", api.chunk_path(task, 0), form(b"Z" * K), FORM),
    ):
        with api.wire() as wire:
            wire.send(sent.replace(b" HTTP/1.1\r\nHost: test", b" HTTP/1.0", 1))
            assert wire.answer().status == 200
            assert wire.closed_within(20)
    assert api.finish(task, b"Z" * K, K)


def test_connection_close_is_kept(api: Api) -> None:
    task = api.create(K, K)
    with api.wire() as wire:
        close = {"Connection": "close"}
        wire.send(api.request("PUT", api.chunk_path(task, 0), b"Z" * K, close))
        assert wire.answer().headers["connection"] == "close"
        assert wire.closed_within(20)


def test_head(api: Api) -> None:
    task = api.create(K, K)
    file = api.finish(task, os.urandom(K), K)
    with api.wire() as wire:
        for _ in range(2):
            wire.send(api.request("HEAD", f"/api/files/{file['id']}"))
            answer = wire.answer(bodiless=True)
            assert answer.status == 200
            assert answer.headers["content-length"] == str(K)
        wire.send(api.request("HEAD", f"/api/files/{'0' * 32}"))
        assert wire.answer(bodiless=True).status == 404
        wire.send(api.request("GET", f"/api/files/{file['id']}"))
        assert len(wire.answer().body) == K


# garbage

GARBAGE = [
    b"garbage\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
    b"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"PUT / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    b"PUT / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
    b"GET /health/live HTTP/1.1\nHost: a\n\n",
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_gets_our_error_and_the_connection_ends(server: Server, garbage: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(garbage)
        answer = wire.answer()
        assert answer.status == 400, answer
        assert answer.code == "MALFORMED_REQUEST"
        assert wire.closed_within(20)
    trace = answer.headers["x-trace-id"]
    assert answer.json()["trace_id"] == trace
    (line,) = [each for each in server.events("request refused") if each["trace_id"] == trace]
    assert (line["status"], line["code"], line["client"]) == (400, answer.code, "127.0.0.1")


@pytest.mark.parametrize(
    "body",
    [b"zz\r\nabc", b"3\r\nabcd\r\n0\r\n\r\n", b"-3\r\nabc\r\n", b"ffffffffffffffffff\r\n"],
)
def test_a_broken_chunked_encoding_stores_nothing(api: Api, body: bytes) -> None:
    task = api.create(3, 3)
    with api.wire() as wire:
        te = {"Transfer-Encoding": "chunked"}
        wire.send(api.head("PUT", api.chunk_path(task, 0), te))
        time.sleep(0.05)
        wire.send(body)
        answer = wire.answer()
        assert answer.status == 400, answer
        assert answer.code in ("MALFORMED_REQUEST", "BODY_TRUNCATED", "CHUNK_SIZE_MISMATCH")
        assert wire.closed_within(20)
    assert api.uploaded(task) == []
    assert api.finish(task, b"abc", 3)


def test_both_lengths_on_a_chunk_store_nothing(api: Api) -> None:
    task = api.create(K, K)
    for te in ("chunked", "identity", "gzip, chunked, identity"):
        both: dict[str, str | int] = {"Content-Length": K, "Transfer-Encoding": te}
        with api.wire() as wire:
            wire.try_send(api.head("PUT", api.chunk_path(task, 0), both) + b"A" * K)
            assert wire.answer().code == "MALFORMED_REQUEST"
    assert api.uploaded(task) == []


@pytest.mark.parametrize("size", [200_000, 1 << 20])
def test_a_huge_head_is_refused(server: Server, size: int) -> None:
    with Wire(server.port) as wire:
        wire.try_send(b"GET /health/live HTTP/1.1\r\nX: " + b"a" * size + b"\r\n\r\n")
        answer = wire.answer()
        assert answer.status == 431, answer
        assert answer.code == "HEADERS_TOO_LARGE"
        assert wire.closed_within(20)


def test_a_huge_head_behind_a_request_under_way_is_refused(api: Api) -> None:
    """Pipelined behind a stream that lasts: its size has the same bound (I7)."""
    task = api.create(K, K)
    with api.wire() as wire:
        events = {"Accept": "text/event-stream"}
        wire.send(api.head("GET", f"/api/files/upload/progress/{task}", events))
        assert wire.head()[0] == 200
        wire.send(b"GET /health/live HTTP/1.1\r\n")
        ended = False
        for _ in range(200):
            if not wire.try_send(b"X: " + b"a" * 10_000 + b"\r\n"):
                ended = True
                break
            time.sleep(0.002)
        assert ended or wire.closed_within(20), "2 MB of a head were taken in"


@pytest.mark.parametrize(
    "path",
    [
        "/api/files/%00",
        "/api/files/upload/resume/%00",
        "/api/files/upload/chunk/%00/0",
        "/api/files/upload/chunk/../../0",
        "/api/files/upload/chunk/a/99999999999999999999",
        "/api/files/upload/chunk/a/-1",
        "/api/files/upload/chunk/a/%F0%9F%92%A9",
        "/api/files/upload/chunk/%ff%fe/0",
        "/api/files/" + "a" * 5000,
        "//api/files/me",
        "/api/files/%2e%2e/%2e%2e/etc/passwd",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
def test_odd_paths_are_refused_in_our_shape(api: Api, method: str, path: str) -> None:
    body = b"x" if method in ("PUT", "POST") else None
    answer = api.call(method, path, body, FORM)
    assert answer.status in (400, 404, 405, 415), answer
    assert answer.code


# forms as they come

DISPOSITION = 'Content-Disposition: form-data; name="chunk"'
DATA = os.urandom(5000) + f"\r\n--{BOUNDARY[:-1]}\r\n--{BOUNDARY[:-1]}--\r\n".encode()


def _field(name: str, value: str) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
    return head.encode()


OPEN = f"--{BOUNDARY}\r\n".encode()
SHUT = f"\r\n--{BOUNDARY}--".encode()
PLAIN = f'{DISPOSITION}; filename="blob"\r\n\r\n'.encode()

GOOD = {
    "plain": OPEN + PLAIN + DATA + SHUT + b"\r\n",
    "no-final-crlf": OPEN + PLAIN + DATA + SHUT,
    "preamble": b"This is a preamble.\r\n" + OPEN + PLAIN + DATA + SHUT + b"\r\n",
    "leading-crlf": b"\r\n" + OPEN + PLAIN + DATA + SHUT + b"\r\n",
    "epilogue": OPEN + PLAIN + DATA + SHUT + b"\r\nThis is an epilogue.\r\n",
    "no-filename": OPEN + DISPOSITION.encode() + b"\r\n\r\n" + DATA + SHUT + b"\r\n",
    "filename-star": OPEN
    + f"{DISPOSITION}; filename=\"x\"; filename*=UTF-8''%e2%82%ac.bin\r\n\r\n".encode()
    + DATA
    + SHUT
    + b"\r\n",
    "utf-8-filename": OPEN
    + f'{DISPOSITION}; filename="日本 \\"x\\".bin"\r\n\r\n'.encode()
    + DATA
    + SHUT
    + b"\r\n",
    "unquoted-name": OPEN
    + b"content-disposition:form-data;name=chunk;filename=a\r\n\r\n"
    + DATA
    + SHUT
    + b"\r\n",
    "more-part-headers": OPEN
    + b"X-Other: yes\r\nContent-Type: image/png\r\n"
    + b"Content-Length: %d\r\n" % len(DATA)
    + PLAIN
    + DATA
    + SHUT
    + b"\r\n",
    "binary": OPEN + b"Content-Transfer-Encoding: Binary\r\n" + PLAIN + DATA + SHUT + b"\r\n",
    "fields-before": _field("a", "1") + _field("b", "2") + OPEN + PLAIN + DATA + SHUT + b"\r\n",
    "fields-after": OPEN
    + PLAIN
    + DATA
    + b"\r\n"
    + _field("a", "1")
    + f"--{BOUNDARY}--\r\n".encode(),
    "fields-around": _field("a", "1")
    + OPEN
    + PLAIN
    + DATA
    + b"\r\n"
    + _field("index", "0")
    + f"--{BOUNDARY}--\r\n".encode(),
}


@pytest.mark.parametrize("te", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", GOOD)
def test_a_form_that_is_right_is_taken(api: Api, name: str, te: bool) -> None:
    task = api.create(len(DATA), len(DATA))
    path = api.chunk_path(task, 0)
    with api.wire() as wire:
        if te:
            wire.send(api.head("POST", path, FORM | {"Transfer-Encoding": "chunked"}))
            wire.send(chunked(GOOD[name], 777))
        else:
            wire.send(api.request("POST", path, GOOD[name], FORM))
        answer = wire.answer()
        assert (answer.status, answer.body) == (200, b""), answer
        wire.send(api.request("POST", f"/api/files/upload/complete/{task}", b""))
        answer = wire.answer()
    assert answer.status == 200, answer
    assert api.download(answer.json()["id"]) == DATA


BAD = {
    "no-closing-boundary": OPEN + PLAIN + DATA + b"\r\n",
    "closing-without-dashes": OPEN + PLAIN + DATA + SHUT[:-2] + b"\r\n",
    "garbage-after-data": OPEN + PLAIN + DATA + b"\r\nxx" + SHUT[2:],
    "wrong-field": OPEN + PLAIN.replace(b'"chunk"', b'"chunks"') + DATA + SHUT + b"\r\n",
    "two-chunks": OPEN + PLAIN + DATA + b"\r\n" + OPEN + PLAIN + DATA + SHUT + b"\r\n",
    "lf-only": (OPEN + PLAIN).replace(b"\r\n", b"\n") + DATA + SHUT.replace(b"\r\n", b"\n"),
    "no-disposition": OPEN + b"X: y\r\n\r\n" + DATA + SHUT + b"\r\n",
    "huge-part-head": OPEN + b"X: " + b"a" * 40_000 + b"\r\n" + PLAIN + DATA + SHUT + b"\r\n",
    "many-fields": _field("a", "1") * 100 + OPEN + PLAIN + DATA + SHUT + b"\r\n",
    "huge-field": _field("a", "1" * 70_000) + OPEN + PLAIN + DATA + SHUT + b"\r\n",
    "other-boundary": GOOD["plain"].replace(BOUNDARY.encode(), b"other"),
    "empty": b"",
    "only-closing": f"--{BOUNDARY}--\r\n".encode(),
}


@pytest.mark.parametrize("te", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("name", BAD)
def test_a_form_that_is_wrong_stores_nothing(api: Api, name: str, te: bool) -> None:
    task = api.create(len(DATA), len(DATA))
    path = api.chunk_path(task, 0)
    with api.wire() as wire:
        if te:
            wire.try_send(api.head("POST", path, FORM | {"Transfer-Encoding": "chunked"}))
            wire.try_send(chunked(BAD[name], 777))
        else:
            wire.try_send(api.request("POST", path, BAD[name], FORM))
        answer = wire.answer()
    assert answer.status == 400, answer
    assert answer.code in ("FORM_INVALID", "CHUNK_SIZE_MISMATCH")
    assert api.uploaded(task) == []
    assert api.finish(task, DATA, len(DATA))


@pytest.mark.parametrize(
    "kind",
    [
        f'multipart/form-data; boundary="{BOUNDARY}"',
        f"Multipart/Form-Data; charset=utf-8; BOUNDARY={BOUNDARY}",
        f"multipart/form-data;boundary={BOUNDARY}",
    ],
)
def test_the_boundary_as_clients_write_it(api: Api, kind: str) -> None:
    task = api.create(len(DATA), len(DATA))
    answer = api.call("POST", api.chunk_path(task, 0), GOOD["plain"], {"Content-Type": kind})
    assert answer.status == 200, answer
    assert api.finish(task, DATA, len(DATA))


@pytest.mark.parametrize(
    ("boundary", "quoted"), [("a b:c", True), ("x" * 70, False), ("=_?'()+,-./:", True)]
)
def test_odd_boundaries(api: Api, boundary: str, quoted: bool) -> None:
    task = api.create(len(DATA), len(DATA))
    kind = f'multipart/form-data; boundary="{boundary}"' if quoted else ""
    kind = kind or f"multipart/form-data; boundary={boundary}"
    body = form(DATA, boundary=boundary)
    answer = api.call("POST", api.chunk_path(task, 0), body, {"Content-Type": kind})
    assert answer.status == 200, answer
    assert api.finish(task, DATA, len(DATA))


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 300,
        "multipart/mixed; boundary=b",
        "application/x-www-form-urlencoded",
        "",
        "multipart/form-data; boundary=\xe9",
    ],
)
def test_what_is_no_usable_form_is_refused(api: Api, kind: str) -> None:
    task = api.create(len(DATA), len(DATA))
    answer = api.call("POST", api.chunk_path(task, 0), GOOD["plain"], {"Content-Type": kind})
    assert answer.code in ("UNSUPPORTED_MEDIA_TYPE", "FORM_INVALID"), answer
    assert answer.status in (400, 415)
    assert api.uploaded(task) == []


def test_the_whole_boundary_in_the_data(api: Api) -> None:
    """With a length it is data that a form cannot carry: whatever is answered, no other bytes
    than those sent are stored."""
    data = b"a" * 100 + SHUT + b"\r\n" + b"b" * 100
    task = api.create(len(data), len(data))
    answer = api.call("POST", api.chunk_path(task, 0), OPEN + PLAIN + data + SHUT, FORM)
    if answer.status == 200:
        assert api.finish(task, data, len(data))
    else:
        assert answer.code in ("FORM_INVALID", "CHUNK_SIZE_MISMATCH")
        assert api.uploaded(task) == []


@pytest.mark.parametrize(
    "off",
    [-30, -1, 1, 30],
)
def test_a_form_whose_content_length_is_wrong(api: Api, off: int) -> None:
    task = api.create(len(DATA), len(DATA))
    body = GOOD["plain"]
    more = FORM | {"Content-Length": str(len(body) + off)}
    with api.wire() as wire:
        wire.send(api.head("POST", api.chunk_path(task, 0), more) + body)
        if off > 0:
            wire.finish_sending()
        try:
            answer = wire.answer()
        except ConnectionError:
            assert off > 0
            answer = None
    if answer is not None and off != -1:  # -1: only the last LF is missing, as good as none
        codes = ("FORM_INVALID", "BODY_TRUNCATED", "CHUNK_SIZE_MISMATCH")
        assert answer.code in codes, answer
    stored = answer is not None and answer.status == 200
    assert api.uploaded(task) == ([0] if stored else [])


def test_a_body_longer_than_declared_is_the_next_request(api: Api) -> None:
    """What comes behind the body is read as a request, never as data."""
    task = api.create(K, K)
    with api.wire() as wire:
        wire.try_send(api.request("PUT", api.chunk_path(task, 0), b"Z" * K) + b"Z" * 1000)
        assert wire.answer().status == 200
        assert wire.answer().code == "MALFORMED_REQUEST"
        assert wire.closed_within(20)
    assert api.finish(task, b"Z" * K, K)
