"""Many small files in one request: each stored or refused as if it had come alone."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import (
    DIRECT_MAX,
    SECOND_POOL,
    Api,
    described,
    refused,
    unique,
)

if TYPE_CHECKING:
    import httpx2

BATCH = "/api/files/upload/batch"
NO_SIZE = "VALIDATION_FAILED"  # where the next file begins, nothing tells


def item(content: bytes, name: str = "a.txt", **fields: Any) -> dict[str, Any]:
    return described(content) | {"file_name": name} | fields


def send(api: Api, items: list[dict[str, Any]], content: bytes | None) -> httpx2.Response:
    form: dict[str, Any] = {"items": (None, json.dumps(items))}
    return api.post(BATCH, files=form if content is None else form | {"content": content})


def results(api: Api, items: list[dict[str, Any]], content: bytes | None) -> list[dict[str, Any]]:
    answer = send(api, items, content)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["results"]
    assert len(found) == len(items)
    return found


def test_every_file_of_a_batch_is_stored(api: Api) -> None:
    contents = [unique(), b"", unique(1000)]
    items = [item(each, f"photos/{at}.txt") for at, each in enumerate(contents)]
    for at, result in enumerate(results(api, items, b"".join(contents))):
        file = result["file"]
        assert result["error"] is None
        assert file["name"] == f"photos/{at}.txt"
        assert file == api.get(f"/api/files/{file['id']}/info").json()
        assert api.get(f"/api/files/{file['id']}").content == contents[at]


def test_a_batch_is_answered_as_direct_is(live: Api) -> None:
    content = unique()
    fields = {"pool_id": SECOND_POOL, "content_type": "image/png"}
    (one,) = results(live, [item(content, **fields)], content)
    same = live.direct(content, **fields, hash=one["file"]["hash"])
    assert same == one["file"]


def test_what_is_there_is_found_without_sending_it(api: Api) -> None:
    here, elsewhere, new = unique(), unique(), unique()
    file = api.store(here)
    api.store(elsewhere)
    asked = [item(here), item(elsewhere, "b.txt"), item(new)]
    same, shared, missing = results(api, asked, None)
    assert (same["file_exists"], same["file"]["id"]) == (True, file["id"])
    assert (shared["file_exists"], shared["file"]["name"]) == (True, "b.txt")
    assert missing == {"file_exists": False, "file": None, "error": None}


def test_a_batch_sent_again_makes_nothing_new(api: Api) -> None:
    contents = [unique(), unique()]
    items = [item(each) for each in contents]
    first = results(api, items, b"".join(contents))
    again = results(api, items, b"".join(contents))
    assert [each["file_exists"] for each in again] == [True, True]
    assert [each["file"] for each in again] == [each["file"] for each in first]


def test_the_same_content_twice_in_a_batch_is_stored_once(api: Api) -> None:
    content = unique()
    items = [item(content, "a"), item(content, "a"), item(content, "b")]
    first, second, third = results(api, items, 3 * content)
    assert [each["file_exists"] for each in (first, second, third)] == [False, True, True]
    assert first["file"] == second["file"]
    assert third["file"]["name"] == "b"
    assert third["file"]["storage_id"] == first["file"]["storage_id"]


def test_one_refused_file_does_not_keep_the_others_out(api: Api) -> None:
    good, wrong, lost = unique(), unique(), unique()
    items = [item(good), item(wrong, hash="0" * 64), item(lost, pool_id="0" * 32)]
    stored, mismatch, homeless = results(api, items, good + wrong + lost)
    assert stored["file"]["hash"] == hashlib.sha256(good).hexdigest()
    assert mismatch["file"] is None
    assert (mismatch["error"]["code"], mismatch["error"]["status"]) == ("HASH_MISMATCH", 400)
    assert (homeless["error"]["code"], homeless["error"]["status"]) == ("POOL_NOT_FOUND", 404)
    assert len(mismatch["error"]["trace_id"]) == 32


def test_a_policy_decides_for_each_file(boss: Api) -> None:
    policy = {"max_file_size": 50, "accept_types": ["text/*"], "quota": 100}
    made = boss.post("/api/pools", json={"name": unique().decode()} | policy).json()
    sizes, kinds = (40, 51, 40, 40, 40), ("text/plain",) * 2 + ("image/png",) + ("text/plain",) * 2
    contents = [unique(size) for size in sizes]
    items = [
        item(each, content_type=kind, pool_id=made["id"])
        for each, kind in zip(contents, kinds, strict=True)
    ]
    found = results(boss, items, b"".join(contents))
    codes = [each["error"] and each["error"]["code"] for each in found]
    refusals = ["FILE_TOO_LARGE", "TYPE_NOT_ACCEPTED", None, "QUOTA_EXCEEDED"]
    assert codes == [None, *refusals]
    asked = results(boss, items[1:2], None)
    assert asked[0]["error"]["code"] == "FILE_TOO_LARGE"


@pytest.mark.parametrize(
    ("items", "content", "code"),
    [
        ("[", b"", "MALFORMED_REQUEST"),
        ("{}", b"", "VALIDATION_FAILED"),
        ("[]", b"", "VALIDATION_FAILED"),
        (json.dumps([{"file_name": "a"}]), b"", NO_SIZE),
        (json.dumps([{"file_name": "a", "file_size": 2}]), b"a", "FORM_INVALID"),
        (json.dumps([{"file_name": "a", "file_size": 1}]), b"ab", "FORM_INVALID"),
        (json.dumps([{"file_name": "a", "file_size": 1}] * 1001), b"", "VALIDATION_FAILED"),
        (json.dumps([{"file_name": "a", "file_size": 1}, {"file_size": "1"}]), b"ab", NO_SIZE),
        (json.dumps([{"file_name": "a", "file_size": 1}, None]), b"a", NO_SIZE),
    ],
)
def test_what_is_no_batch(api: Api, items: str, content: bytes, code: str) -> None:
    answer = api.post(BATCH, files={"items": (None, items), "content": content})
    error = refused(answer, 400, code)
    if code == "VALIDATION_FAILED":
        assert all(field.startswith("items") for field in error["errors"])


BAD_FIELDS: list[dict[str, Any]] = [
    {"file_name": ""},
    {"file_name": None},
    {"file_name": 7},
    {"file_name": "a" * 1025},
    {"file_name": "a\0b"},
    {"hash": "abc"},
    {"hash": 7},
    {"content_type": "ü/plain"},
    {"content_type": "a" * 256},
    {"content_type": ["text/plain"]},
    {"expired_at": "2030-01-01T00:00:00"},
    {"expired_at": "tomorrow"},
    {"expired_at": 1893456000},
    {"expired_at": "2001-01-01T00:00:00Z"},
    {"pool_id": "default"},
    {"bundle_id": "0"},
    {"encrypt_password": "secret"},
    {"chunk_size": 0},
]


@pytest.mark.parametrize("bad", BAD_FIELDS, ids=str)
@pytest.mark.parametrize("at", range(3))
def test_an_item_that_is_not_valid_fails_alone(live: Api, bad: dict[str, Any], at: int) -> None:
    """With its bytes, first, in the middle and last; its error is that of a request with it."""
    contents = [unique(), unique(20), unique(7)]
    items = [item(each, f"{number}.txt") for number, each in enumerate(contents)]
    items[at] |= bad
    for sent in (b"".join(contents), None):
        found = results(live, items, sent)
        error = found[at]["error"]
        assert (error["code"], error["status"]) == ("VALIDATION_FAILED", 400)
        assert list(error["errors"]) == list(bad)
        assert "secret" not in error["message"]
        for number in {0, 1, 2} - {at}:
            assert found[number]["error"] is None
            assert found[number]["file"]["hash"] == hashlib.sha256(contents[number]).hexdigest()
    alone = live.post("/api/files/upload/batch", files={"items": (None, json.dumps([items[at]]))})
    assert [each["error"]["code"] for each in alone.json()["results"]] == ["VALIDATION_FAILED"]


def test_what_is_no_item_is_told_for_itself_where_nothing_is_sent(api: Api) -> None:
    content = unique()
    api.direct(content)
    found = results(api, [None, item(content), [], {"file_size": "1"}], None)  # type: ignore[list-item]
    codes = [each["error"] and each["error"]["code"] for each in found]
    assert codes == ["VALIDATION_FAILED", None, "VALIDATION_FAILED", "VALIDATION_FAILED"]
    assert found[1]["file_exists"]


def test_a_batch_without_its_items(api: Api) -> None:
    refused(api.post(BATCH, files={"content": b"a"}), 400, "FORM_INVALID")
    refused(api.post(BATCH, content=b"a"), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_batch_is_for_small_files(api: Api) -> None:
    content = b"x" * (DIRECT_MAX + 1)
    refused(send(api, [item(content)], content), 413, "BODY_TOO_LARGE")


def test_names_and_keys_are_those_of_create(api: Api) -> None:
    content = unique()
    camel = {"fileName": "ü\n.txt", "fileSize": len(content), "contentType": None}
    (result,) = results(api, [camel], content)
    file = result["file"]
    assert (file["name"], file["hash"]) == ("ü\n.txt", hashlib.sha256(content).hexdigest())
