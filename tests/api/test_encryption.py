"""Encrypted files over HTTP: the password's headers, ranges, and the object as it is stored."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pyrage
import pytest

from tests.api.world import refused, unique
from upwell.core import age

if TYPE_CHECKING:
    from tests.api.world import Api

SECRET = "Zwölf große Ümläute €"
CONTENT = unique(200_000)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(age, "LOG_N", 4)


@pytest.fixture
def path(api: Api) -> str:
    """An encrypted file, uploaded in chunks."""
    file = api.store(CONTENT, encrypt_password=SECRET, chunk_size=65536, file_name="a.txt")
    assert file["is_encrypted"] is True
    assert file["size"] == len(CONTENT)
    return f"/api/files/{file['id']}"


def _as_bytes(password: str) -> dict[bytes, bytes]:
    """What a browser sends for `unescape(encodeURIComponent(password))`, and curl for itself."""
    return {b"X-Encrypt-Password": password.encode()}


def _encoded(password: str) -> dict[str, str]:
    return {"X-Encrypt-Password-Base64": base64.b64encode(password.encode()).decode()}


def test_the_password_opens_it_in_either_header(api: Api, path: str) -> None:
    for headers in (_as_bytes(SECRET), _encoded(SECRET)):
        answer = api.get(path, headers=headers)
        assert answer.status_code == 200
        assert answer.content == CONTENT
        assert answer.headers["content-length"] == str(len(CONTENT))


def test_ranges_conditions_and_head(api: Api, path: str) -> None:
    headers = _encoded(SECRET)
    part = api.get(path, headers=headers | {"Range": "bytes=65530-131080"})
    assert part.status_code == 206
    assert part.content == CONTENT[65530:131081]
    assert part.headers["content-range"] == f"bytes 65530-131080/{len(CONTENT)}"
    etag = part.headers["etag"]
    assert api.get(path, headers=headers | {"If-None-Match": etag}).status_code == 304
    head = api.head(path, headers=headers)
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    raw = api.head(path + "?raw=true")
    assert raw.headers["etag"] != etag


def test_without_it_nothing_is_told(api: Api, path: str) -> None:
    answer = api.get(path)
    refused(answer, 403, "PASSWORD_REQUIRED")
    assert "etag" not in answer.headers
    wrong = api.get(path, headers=_encoded("wrong"))
    refused(wrong, 403, "PASSWORD_WRONG")
    assert "wrong" not in wrong.text
    assert api.head(path).status_code == 403
    refused(api.get(path, headers={"X-Encrypt-Password-Base64": "%"}), 400, "VALIDATION_FAILED")
    refused(api.get(path, headers={b"X-Encrypt-Password": b"\xff"}), 400, "VALIDATION_FAILED")


def test_the_sealed_object_is_a_standard_age_file(api: Api, path: str) -> None:
    answer = api.get(path, params={"raw": "true"})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert 'filename="a.txt.age"' in answer.headers["content-disposition"]
    assert pyrage.passphrase.decrypt(answer.content, SECRET) == CONTENT
    part = api.get(path, params={"raw": "true"}, headers={"Range": "bytes=0-20"})
    assert part.content == b"age-encryption.org/v1"


def test_raw_of_a_plain_file_is_its_content(api: Api) -> None:
    file = api.direct(b"plain")
    assert api.get(f"/api/files/{file['id']}?raw=true").content == b"plain"


def test_an_encrypted_direct_upload(api: Api) -> None:
    data = unique(1000)
    form = {"encrypt_password": SECRET}
    answer = api.post("/api/files/upload/direct", data=form, files={"file": data})
    assert answer.status_code == 200
    path = f"/api/files/{answer.json()['id']}"
    assert api.get(path, headers=_encoded(SECRET)).content == data
    refused(api.get(path), 403, "PASSWORD_REQUIRED")


def test_other_bytes_for_an_encrypted_chunk_are_a_conflict(api: Api) -> None:
    task = api.create(unique(131072), encrypt_password=SECRET, chunk_size=65536)
    assert api.chunk(task["task_id"], 0, b"a" * 65536).status_code == 200
    assert api.chunk(task["task_id"], 0, b"a" * 65536).status_code == 200
    refused(api.chunk(task["task_id"], 0, b"b" * 65536), 409, "CHUNK_CONFLICT")


def test_chunk_size_is_whole_blocks(api: Api) -> None:
    task = api.create(unique(200_000), encrypt_password=SECRET, chunk_size=1000)
    assert (task["chunk_size"], task["chunks_count"]) == (65536, 4)


# the form of our own pages


def test_a_form_saves_the_content(api: Api, path: str) -> None:
    answer = api.post(f"{path}/open", data={"password": SECRET})
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert answer.headers["content-disposition"].startswith("attachment; filename")
    assert answer.headers["content-length"] == str(len(CONTENT))


def test_what_the_form_is_refused(api: Api, path: str) -> None:
    refused(api.post(f"{path}/open", data={"password": "no"}), 403, "PASSWORD_WRONG")
    without: list[dict[str, str]] = [{}, {"passwort": SECRET}, {"password": ""}]
    for empty in without:
        body = api.post(
            f"{path}/open",
            data=empty,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
        refused(body, 403, "PASSWORD_REQUIRED")
    refused(api.post(f"{path}/open", json={"password": SECRET}), 415, "UNSUPPORTED_MEDIA_TYPE")
    long = {"password": "x" * 10_000}
    refused(api.post(f"{path}/open", data=long), 413, "BODY_TOO_LARGE")
    unknown = f"/api/files/{'0' * 32}/open"
    refused(api.post(unknown, data={"password": SECRET}), 404, "FILE_NOT_FOUND")


def test_a_person_is_asked_again_on_a_page(live: Api, path: str) -> None:
    page = live.post(f"{path}/open", data={"password": "no"}, headers={"Accept": "text/html"})
    assert page.status_code == 403
    assert page.headers["content-type"].startswith("text/html")
    assert f'action="{path}/open"' in page.text
    assert 'name="password"' in page.text


def test_the_form_is_for_our_own_pages(live: Api, stranger: Api, path: str) -> None:
    body = {"password": SECRET}
    refused(stranger.post(f"{path}/open", data=body), 404, "FILE_NOT_FOUND")
    live.headers["Cookie"] = f"upwell_session={live.world.secrets['alice']}"
    del live.headers["Authorization"]
    assert live.post(f"{path}/open", data=body).content == CONTENT
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    refused(live.post(f"{path}/open", data=body, headers=elsewhere), 403, "CROSS_SITE")
    del live.headers["Cookie"]
    refused(live.post(f"{path}/open", data=body), 401, "AUTH_REQUIRED")
