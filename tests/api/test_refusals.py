"""Contract 1.6: whatever is sent, one shape, no 422, and never a bug."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.api.world import described, error_of, refused, unique

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.api.world import Api, World

CREATE = "/api/files/upload/create"
DIRECT = "/api/files/upload/direct"
BATCH = "/api/files/upload/batch"
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/api", "/api/", "/api/files", "/api/files/", "/docs/", "/docs/assets/x"],
)
def test_unknown_paths(api: Api, path: str) -> None:
    refused(api.get(path), 404, "ROUTE_NOT_FOUND")


def test_encoded_tricks_lead_nowhere(api: Api, anonymous: Api) -> None:
    for path in ("/docs/assets/%00", "/docs/assets/..%2f..%2fapi.py", "/docs/assets/" + "a" * 5000):
        refused(api.get(path), 404, "ROUTE_NOT_FOUND")
    for path in ("/%61pi/files/me", "/api%2ffiles/me", "/drive/../api/files/me"):
        refused(anonymous.get(path), 401, "AUTH_REQUIRED")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/files/upload/create", "POST"),
        ("/api/files/upload/chunk/x/0", "POST, PUT"),
        ("/api/files/x", "DELETE, GET, HEAD"),
        ("/drive/files/x/name", "PATCH"),
        ("/health/live", "GET, HEAD"),
        ("/docs/assets/swagger-ui.css", "GET, HEAD"),
    ],
)
@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_told_the_right_ones(
    api: Api, path: str, allowed: str, method: str
) -> None:
    if method in allowed:
        return
    answer = api.request(method, path)
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"\xff\xfe\x00",
        b'{"file_name": "\xff"}',
        b'{"file_name": "\\ud800", "file_size": 1}',
        b'{"\\ud800": 1}',
        b'{"file_size": NaN, "file_name": "a"}',
        b'{"file_size": Infinity, "file_name": "a"}',
        b'{"file_size": 1e999, "file_name": "a"}',
        b'{"file_size": ' + b"9" * 10000 + b', "file_name": "a"}',
        b'{"file_size": 1' + b"0" * 300 + b', "file_name": "a"}',
        b"[" * 100000,
        b'{"a":' * 100000,
        b'{"file_name": {"a": "b"}, "file_size": []}',
        '{"file_name": "a"}'.encode("utf-16"),
    ],
)
def test_bad_json_is_a_bad_request(api: Api, body: bytes) -> None:
    answer = api.post(CREATE, content=body, headers=JSON)
    assert answer.status_code == 400
    assert error_of(answer)["code"] in ("MALFORMED_REQUEST", "VALIDATION_FAILED")


@pytest.mark.parametrize(
    "meta",
    [
        b'{"a": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"\\ud800": {"\\udfff": "\\ud800"}}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"a": ' + b"9" * 5000 + b"}",
        b'[["a", 1]]',
    ],
)
def test_bad_meta_is_a_bad_request(api: Api, meta: bytes) -> None:
    path = f"/api/files/{api.direct()['id']}"
    answer = api.put(f"{path}/meta", content=b'{"user_meta": %b}' % meta, headers=JSON)
    assert answer.status_code == 400
    assert api.get(f"{path}/info").json()["user_meta"] == {}


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/xml", "multipart/form-data; boundary=x", "json", "text/json"],
)
def test_what_is_not_json_is_no_media_type_for_it(api: Api, kind: str) -> None:
    body = json.dumps(described(b"x")).encode()
    headers = {"Content-Type": kind} if kind else {}
    refused(api.post(CREATE, content=body, headers=headers), 415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.x+json"])
def test_what_is_json_is_taken(api: Api, kind: str) -> None:
    body = json.dumps(described(unique())).encode()
    assert api.post(CREATE, content=body, headers={"Content-Type": kind}).status_code == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_too_large_a_body(api: Api, chunked: bool) -> None:
    body = b'{"a": "' + b"x" * (1 << 20) + b'"}'
    content = iter([body[:1000], body[1000:]]) if chunked else body
    refused(api.post(CREATE, content=content, headers=JSON), 413, "BODY_TOO_LARGE")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": ""},
        {"Authorization": "Basic eDp5"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Authorization": "", "Cookie": "upwell_session=\xff"},
        {"Cookie": "upwell_session="},
        {"Cookie": 'upwell_session="\\'},
        {"Cookie": ";;;=;upwell_session"},
    ],
)
def test_bad_credentials(anonymous: Api, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = anonymous.get("/api/files/me", headers=raw)
    assert answer.status_code == 401
    assert error_of(answer)["code"] in ("AUTH_REQUIRED", "TOKEN_INVALID")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_what_is_not_text_names_no_file(api: Api) -> None:
    kept = api.direct()["id"]
    for bad in (b"\\ud800", b"\\u0000", b"x" * 1000):
        ids = b'{"file_ids": ["%b", "%b"]}' % (kept.encode(), bad)
        answer = api.post("/api/files/batches/delete", content=ids, headers=JSON)
        refused(answer, 400, "VALIDATION_FAILED")
    assert api.get(f"/api/files/{kept}/info").status_code == 200


def test_a_bug_of_ours_has_the_one_shape_too(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("of a bug")

    monkeypatch.setattr(api.world.core.files, "info", broken)
    api.event_hooks = {}
    with capture_logs() as told:
        answer = api.get("/api/files/x/info")
    assert [each["event"] for each in told if each["log_level"] == "error"] == ["bug"]
    assert answer.status_code == 500
    assert answer.json()["code"] == "INTERNAL_ERROR"
    assert answer.json()["trace_id"] == answer.headers["x-trace-id"]
    assert "of a bug" not in answer.text
    assert not caplog.records  # the server's own logger: it was told in ours


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.EROFS])
def test_a_disk_that_fails_is_no_bug_of_ours(
    api: Api, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def broken(*_: object) -> None:
        raise OSError(code, os.strerror(code), "/secret/path")

    monkeypatch.setattr(api.world.core.files, "info", broken)
    with capture_logs() as told:
        answer = api.get("/api/files/x/info")
    assert [each["event"] for each in told if each["log_level"] == "error"] == ["storage failed"]
    refused(answer, 503, "STORAGE_FAILED")
    assert answer.headers["retry-after"]
    assert os.strerror(code) in answer.text
    assert "/secret" not in answer.text


@pytest.mark.slow
def test_a_body_that_does_not_come(live: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upwell.http.guard.JSON_SECONDS", 0.05)

    def slowly() -> Iterator[bytes]:
        yield b"{"
        time.sleep(0.3)
        yield b"}"

    for method, path in (("POST", CREATE), ("PATCH", "/api/files/x/name"), ("POST", "/api/pools")):
        answer = live.request(method, path, content=slowly(), headers=JSON)
        refused(answer, 408, "BODY_TIMEOUT")


def _raw(world: World, data: bytes) -> bytes:
    host, port = world.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        with suppress(OSError):  # it may have hung up before all was sent
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        return b"".join(_received(connection))


def _received(connection: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            yield data


@pytest.mark.parametrize(
    "data",
    [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /api/files/me HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n a: folded\x00\r\n\r\n",
        b"POST /api/files/me HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 300000 + b"\r\n\r\n",
    ],
)
def test_malformed_http_has_the_one_shape_too(world: World, data: bytes) -> None:
    answer = _raw(world, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert 400 <= status < 500
    assert b"application/json" in head
    error = json.loads(body)
    assert error["status"] == status != 422
    assert set(error) == {"code", "message", "status", "detail", "errors", "meta", "trace_id"}


def test_a_body_with_a_content_encoding_is_refused_on_every_path(api: Api) -> None:
    """Nothing would undo it, so the wrong bytes would be stored."""
    task = api.create(unique())["task_id"]
    for path, operations in api.description["paths"].items():
        for method in (each for each, told in operations.items() if "requestBody" in told):
            url = path.format_map(
                dict.fromkeys(re.findall(r"{(\w+)}", path), "0") | {"task_id": task}
            )
            for body in (b"x" * 32, iter([b"x" * 16, b"x" * 16])):  # with a length, and in chunks
                coded = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
                answer = api.request(method, url, content=body, headers=coded)
                refused(answer, 415, "UNSUPPORTED_MEDIA_TYPE")
    assert api.get(f"/api/files/upload/resume/{task}").json()["uploaded_chunks"] == []
    plain = {"Content-Encoding": "Identity"}
    file = {"file": ("a.txt", unique())}
    assert api.post(DIRECT, files=file, headers=plain).status_code == 200
    bodiless = api.get("/api/files/me", headers={"Content-Encoding": "gzip"})
    assert bodiless.status_code == 200


@pytest.mark.parametrize("encoding", ["base64", "quoted-printable", "x-uuencode", "Base64 "])
def test_a_part_with_a_transfer_encoding_is_never_stored_encoded(api: Api, encoding: str) -> None:
    task = api.create(b"aGVsbG8=")["task_id"]
    for path, field in (
        (f"/api/files/upload/chunk/{task}/0", "chunk"),
        (DIRECT, "file"),
        (BATCH, "content"),
        (BATCH, "items"),
    ):
        disposition = f'Content-Disposition: form-data; name="{field}"; filename="a"\r\n'
        for head in (
            f"{disposition}content-transfer-encoding: {encoding}\r\n",
            f"Content-Transfer-Encoding: binary\r\nContent-Transfer-Encoding: {encoding}\r\n"
            + disposition,
        ):
            body = f"--b\r\n{head}\r\naGVsbG8=\r\n--b--\r\n".encode()
            for content in (body, iter([body[:9], body[9:]])):
                form = {"Content-Type": "multipart/form-data; boundary=b"}
                refused(api.post(path, content=content, headers=form), 400, "FORM_INVALID")
    assert api.get(f"/api/files/upload/resume/{task}").json()["uploaded_chunks"] == []
