"""Stored files: contract section 2, over our server and over plain ASGI."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from tests.api.world import refused, unique
from upwell.core.media_types import HEAD
from upwell.http.downloads import SAFE_INLINE, parse_range

if TYPE_CHECKING:
    from tests.api.world import Api

CONTENT = b"0123456789"
DANGEROUS = [
    "text/html",
    "TEXT/HTML",
    "image/svg+xml",
    "application/xhtml+xml",
    "text/javascript",
    "application/xml",
    "text/plain;,text/html",
    "text/plain,text/html",
    "image/unknown",
    "application/octet-stream",
    "x",
]


@pytest.fixture
def path(api: Api) -> str:
    """A stored file of ten bytes."""
    return f"/api/files/{api.direct(CONTENT)['id']}"


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=0-", 0, 9),
        ("bytes=3-5", 3, 5),
        ("bytes=9-", 9, 9),
        ("bytes=5-999", 5, 9),
        ("bytes=5-99999999999999999999", 5, 9),
        ("bytes=-3", 7, 9),
        ("bytes=-999", 0, 9),
        ("BYTES = 3 - 5", 3, 5),
    ],
)
def test_one_range_is_honoured(api: Api, path: str, asked: str, first: int, last: int) -> None:
    answer = api.get(path, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == CONTENT[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{last}/10"
    assert answer.headers["content-length"] == str(last - first + 1)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0", "bytes=99999999999-"])
def test_a_range_beyond_the_end_is_refused(api: Api, path: str, asked: str) -> None:
    answer = api.get(path, headers={"Range": asked})
    refused(answer, 416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize(
    "asked",
    [
        "bytes=5-3",
        "bytes=-",
        "bytes=a-b",
        "lines=1-2",
        "bytes=0-1,3-4",
        "bytes=" + "9" * 5000 + "-",
        "bytes=0-" + "9" * 5000,
        "bytes 0-1",
    ],
)
def test_what_is_no_single_range_is_ignored(api: Api, path: str, asked: str) -> None:
    answer = api.get(path, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, CONTENT)


@pytest.mark.parametrize("asked", ["bytes=0-", "bytes=0-0", "bytes=-1"])
def test_an_empty_file_has_no_ranges(api: Api, asked: str) -> None:
    path = f"/api/files/{api.direct(b'')['id']}"
    assert api.get(path).headers["content-length"] == "0"
    refused(api.get(path, headers={"Range": asked}), 416, "RANGE_NOT_SATISFIABLE")


@pytest.mark.parametrize("size", [1, 2, 10])
def test_every_range_of_a_small_file(size: int) -> None:
    content = bytes(range(size))
    for first in range(size):
        for last in range(first, size + 2):
            span = parse_range(f"bytes={first}-{last}", size)
            assert span is not None
            got = content[span.start : span.start + span.length]
            assert got == content[first : last + 1]


def test_an_unchanged_file_is_not_sent_again(api: Api, path: str) -> None:
    first = api.get(path)
    etag = first.headers["etag"]
    assert re.fullmatch(r'"[^"]+"', etag)
    for held in (etag, f"W/{etag}", f'"x", {etag}', "*"):
        answer = api.get(path, headers={"If-None-Match": held})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
        assert "content-length" not in answer.headers
    for held in ('"x"', etag.strip('"'), "", "garbage"):
        assert api.get(path, headers={"If-None-Match": held}).status_code == 200


def test_a_range_depends_on_if_range(api: Api, path: str) -> None:
    first = api.get(path)
    etag, when = first.headers["etag"], first.headers["last-modified"]
    assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", when)
    for same in (etag, when):
        answer = api.get(path, headers={"Range": "bytes=1-2", "If-Range": same})
        assert (answer.status_code, answer.content) == (206, CONTENT[1:3])
    for other in ('"x"', f"W/{etag}", "Mon, 01 Jan 2001 00:00:00 GMT", "garbage"):
        answer = api.get(path, headers={"Range": "bytes=1-2", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, CONTENT)
        answer = api.get(path, headers={"Range": "bytes=99-", "If-Range": other})
        assert answer.status_code == 200


def test_a_part_is_only_of_what_the_caller_has(api: Api, path: str) -> None:
    etag = api.get(path).headers["etag"]
    for same in (etag, f'"x", {etag}', "*"):
        answer = api.get(path, headers={"Range": "bytes=1-2", "If-Match": same})
        assert (answer.status_code, answer.content) == (206, CONTENT[1:3])
    for other in ('"x"', f"W/{etag}", "garbage", ""):
        for more in ({}, {"Range": "bytes=99-"}, {"If-None-Match": etag}):
            answer = api.get(path, headers={"If-Match": other} | more)
            refused(answer, 412, "PRECONDITION_FAILED")


def test_head_is_get_without_the_bytes(api: Api, path: str) -> None:
    for headers in ({}, {"Range": "bytes=2-4"}, {"If-None-Match": "*"}):
        got, head = api.get(path, headers=headers), api.head(path, headers=headers)
        assert (head.status_code, head.content) == (got.status_code, b"")
        same = set(got.headers) - {"date", "x-trace-id"}
        assert {name: head.headers.get(name) for name in same} == {
            name: got.headers[name] for name in same
        }


@pytest.mark.parametrize("kind", sorted(SAFE_INLINE))
def test_a_safe_type_is_shown_unless_a_download_is_asked_for(live: Api, kind: str) -> None:
    path = f"/api/files/{live.direct(content_type=kind)['id']}"
    answer = live.get(path)
    assert answer.headers["content-disposition"].startswith("inline;")
    assert answer.headers["content-type"].split(";")[0] == kind
    answer = live.get(path, params={"download": "true"})
    assert answer.headers["content-disposition"].startswith("attachment;")


@pytest.mark.parametrize("kind", DANGEROUS)
def test_content_can_never_act_as_the_site(api: Api, kind: str) -> None:
    file = api.direct(content_type=kind)
    assert kind == "application/octet-stream" or file["mime_type"] == kind
    for answer in (
        api.get(f"/api/files/{file['id']}"),
        api.get(f"/api/files/{file['id']}", headers={"Range": "bytes=0-1"}),
    ):
        shown = answer.headers["content-type"].split(";")[0]
        assert shown in ("application/octet-stream", "text/plain")
        inline = answer.headers["content-disposition"].startswith("inline")
        assert not inline or shown == "text/plain"
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"].split("; ")
        assert policy == ["sandbox", "default-src 'none'"]


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("Text/Plain;CHARSET=latin1", "text/plain; charset=latin1"),
        ('text/plain; x="a,text/html"', "text/plain; charset=utf-8"),
        ('text/plain; charset="UTF-8"', "text/plain; charset=UTF-8"),
        ('video/mp4; codecs="avc1"', "video/mp4"),
    ],
)
def test_a_safe_type_keeps_its_charset_only(api: Api, kind: str, shown: str) -> None:
    answer = api.get(f"/api/files/{api.direct(content_type=kind)['id']}")
    assert answer.headers["content-type"] == shown


@pytest.mark.parametrize(
    ("content", "charset"),
    [
        ("Grüße", "; charset=utf-8"),
        ("", "; charset=utf-8"),
        (codecs.BOM_UTF8 + b"a", "; charset=utf-8"),
        ("\ufeffGrüße".encode("utf-16-le"), "; charset=utf-16le"),
        ("\ufeffGrüße".encode("utf-16-be"), "; charset=utf-16be"),
        ("ü" * HEAD, "; charset=utf-8"),  # the part that is looked at ends
        ("x" + "ü" * HEAD, "; charset=utf-8"),  # within a character
        ("Grüße".encode("latin-1"), ""),
        ("Gr\xfc", "; charset=utf-8"),
        (b"Gr\xc3", ""),
        ("\x1b[1mlog\x1b[0m\f", "; charset=utf-8"),
    ],
)
def test_a_text_is_shown_in_its_charset(api: Api, content: str | bytes, charset: str) -> None:
    data = content.encode() if isinstance(content, str) else content
    more = {"encrypt_password": "x"} if len(data) > HEAD else {}
    file = api.direct(data, content_type="text/plain", **more)
    assert file["mime_type"] == "text/plain", "as it was declared"
    path, headers = f"/api/files/{file['id']}", {"X-Encrypt-Password": "x"} if more else {}
    for answer in (
        api.get(path, headers=headers),
        api.head(path, headers=headers),
        api.get(path, headers={"Range": "bytes=0-0"} | headers),
    ):
        if answer.status_code != 416:  # of nothing, no range
            assert answer.headers["content-type"] == f"text/plain{charset}"
            assert answer.headers["content-disposition"].startswith("inline")


@pytest.mark.parametrize(
    ("name", "declared", "content"),
    [
        ("notes.txt.gz", "text/plain", gzip.compress(b"a", mtime=0)),
        ("notes.TXT.GZ", "text/plain", b"a"),
        ("film.mp4.xz", "video/mp4", b"a"),
        ("notes", "text/plain; charset=utf-8", gzip.compress(b"a", mtime=0)),
        ("notes.txt", "text/plain", b"a\0b"),
    ],
)
def test_what_is_no_text_is_a_download(api: Api, name: str, declared: str, content: bytes) -> None:
    file = api.direct(content, file_name=name, content_type=declared)
    assert file["mime_type"] == declared
    answer = api.get(f"/api/files/{file['id']}")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("declared", "shown"),
    [
        ("audio/x-wav", "audio/wav"),
        ("Audio/X-M4A; codecs=mp4a", "audio/mp4"),
        ("audio/mp3", "audio/mpeg"),
        ("image/jpg", "image/jpeg"),
        ("video/x-m4v", "video/mp4"),
    ],
)
def test_a_type_is_known_by_its_usual_name(api: Api, declared: str, shown: str) -> None:
    file = api.direct(content_type=declared)
    assert file["mime_type"] == declared
    answer = api.get(f"/api/files/{file['id']}")
    assert answer.headers["content-type"] == shown
    assert answer.headers["content-disposition"].startswith("inline")
    wave = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0" + unique()
    assert api.direct(wave, content_type="application/octet-stream")["mime_type"] == "audio/wav"


def test_the_name_for_old_clients_is_short_and_keeps_its_ending(api: Api) -> None:
    for name, plain in (
        ("\u6771" * 1020 + ".txt", "_.txt"),
        ("Grüße an \u6771\u4eac.txt", "Gr_e an _.txt"),
        ("a" * 200 + ".tar.gz", "a" * 97 + ".gz"),
        ("b" * 200, "b" * 100),
    ):
        answer = api.get(f"/api/files/{api.direct(file_name=name)['id']}")
        value = answer.headers["content-disposition"]
        assert f'filename="{plain}"; ' in value
        assert unquote(value.partition("''")[2]) == name


@pytest.mark.parametrize(
    "name",
    [
        'a"b.txt',
        "a\\b.txt",
        "a\r\nSet-Cookie: x=1",
        "\u202etxt.exe",
        "\U0001f600.png",
        "ü" * 1024,
        "\U0001f600" * 1024,
        "../../etc/passwd",
        "C:\\x\\y.txt",
        "100%41.txt",
        "a;b=c.txt",
        "a'b.txt",
        " ",
        "\x7f\x01",
    ],
)
def test_names_are_only_names(api: Api, name: str) -> None:
    file = api.direct(file_name=name)
    answer = api.get(f"/api/files/{file['id']}", params={"download": "1"})
    assert "set-cookie" not in answer.headers
    value = answer.headers["content-disposition"]
    found = re.fullmatch(r"attachment; filename=\"([^\"]*)\"; filename\*=UTF-8''(\S+)", value)
    assert found is not None
    assert re.fullmatch(r"[\x20-\x7e]+", found[1])
    assert not set(found[1]) & set('"\\/%')
    assert re.fullmatch(r"([A-Za-z0-9!#$&+.^_`|~-]|%[0-9A-F]{2})+", found[2])  # RFC 8187
    assert unquote(found[2]) == name == file["name"]


def test_files_that_share_bytes_keep_their_own_name(api: Api) -> None:
    content = unique()
    digest = hashlib.sha256(content).hexdigest()
    files = [api.direct(content, hash=digest, file_name=name) for name in ("a.txt", "b.txt")]
    answers = [api.get(f"/api/files/{file['id']}") for file in files]
    assert answers[0].headers["etag"] == answers[1].headers["etag"]
    assert "a.txt" in answers[0].headers["content-disposition"]
    assert "b.txt" in answers[1].headers["content-disposition"]


def test_rename(api: Api, path: str) -> None:
    renamed = api.patch(f"{path}/name", json={"name": "new name.txt"}).json()
    assert renamed == api.get(f"{path}/info").json()
    assert renamed["name"] == "new name.txt"
    assert renamed["updated_at"] > renamed["created_at"]
    assert "new%20name" in api.get(path).headers["content-disposition"]
    for bad in ("", "a" * 1025, None, 7, "a\0"):
        refused(api.patch(f"{path}/name", json={"name": bad}), 400, "VALIDATION_FAILED")


def test_description(api: Api, path: str) -> None:
    for text in ("A day at the sea.\nAnd a night.", "ü" * 4096):
        changed = api.put(f"{path}/description", json={"description": text}).json()
        assert changed["description"] == text
        assert api.get(f"{path}/info").json() == changed
    for bad in (None, 7, "a\0", "a" * 4097):
        answer = api.put(f"{path}/description", json={"description": bad})
        refused(answer, 400, "VALIDATION_FAILED")
    assert api.put(f"{path}/description", json={"description": ""}).json()["description"] is None


def test_meta(api: Api, path: str) -> None:
    meta = {"a": {"b": [1, 2.5, None, True, "\U0001f600"]}, "null": None, "": ""}
    assert api.put(f"{path}/meta", json={"userMeta": meta}).json()["user_meta"] == meta
    assert api.get(f"{path}/info").json()["user_meta"] == meta
    assert api.put(f"{path}/meta", json={"user_meta": {}}).json()["user_meta"] == {}


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_meta_has_its_bounds(api: Api, path: str) -> None:
    assert api.put(f"{path}/meta", json={"user_meta": nested(100)}).status_code == 200
    assert api.get(f"{path}/info").json()["user_meta"] == nested(100)
    assert api.get("/api/files/me").status_code == 200
    bad: Any
    for bad in (nested(101), nested(400), {"a": "b" * 65537}, {"a": list(range(20000))}, [], "x"):
        answer = api.put(f"{path}/meta", json={"user_meta": bad})
        refused(answer, 400, "VALIDATION_FAILED")
    assert api.get(f"{path}/info").json()["user_meta"] == nested(100)


def test_marks(api: Api, path: str) -> None:
    marks = ["nudity", "ü", "nudity"]
    changed = api.put(f"{path}/marks", json={"sensitiveMarks": marks}).json()
    assert changed["sensitive_marks"] == marks
    for bad in ("x", [""], ["a" * 101], [1], ["a"] * 101, {"a": 1}, None):
        answer = api.put(f"{path}/marks", json={"sensitive_marks": bad})
        refused(answer, 400, "VALIDATION_FAILED")


def test_delete(api: Api, path: str) -> None:
    answer = api.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    for call in (api.get(path), api.get(f"{path}/info"), api.delete(path)):
        refused(call, 404, "FILE_NOT_FOUND")
    assert api.head(path).status_code == 404


def test_delete_several(api: Api, stranger: Api) -> None:
    mine = [api.direct()["id"] for _ in range(2)]
    theirs = stranger.direct()["id"]
    asked = [*mine, theirs, "0" * 32, "x" * 99, mine[0], ""]
    answer = api.post("/api/files/batches/delete", json={"fileIds": asked})
    assert answer.json() == {"deleted": mine}
    assert stranger.get(f"/api/files/{theirs}").status_code == 200
    refused(api.get(f"/api/files/{mine[1]}"), 404, "FILE_NOT_FOUND")
    too_many = {"file_ids": ["x"] * 1001}
    refused(api.post("/api/files/batches/delete", json=too_many), 400, "VALIDATION_FAILED")


def test_my_files_newest_first_in_pages(live: Api) -> None:
    live.headers["Authorization"] = f"Bearer {live.world.token('collector')}"
    made = [live.direct()["id"] for _ in range(5)]
    first = live.get("/api/files/me", params={"take": 2})
    assert [file["id"] for file in first.json()] == made[:2:-1]
    assert first.headers["x-total"] == "5"
    rest = live.get("/api/files/me", params={"offset": 2, "take": 100})
    assert [file["id"] for file in rest.json()] == made[2::-1]
    assert live.get("/api/files/me", params={"offset": 9}).json() == []


@pytest.mark.parametrize(
    "unknown", ["0" * 32, "x", "a" * 300, "%00", "..", "%ff", "\U0001f600", "'--"]
)
def test_whatever_is_no_id_is_not_found(api: Api, unknown: str) -> None:
    assert api.get(f"/api/files/{unknown}/info").status_code == 404
    assert api.get(f"/api/files/upload/resume/{unknown}").status_code == 404


def test_the_caller_s_files_by_name_and_size(live: Api) -> None:
    for name, size in (("Zebra", 42), ("apfel %1", 41), ("APFEL %2", 40)):
        live.direct(unique(size), name=f"{name} in order")

    def names(**asked: Any) -> list[str]:
        answer = live.get("/api/files/me", params=asked)
        assert (answer.status_code, answer.headers["x-total"]) == (200, str(len(answer.json())))
        return [file["name"].removesuffix(" in order") for file in answer.json()]

    assert names(search="in Order", order="name") == ["apfel %1", "APFEL %2", "Zebra"]
    assert names(search="in order", order="-size") == ["Zebra", "apfel %1", "APFEL %2"]
    assert names(search="in order") == ["APFEL %2", "apfel %1", "Zebra"]
    assert names(search="aPFEL %", order="oldest") == ["apfel %1", "APFEL %2"]
    assert names(search="%_order") == []
    refused(live.get("/api/files/me", params={"order": "hash"}), 400, "VALIDATION_FAILED")
    refused(live.get("/api/files/me", params={"search": "x" * 256}), 400, "VALIDATION_FAILED")
