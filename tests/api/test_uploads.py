"""Contract 1.1 to 1.5, over our server and over plain ASGI."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.api.world import DIRECT_MAX, SECOND_POOL, described, refused, unique
from upwell.model import DEFAULT_POOL_ID

if TYPE_CHECKING:
    import httpx2

    from tests.api.world import Api, World

CREATE = "/api/files/upload/create"
DIRECT = "/api/files/upload/direct"
BATCH = "/api/files/upload/batch"
UNKNOWN = "00000000-0000-4000-8000-0000000000ff"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

# Contract 1.5: every field, and what a client decodes it as.
CLOUD_FILE: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "name": (str,),
    "description": (str, type(None)),
    "file_meta": (dict,),
    "user_meta": (dict,),
    "sensitive_marks": (list,),
    "mime_type": (str,),
    "hash": (str,),
    "size": (int,),
    "expired_at": (str, type(None)),
    "uploaded_at": (str,),
    "has_compression": (bool,),
    "has_thumbnail": (bool,),
    "is_encrypted": (bool,),
    "pool": (dict,),
    "pool_id": (str,),
    "bundle_id": (str, type(None)),
    "is_marked_recycle": (bool,),
    "storage_id": (str,),
    "storage_url": (str, type(None)),
    "references": (list,),
    "account_id": (str,),
    "resource_identifier": (str,),
    "created_at": (str,),
    "updated_at": (str,),
    "deleted_at": (str, type(None)),
    "indexed": (bool,),
    "is_folder": (bool,),
    "object": (dict,),
}
OBJECT: dict[str, tuple[type, ...]] = {
    "id": (str,),
    "size": (int,),
    "meta": (dict,),
    "mime_type": (str,),
    "hash": (str,),
    "has_compression": (bool,),
    "has_thumbnail": (bool,),
    "file_replicas": (list,),
    "created_at": (str,),
    "updated_at": (str,),
}


def check_shape(value: Any, shape: dict[str, tuple[type, ...]]) -> None:
    assert set(value) == set(shape)
    for key, types in shape.items():
        assert type(value[key]) in types, key
        if key.endswith("_at") and value[key] is not None:
            assert INSTANT.fullmatch(value[key]), key


# 1.1 create


def test_a_create_answers_a_task(api: Api) -> None:
    made = api.create(unique(), chunk_size=10)
    assert made == {
        "file_exists": False,
        "task_id": made["task_id"],
        "chunk_size": 10,
        "chunks_count": 4,
    }
    assert isinstance(made["task_id"], str)


def test_the_default_chunk_is_5_mib(api: Api) -> None:
    made = api.create(unique(), file_size=5242880 * 2 + 1)
    assert (made["chunk_size"], made["chunks_count"]) == (5242880, 3)


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 21])
def test_the_count_is_the_size_by_the_chunk_rounded_up(api: Api, size: int) -> None:
    made = api.create(unique(), file_size=size, chunk_size=10)
    assert made["chunks_count"] == -(-size // 10)


def test_both_prefixes_serve_the_same(api: Api, prefix: str) -> None:
    content = unique()
    made = api.post(f"{prefix}/upload/create", json=described(content)).json()
    path = f"{prefix}/upload/chunk/{made['task_id']}/0"
    assert api.post(path, files={"chunk": content}).content == b""
    file = api.post(f"{prefix}/upload/complete/{made['task_id']}").json()
    assert api.get(f"{prefix}/{file['id']}").content == content
    assert api.get(f"{prefix}/{file['id']}/info").json() == file


def test_keys_may_be_camel_case_and_null_is_absent(api: Api) -> None:
    content = unique()
    asked = {
        "hash": hashlib.sha256(content).hexdigest(),
        "fileName": "kamel.txt",
        "fileSize": len(content),
        "contentType": "image/unknown",
        "poolId": None,
        "bundleId": None,
        "encryptPassword": None,
        "expiredAt": None,
        "chunkSize": 20,
        "somethingElse": 1,
    }
    made = api.post(CREATE, json=asked).json()
    assert (made["chunk_size"], made["chunks_count"]) == (20, 2)
    task = api.get(f"/api/files/upload/resume/{made['task_id']}").json()
    assert (task["file_name"], task["content_type"]) == ("kamel.txt", "image/unknown")


@pytest.mark.parametrize("null", ["hash", "content_type", "pool_id", "bundle_id", "chunk_size"])
def test_null_means_absent(api: Api, null: str) -> None:
    assert api.create(unique(), **{null: None})["file_exists"] is False


@pytest.mark.parametrize("null", ["file_name", "file_size"])
def test_null_is_no_value_for_what_is_required(api: Api, null: str) -> None:
    error = refused(api.post(CREATE, json=described(b"") | {null: None}), 400, "VALIDATION_FAILED")
    assert set(error["errors"]) == {null}


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512"])
@pytest.mark.parametrize("form", ["{hex}", "{HEX}", "{name}:{hex}", "{NAME}:{HEX}"])
def test_every_digest_is_understood(live: Api, algorithm: str, form: str) -> None:
    content = unique()
    digest = hashlib.new(algorithm, content).hexdigest()
    spelled = form.format(hex=digest, HEX=digest.upper(), name=algorithm, NAME=algorithm.upper())
    assert live.store(content, hash=spelled)["hash"] == digest


@pytest.mark.parametrize(
    "bad", ["", "xyz", "a" * 31, "g" * 32, "md5:" + "a" * 40, "crc32:" + "a" * 32]
)
def test_what_is_no_digest_is_refused(api: Api, bad: str) -> None:
    error = refused(
        api.post(CREATE, json=described(b"x") | {"hash": bad}), 400, "VALIDATION_FAILED"
    )
    assert set(error["errors"]) == {"hash"}


def test_without_a_hash_the_file_carries_the_servers(api: Api) -> None:
    content = unique()
    first = api.store(content, hash=None)
    assert first["hash"] == hashlib.sha256(content).hexdigest()
    assert api.create(content, hash=None)["file_exists"] is False


@pytest.mark.parametrize(
    "name", ["a", "a" * 1024, "\U0001f600" * 1024, "../../etc/passwd", 'a"b\n\u202e.txt', " ", "."]
)
def test_a_name_is_only_data(api: Api, name: str) -> None:
    assert api.store(unique(), file_name=name)["name"] == name


@pytest.mark.parametrize("name", ["", "a" * 1025, "a\0b", 7, ["a"], {"a": 1}, True])
def test_what_is_no_name_is_refused(api: Api, name: Any) -> None:
    asked = described(b"x") | {"file_name": name}
    assert "file_name" in refused(api.post(CREATE, json=asked), 400, "VALIDATION_FAILED")["errors"]


@pytest.mark.parametrize("size", [-1, 1.5, "1", True, [], 1 << 61, 10**400])
def test_what_is_no_size_is_refused(api: Api, size: Any) -> None:
    asked = described(b"x") | {"file_size": size}
    assert "file_size" in refused(api.post(CREATE, json=asked), 400, "VALIDATION_FAILED")["errors"]


def test_a_whole_number_may_be_written_with_a_point(api: Api) -> None:
    made = api.create(unique(12), file_size=12.0, chunk_size=5e0)
    assert (made["chunk_size"], made["chunks_count"]) == (5, 3)


@pytest.mark.parametrize("size", [1 << 50, 10**18])
def test_what_cannot_fit_is_refused_at_once(api: Api, size: int) -> None:
    answer = api.post(CREATE, json=described(unique()) | {"file_size": size})
    assert answer.status_code in (413, 507)
    assert answer.json()["code"] in ("STORAGE_FULL", "FILE_TOO_LARGE")


def test_odd_content_types_are_kept(api: Api) -> None:
    assert api.store(unique(), content_type="image/unknown")["mime_type"] == "image/unknown"


@pytest.mark.parametrize("bad", ["text/plain\r\nx: y", "a" * 256, "täxt"])
def test_what_cannot_be_a_header_is_no_content_type(api: Api, bad: str) -> None:
    asked = described(b"x") | {"content_type": bad}
    refused(api.post(CREATE, json=asked), 400, "VALIDATION_FAILED")


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "",
        " ",
        "application/octet-stream",
        "Application/Octet-Stream",
        "application/octet-stream; charset=binary",
    ],
)
def test_a_missing_type_is_sniffed(live: Api, declared: str | None) -> None:
    png = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
        "gg=="
    )
    assert live.store(png + unique(), content_type=declared)["mime_type"] == "image/png"


def test_unknown_pools_and_bundles_are_not_found(api: Api) -> None:
    for key, code in (("pool_id", "POOL_NOT_FOUND"), ("bundle_id", "BUNDLE_NOT_FOUND")):
        refused(api.post(CREATE, json=described(b"x") | {key: UNKNOWN}), 404, code)
        bad = refused(api.post(CREATE, json=described(b"x") | {key: "x"}), 400, "VALIDATION_FAILED")
        assert set(bad["errors"]) == {key}


def test_a_pools_policy_is_asked(api: Api) -> None:
    asked = described(unique()) | {"pool_id": SECOND_POOL}
    refused(api.post(CREATE, json=asked), 403, "TYPE_NOT_ACCEPTED")
    large = asked | {"content_type": "image/png", "file_size": 1001}
    refused(api.post(CREATE, json=large), 413, "FILE_TOO_LARGE")
    file = api.store(unique(), pool_id=SECOND_POOL.upper(), content_type="IMAGE/png")
    assert file["pool"] == {"id": SECOND_POOL, "name": "pictures"}


def test_a_password_is_never_silently_ignored(api: Api) -> None:
    asked = described(unique()) | {"encrypt_password": "hunter2", "pool_id": SECOND_POOL}
    answer = api.post(CREATE, json=asked)
    refused(answer, 403, "ENCRYPTION_NOT_ALLOWED")
    assert "hunter2" not in answer.text
    form = {"encrypt_password": "hunter2", "pool_id": SECOND_POOL}
    answer = api.post(DIRECT, data=form, files={"file": unique()})
    refused(answer, 403, "ENCRYPTION_NOT_ALLOWED")
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "bad", ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00", "2099-01-01", "soon", []]
)
def test_an_expiry_is_an_instant_in_the_future(api: Api, bad: Any) -> None:
    asked = described(b"x") | {"expired_at": bad}
    error = refused(api.post(CREATE, json=asked), 400, "VALIDATION_FAILED")
    assert set(error["errors"]) == {"expired_at"}


@pytest.mark.parametrize("number", [4102444800, 4102444800.5, "4102444800", 1e300])
def test_an_expiry_is_no_number(api: Api, number: Any) -> None:
    asked = described(b"x") | {"expired_at": number}
    error = refused(api.post(CREATE, json=asked), 400, "VALIDATION_FAILED")
    assert "expired_at: must be an ISO 8601 instant" in error["message"]
    assert error["errors"]["expired_at"][0].startswith("must be")


@pytest.mark.parametrize(
    "edge",
    ["9999-12-31T23:59:59.999999-23:59", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z"],
)
def test_the_ends_of_time_are_no_bug(api: Api, edge: str) -> None:
    answer = api.post(CREATE, json=described(unique()) | {"expired_at": edge})
    assert answer.status_code in (200, 400)


def test_a_file_is_gone_from_its_expiry_on(live: Api) -> None:
    content = unique()
    end = datetime.now(UTC) + timedelta(hours=1)
    file = live.store(content, expired_at=end.astimezone().isoformat())
    assert datetime.fromisoformat(file["expired_at"]) == end
    path = f"/api/files/{file['id']}"
    try:
        live.world.clock.ahead = timedelta(hours=1, seconds=-5)
        assert live.get(path).content == content
        live.world.clock.ahead = timedelta(hours=1, seconds=1)
        for gone in (path, f"{path}/info"):
            refused(live.get(gone), 404, "FILE_NOT_FOUND")
        assert file["id"] not in [each["id"] for each in live.get("/api/files/me").json()]
        refused(live.patch(f"{path}/name", json={"name": "b"}), 404, "FILE_NOT_FOUND")
        assert live.create(content)["file_exists"] is False
    finally:
        live.world.clock.ahead = timedelta()


def test_the_same_content_at_the_same_place_is_the_same_file(api: Api) -> None:
    content = unique()
    file = api.store(content)
    assert api.create(content) == {"file_exists": True, "file": file}


@pytest.mark.parametrize("other", [{"file_name": "b"}, {"expired_at": "2099-01-01T00:00:00Z"}])
def test_elsewhere_it_becomes_a_file_that_shares_the_bytes(api: Api, other: dict[str, Any]) -> None:
    content = unique()
    file = api.store(content)
    again = api.create(content, **other)
    assert again["file_exists"] is True
    assert again["file"]["id"] != file["id"]
    assert again["file"]["object"]["id"] == file["object"]["id"]
    assert api.delete(f"/api/files/{file['id']}").status_code == 204
    assert api.get(f"/api/files/{again['file']['id']}").content == content


def test_another_size_or_account_is_not_told(api: Api, stranger: Api) -> None:
    content = unique()
    api.store(content)
    assert api.create(content, file_size=len(content) + 1)["file_exists"] is False
    made = stranger.create(content)
    assert set(made) == {"file_exists", "task_id", "chunk_size", "chunks_count"}
    assert made["file_exists"] is False


def test_asking_again_resumes(api: Api, stranger: Api) -> None:
    content = unique()
    first = api.create(content, chunk_size=10)
    assert api.chunk(first["task_id"], 1, content[10:20]).status_code == 200
    assert api.create(content, chunk_size=10) == first
    assert api.create(content, chunk_size=10, file_name="b")["task_id"] != first["task_id"]
    assert stranger.create(content, chunk_size=10)["task_id"] != first["task_id"]


def test_an_upload_is_resumed_with_other_options(api: Api, stranger: Api) -> None:
    content = unique()
    made = api.create(content, chunk_size=10, expires_in=3600)
    task, path = made["task_id"], f"/api/files/upload/resume/{made['task_id']}"
    assert api.chunk(task, 1, content[10:20]).status_code == 200
    answer = api.put(path, json={"fileName": "b.png", "contentType": "image/png"})
    assert (answer.status_code, answer.json()["missing_chunks"]) == (200, [0, 2, 3])
    told = api.get(path).json()
    assert told == answer.json()
    assert (told["file_name"], told["content_type"], told["expired_at"]) == (
        "b.png", "image/png", None,
    )  # fmt: skip
    moved = refused(
        api.put(path, json={"file_name": "b", "pool_id": SECOND_POOL}), 400, "VALIDATION_FAILED"
    )
    assert "the upload began in pool" in moved["message"]
    refused(stranger.put(path, json={"file_name": "b"}), 404, "TASK_NOT_FOUND")
    refused(api.put(path, json={}), 400, "VALIDATION_FAILED")
    assert api.get(path).json() == told
    assert api.delete(f"/api/files/upload/{task}").status_code == 204
    refused(api.put(path, json={"file_name": "b"}), 409, "TASK_CLOSED")


def _ends(file: dict[str, Any], world: World) -> float:
    """Seconds from the server's now until a file ends."""
    return (datetime.fromisoformat(file["expired_at"]) - world.clock()).total_seconds()


def test_a_life_in_seconds_is_counted_by_the_server(live: Api) -> None:
    """By every way that a file comes in; the caller's own clock is never asked."""
    life, world = {"expires_in": 1800}, live.world
    batch = {"items": json.dumps([described(b"content") | life])}
    try:
        world.clock.ahead = timedelta(days=400)
        for file in (
            live.store(unique(), **life),
            live.direct(unique(), expires_in="1800"),
            _only(live.post(BATCH, data=batch, files={"content": b"content"})),
            live.post("/api/bundles", json={"name": "b"} | life).json(),
        ):
            assert 1790 < _ends(file, world) <= 1800
        bundle = live.post("/api/bundles", json={"name": "b"}).json()
        path = f"/api/bundles/{bundle['id']}"
        assert 1790 < _ends(live.patch(path, json=life).json(), world) <= 1800
        refused(live.patch(path, json=life | {"unset": ["expired_at"]}), 400, "VALIDATION_FAILED")
    finally:
        world.clock.ahead = timedelta()


def _only(answer: httpx2.Response) -> Any:
    """The file of a batch of one."""
    assert answer.status_code == 200, answer.text
    (result,) = answer.json()["results"]
    return result["file"]


@pytest.mark.parametrize("life", [0, -1, 1.5, 10**12, "soon", {"expired_at": "2099-01-01T00:00Z"}])
def test_what_is_no_life(api: Api, life: Any) -> None:
    both = life if isinstance(life, dict) else {}
    asked = {"expires_in": 60} | both if both else {"expires_in": life}
    for path, body in ((CREATE, described(unique())), ("/api/bundles", {"name": "b"})):
        error = refused(api.post(path, json=body | asked), 400, "VALIDATION_FAILED")
        assert set(error["errors"]) == {"expires_in"}
    if both:
        assert "together with expired_at" in error["message"]


# 1.2 chunks


def test_chunks_come_in_any_order_and_again(api: Api) -> None:
    content = unique(25)
    task = api.create(content, chunk_size=10)["task_id"]
    for index in (2, 0, 1, 2, 2):
        answer = api.chunk(task, index, content[index * 10 : index * 10 + 10])
        assert (answer.status_code, answer.content) == (200, b"")
    file = api.post(f"/api/files/upload/complete/{task}").json()
    assert api.get(f"/api/files/{file['id']}").content == content


def test_a_chunk_is_also_taken_raw(api: Api) -> None:
    content = unique()
    task = api.create(content)["task_id"]
    answer = api.put(f"/api/files/upload/chunk/{task}/0", content=content)
    assert (answer.status_code, answer.content) == (200, b"")
    assert api.post(f"/api/files/upload/complete/{task}").status_code == 200


@pytest.mark.parametrize("size", [0, 9, 11, 100_000])
@pytest.mark.parametrize("index", [0, 1])
def test_a_chunk_of_another_size_changes_nothing(api: Api, size: int, index: int) -> None:
    task = api.create(unique(20), chunk_size=10)["task_id"]
    data = b"x" * size
    refused(api.chunk(task, index, data), 400, "CHUNK_SIZE_MISMATCH")
    raw = api.put(f"/api/files/upload/chunk/{task}/{index}", content=data)
    refused(raw, 400, "CHUNK_SIZE_MISMATCH")
    assert api.get(f"/api/files/upload/resume/{task}").json()["uploaded_chunks"] == []


@pytest.mark.parametrize("index", ["4", "2147483648", "-1", "x", "1.5", "9" * 30])
def test_an_index_beyond_the_upload_is_refused(api: Api, index: str) -> None:
    task = api.create(unique(), chunk_size=10)["task_id"]
    answer = api.put(f"/api/files/upload/chunk/{task}/{index}", content=b"x")
    assert answer.status_code == 400
    assert answer.json()["code"] in ("CHUNK_INDEX_INVALID", "VALIDATION_FAILED")


def test_an_empty_file(api: Api) -> None:
    task = api.create(b"", file_name=unique().decode())
    if task["file_exists"]:
        api.delete(f"/api/files/{task['file']['id']}")
        task = api.create(b"", file_name=unique().decode(), hash=None)
    assert task["chunks_count"] == 0
    assert api.chunk(task["task_id"], 0, b"").status_code == 200
    refused(api.chunk(task["task_id"], 0, b"x"), 400, "CHUNK_SIZE_MISMATCH")
    refused(api.chunk(task["task_id"], 1, b""), 400, "CHUNK_INDEX_INVALID")
    file = api.post(f"/api/files/upload/complete/{task['task_id']}").json()
    assert file["size"] == 0
    assert api.get(f"/api/files/{file['id']}").content == b""


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256", "sha512", "SHA-256"])
def test_a_checksum_is_verified(api: Api, algorithm: str) -> None:
    content = unique()
    task = api.create(content)["task_id"]
    path = f"/api/files/upload/chunk/{task}/0"
    digest = hashlib.new(algorithm.lower().replace("-", ""), content).digest()
    wrong = base64.b64encode(digest[::-1]).decode()
    answer = api.put(path, content=content, headers={"Upload-Checksum": f"{algorithm} {wrong}"})
    refused(answer, 400, "CHECKSUM_MISMATCH")
    assert api.get(f"/api/files/upload/resume/{task}").json()["uploaded_chunks"] == []
    right = base64.b64encode(digest).decode()
    answer = api.put(path, content=content, headers={"Upload-Checksum": f"{algorithm} {right}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "bad", ["sha1", "sha1 !!", "sha1 YQ", "crc32 YQ==", "sha1  YQ==", "\xe4 YQ=="]
)
def test_what_is_no_checksum_is_refused(api: Api, bad: str) -> None:
    content = unique()
    task = api.create(content)["task_id"]
    answer = api.put(
        f"/api/files/upload/chunk/{task}/0",
        content=content,
        headers=[(b"Upload-Checksum", bad.encode("latin-1"))],
    )
    assert answer.status_code == 400
    assert api.get(f"/api/files/upload/resume/{task}").json()["uploaded_chunks"] == []


BOUNDARY = "b0undary"
FORM_BAD = {
    "no field": b"--b0undary--\r\n",
    "another field": (
        b'--b0undary\r\nContent-Disposition: form-data; name="file"\r\n\r\n0123456789'
        b"\r\n--b0undary--\r\n"
    ),
    "twice": (
        b'--b0undary\r\nContent-Disposition: form-data; name="chunk"; filename="a"\r\n\r\n'
        b"0123456789\r\n"
    )
    * 2
    + b"--b0undary--\r\n",
    "no end": (
        b'--b0undary\r\nContent-Disposition: form-data; name="chunk"; filename="a"\r\n\r\n'
        b"0123456789" + b"\r\n--b0undary"
    ),
    "noise": b"?" * 100,
}


@pytest.mark.parametrize("body", FORM_BAD.values(), ids=FORM_BAD.keys())
@pytest.mark.parametrize("chunked", [True, False])
def test_what_is_no_form_changes_nothing(api: Api, body: bytes, chunked: bool) -> None:
    task = api.create(unique(10), chunk_size=10)["task_id"]
    answer = api.post(
        f"/api/files/upload/chunk/{task}/0",
        content=iter([body[:50], body[50:]]) if chunked else body,
        headers={"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"},
    )
    assert answer.status_code == 400
    assert answer.json()["code"] in ("FORM_INVALID", "CHUNK_SIZE_MISMATCH")
    assert api.get(f"/api/files/upload/resume/{task}").json()["uploaded_chunks"] == []


def test_a_chunk_as_anything_but_a_form_is_refused(api: Api) -> None:
    task = api.create(unique())["task_id"]
    path = f"/api/files/upload/chunk/{task}/0"
    refused(api.post(path, content=b"x"), 415, "UNSUPPORTED_MEDIA_TYPE")
    refused(api.post(path, json={}), 415, "UNSUPPORTED_MEDIA_TYPE")
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\xe4",
    ):
        headers = [(b"Content-Type", kind.encode("latin-1"))]
        answer = api.post(path, content=b"x", headers=headers)
        refused(answer, 400, "FORM_INVALID")


# 1.3 complete


def test_complete_answers_the_cloud_file(api: Api) -> None:
    content = unique()
    file = api.store(content)
    check_shape(file, CLOUD_FILE)
    check_shape(file["object"], OBJECT)
    assert len(file["id"]) <= 32
    assert file["resource_identifier"] == f"file:{file['id']}"
    assert file["hash"] == file["object"]["hash"] == hashlib.sha256(content).hexdigest()
    assert file["size"] == file["object"]["size"] == len(content)
    assert file["pool"] == {"id": DEFAULT_POOL_ID, "name": "default"}
    assert file["pool_id"] == DEFAULT_POOL_ID
    assert file["account_id"] == getattr(api.world.core.accounts.find("alice"), "id", None)


def test_complete_is_idempotent(live: Api) -> None:
    content = unique()
    task = live.create(content)["task_id"]
    live.chunk(task, 0, content)
    answers: list[Any] = []

    def complete() -> None:
        answers.append(live.post(f"/api/files/upload/complete/{task}").json())

    threads = [threading.Thread(target=complete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    complete()
    assert len(answers) == 5
    assert all(answer == answers[0] and answer["size"] == len(content) for answer in answers)


def test_missing_chunks_are_named_and_nothing_is_lost(api: Api) -> None:
    content = unique(40)
    task = api.create(content, chunk_size=10)["task_id"]
    for index in (0, 3):
        api.chunk(task, index, content[index * 10 : index * 10 + 10])
    error = refused(api.post(f"/api/files/upload/complete/{task}"), 400, "CHUNKS_MISSING")
    assert error["meta"] == {"missing_chunks": [1, 2]}
    assert error["message"] == "2 of 4 chunks are missing: 1, 2."
    for index in (1, 2):
        api.chunk(task, index, content[index * 10 : index * 10 + 10])
    assert api.post(f"/api/files/upload/complete/{task}").json()["size"] == 40


def test_a_wrong_hash_is_refused_and_nothing_is_lost(api: Api) -> None:
    content = unique(20)
    task = api.create(content, chunk_size=10)["task_id"]
    api.chunk(task, 0, content[:10])
    api.chunk(task, 1, b"x" * 10)
    refused(api.post(f"/api/files/upload/complete/{task}"), 400, "HASH_MISMATCH")
    refused(api.post(f"/api/files/upload/complete/{task}"), 400, "HASH_MISMATCH")
    assert api.get(f"/api/files/upload/resume/{task}").json()["missing_chunks"] == []
    api.chunk(task, 1, content[10:])
    assert api.post(f"/api/files/upload/complete/{task}").json()["size"] == 20


def test_a_finished_upload_takes_no_chunk(api: Api) -> None:
    content = unique()
    task = api.create(content)["task_id"]
    api.chunk(task, 0, content)
    api.post(f"/api/files/upload/complete/{task}")
    refused(api.chunk(task, 0, content), 409, "TASK_CLOSED")
    refused(api.delete(f"/api/files/upload/{task}"), 409, "TASK_CLOSED")


# 1.4 around it


def test_resume_tells_what_is_missing(api: Api) -> None:
    content = unique(40)
    task = api.create(content, chunk_size=10)["task_id"]
    api.chunk(task, 2, content[20:30])
    for call in ("resume", "progress"):
        figures = api.get(f"/api/files/upload/{call}/{task}").json()
        assert (figures["task_id"], figures["chunk_size"]) == (task, 10)
        assert (figures["chunks_count"], figures["progress"]) == (4, 25.0)
        assert figures["uploaded_chunks"] == [2]
        assert figures["missing_chunks"] == [0, 1, 3]
        assert figures["status"] == "in_progress"
        assert INSTANT.fullmatch(figures["expires_at"])


def test_cancel_closes_the_task(api: Api) -> None:
    content = unique()
    task = api.create(content)["task_id"]
    for _ in range(2):
        answer = api.delete(f"/api/files/upload/{task}")
        assert (answer.status_code, answer.content) == (204, b"")
    refused(api.chunk(task, 0, content), 409, "TASK_CLOSED")
    refused(api.post(f"/api/files/upload/complete/{task}"), 409, "TASK_CLOSED")
    assert api.get(f"/api/files/upload/resume/{task}").json()["status"] == "cancelled"
    assert api.create(content)["task_id"] != task


def test_a_task_expires_when_idle_and_slides_with_every_chunk(live: Api) -> None:
    content = unique(20)
    task = live.create(content, chunk_size=10)["task_id"]
    path = f"/api/files/upload/resume/{task}"
    try:
        live.world.clock.ahead = timedelta(days=6)
        assert live.chunk(task, 0, content[:10]).status_code == 200
        live.world.clock.ahead = timedelta(days=12)
        assert live.get(path).json()["uploaded_chunks"] == [0]
        live.world.clock.ahead = timedelta(days=14)
        refused(live.get(path), 404, "TASK_NOT_FOUND")
        refused(live.chunk(task, 1, content[10:]), 404, "TASK_NOT_FOUND")
        refused(live.post(f"/api/files/upload/complete/{task}"), 404, "TASK_NOT_FOUND")
        refused(live.delete(f"/api/files/upload/{task}"), 404, "TASK_NOT_FOUND")
        assert live.create(content, chunk_size=10)["task_id"] != task
    finally:
        live.world.clock.ahead = timedelta()


def test_tasks_are_listed_newest_first_in_pages(live: Api) -> None:
    live.headers["Authorization"] = f"Bearer {live.world.token('lister')}"
    made = [live.create(unique())["task_id"] for _ in range(5)]
    live.delete(f"/api/files/upload/{made[0]}")
    path = "/api/files/upload/tasks"
    listed = live.get(path, params={"take": 3})
    assert [each["task_id"] for each in listed.json()] == made[:1:-1]
    assert listed.headers["x-total"] == "5"
    rest = live.get(path, params={"offset": 3})
    assert [each["task_id"] for each in rest.json()] == made[1::-1]
    cancelled = live.get(path, params={"status": "cancelled"})
    assert [each["task_id"] for each in cancelled.json()] == made[:1]
    assert cancelled.headers["x-total"] == "1"
    for bad in ({"status": "x"}, {"take": 0}, {"take": 101}, {"offset": -1}, {"offset": "x"}):
        refused(live.get(path, params=bad), 400, "VALIDATION_FAILED")


def _events(live: Api, task: str) -> list[tuple[str, Any]]:
    """Every event of an upload's progress, until the server ends the stream."""
    found: list[tuple[str, Any]] = []
    path = f"/api/files/upload/progress/{task}"
    with live.stream("GET", path, headers={"Accept": "text/event-stream"}, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        name = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                found.append((name, json.loads(line.removeprefix("data: "))))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("end", ["completed", "cancelled"])
def test_progress_is_live_and_ends_with_the_upload(live: Api, end: str) -> None:
    content = unique(30)
    task = live.create(content, chunk_size=10)["task_id"]
    found: list[tuple[str, Any]] = []
    watcher = threading.Thread(target=lambda: found.extend(_events(live, task)))
    watcher.start()
    for index in range(3):
        threading.Event().wait(0.6)
        live.chunk(task, index, content[index * 10 : index * 10 + 10])
    if end == "completed":
        live.post(f"/api/files/upload/complete/{task}")
    else:
        live.delete(f"/api/files/upload/{task}")
    watcher.join(30)
    assert not watcher.is_alive()
    assert {name for name, _ in found} == {"progress"}
    counts = [figures["chunks_uploaded"] for _, figures in found]
    assert counts == sorted(counts)
    assert len(set(counts)) >= 3  # it was told while it went on
    assert found[-1][1]["status"] == end


def test_a_stranger_watches_nothing(stranger: Api, live: Api) -> None:
    task = live.create(unique())["task_id"]
    path = f"/api/files/upload/progress/{task}"
    answer = stranger.get(path, headers={"Accept": "text/event-stream"})
    refused(answer, 404, "TASK_NOT_FOUND")


# direct


def test_direct_answers_the_cloud_file(api: Api) -> None:
    content = unique()
    file = api.direct(content, "ü.txt", user_field="x")
    check_shape(file, CLOUD_FILE)
    assert (file["name"], file["mime_type"]) == ("ü.txt", "text/plain")
    assert api.get(f"/api/files/{file['id']}").content == content


def test_direct_takes_the_fields_of_create(api: Api) -> None:
    content = unique()
    file = api.direct(
        content,
        hash=hashlib.md5(content).hexdigest(),
        fileName="named.png",
        fileSize=str(len(content)),
        content_type="image/unknown",
        pool_id=SECOND_POOL,
        expiredAt="2099-01-01T01:00:00+01:00",
    )
    assert (file["name"], file["mime_type"]) == ("named.png", "image/unknown")
    assert (file["pool_id"], file["hash"]) == (SECOND_POOL, hashlib.md5(content).hexdigest())
    assert file["expired_at"] == "2099-01-01T00:00:00Z"


def test_an_empty_form_field_is_an_absent_one(api: Api) -> None:
    names = ("hash", "file_name", "file_size", "content_type", "pool_id", "bundle_id")
    more = ("encrypt_password", "expired_at", "chunk_size")
    file = api.direct(unique(), "a.txt", **dict.fromkeys(names + more, ""))
    assert (file["name"], file["mime_type"]) == ("a.txt", "text/plain")


@pytest.mark.parametrize("name", ["a" * 1025, "a\0b"])
@pytest.mark.parametrize("field", [True, False])
def test_a_hostile_name_is_refused_there_too(api: Api, name: str, field: bool) -> None:
    body = _form(name.encode(), name.encode() if field else b"")
    answer = api.post(DIRECT, content=body, headers=_form_headers())
    error = refused(answer, 400, "VALIDATION_FAILED")
    assert set(error["errors"]) == {"file_name"}


@pytest.mark.parametrize("raw", [b"\xff\xfe", b'a\\"b', b"..\\..\\x", "\u202egnp.exe".encode()])
def test_a_strange_name_is_no_bug(api: Api, raw: bytes) -> None:
    answer = api.post(DIRECT, content=_form(raw), headers=_form_headers())
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert api.get(f"/api/files/{answer.json()['id']}").status_code == 200


@pytest.mark.parametrize("raw", [b"t\xc3\xa4xt/plain", b"a" * 300, b"text/plain\0", b";", b",/,;"])
def test_a_strange_type_is_no_bug(api: Api, raw: bytes) -> None:
    answer = api.post(DIRECT, content=_form(b"a", kind=raw), headers=_form_headers())
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert api.get(f"/api/files/{answer.json()['id']}").status_code == 200


# How programs write a name that is not ASCII: browsers, curl, httpx; .NET; requests with urllib3
# before 2.0; mail libraries; RFC 8187's own example.
_WRITTEN = [
    ('form-data; name="{field}"; filename="\u20ac rates.txt"', "\u20ac rates.txt"),
    (
        (
            'form-data; name={field}; filename="=?utf-8?B?4oKsIHJhdGVzLnR4dA==?="; '
            "filename*=utf-8''%E2%82%AC%20rates.txt"
        ),
        "\u20ac rates.txt",
    ),
    (
        "form-data; name=\"{field}\"; filename*=utf-8''%E2%82%AC%20rates.txt",
        "\u20ac rates.txt",
    ),
    (
        'form-data; name={field}; filename="=?utf-8?B?4oKsIHJh?= =?UTF-8?Q?tes=2Etxt?="',
        "\u20ac rates.txt",
    ),
    ("FORM-DATA; filename*=iso-8859-1'en'%A3%20rates; name={field}", "\u00a3 rates"),
    # What cannot be decoded, or only looks like it, is a name like any other.
    ('form-data; name="{field}"; filename="=?punycode?B?YQ==?="', "=?punycode?B?YQ==?="),
    ('form-data; name="{field}"; filename="=?utf-8?B?w6?="', "=?utf-8?B?w6?="),
    ("form-data; name={field}; filename=a; filename*=utf-8''%FF", "a"),
    ("form-data; name={field}; filename=\"b; filename*=utf-8''c\"", "b; filename*=utf-8''c"),
    (
        'form-data; name={field}; filename="=?utf-8?B?'
        + base64.b64encode("\U0001f600".encode() * 1024).decode()
        + "?=\"; filename*=utf-8''"
        + "%F0%9F%98%80" * 1024,
        "\U0001f600" * 1024,
    ),
]


@pytest.mark.parametrize(("disposition", "name"), _WRITTEN)
def test_a_part_is_understood_however_its_name_is_written(
    live: Api, disposition: str, name: str
) -> None:
    def part(field: str, data: bytes) -> bytes:
        head = f"Content-Disposition: {disposition.format(field=field)}\r\n"
        kind = "Content-Type: Text/Plain; charset=latin1\r\n\r\n"
        return b"--b0undary\r\n" + f"{head}{kind}".encode() + data + b"\r\n"

    end, data = b"--b0undary--\r\n", unique()
    file = live.post(DIRECT, content=part("file", data) + end, headers=_form_headers()).json()
    assert (file["name"], file["mime_type"]) == (name, "Text/Plain; charset=latin1")
    for more in (b"", part("other", b"x")):  # in one visit to a thread; through the parser
        data = unique()
        task = live.create(data)["task_id"]
        body = part("chunk", data) + more + end
        path = f"/api/files/upload/chunk/{task}/0"
        assert live.post(path, content=body, headers=_form_headers()).status_code == 200
        assert live.post(f"/api/files/upload/complete/{task}").status_code == 200
    data = unique()
    body = part("items", json.dumps([described(data)]).encode()) + part("content", data) + end
    answer = live.post("/api/files/upload/batch", content=body, headers=_form_headers())
    assert answer.json()["results"][0]["file"]["size"] == len(data)


def _form_headers() -> dict[str, str]:
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


def _form(filename: bytes, file_name: bytes = b"", kind: bytes = b"text/plain") -> bytes:
    field = (
        b'--b0undary\r\nContent-Disposition: form-data; name="file_name"\r\n\r\n%b\r\n' % file_name
    )
    head = (
        b'--b0undary\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n' % filename
    )
    data = b"Content-Type: %b\r\n\r\n%b\r\n--b0undary--\r\n" % (kind, unique())
    return field + head + data


def test_direct_verifies_what_was_declared(api: Api) -> None:
    for wrong in ({"hash": "0" * 64}, {"file_size": "3"}):
        answer = api.post(DIRECT, data=wrong, files={"file": unique()})
        refused(answer, 400, "HASH_MISMATCH")
    for bad in ({"hash": "x"}, {"file_size": "-1"}, {"pool_id": "x"}, {"expired_at": "x"}):
        answer = api.post(DIRECT, data=bad, files={"file": unique()})
        assert set(refused(answer, 400, "VALIDATION_FAILED")["errors"]) == set(bad)
    refused(
        api.post(DIRECT, data={"pool_id": UNKNOWN}, files={"file": b"x"}), 404, "POOL_NOT_FOUND"
    )
    refused(api.post(DIRECT, data={"a": "b"}, files={"x": b"x"}), 400, "FORM_INVALID")
    refused(api.post(DIRECT, content=b"x"), 415, "UNSUPPORTED_MEDIA_TYPE")


def test_direct_is_for_small_files(api: Api) -> None:
    answer = api.post(DIRECT, files={"file": b"x" * (DIRECT_MAX + 1)})
    refused(answer, 413, "BODY_TOO_LARGE")
    assert api.direct(b"x" * DIRECT_MAX)["size"] == DIRECT_MAX


def test_direct_without_a_content_length(api: Api) -> None:
    body = _form(b"a.txt")
    pieces = (body[at : at + 7] for at in range(0, len(body), 7))
    answer = api.post(DIRECT, content=pieces, headers=_form_headers())
    assert answer.json()["size"] == 32
    long = body[:-20] + b"x" * (2 * DIRECT_MAX) + body[-20:]
    refused(api.post(DIRECT, content=iter([long]), headers=_form_headers()), 413, "BODY_TOO_LARGE")
