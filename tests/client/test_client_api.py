from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

import upwell.client
from upwell.client import (
    ApiError,
    Calls,
    ConnectionFailed,
    PatienceOver,
    Retry,
    UnexpectedAnswer,
    UploadTask,
)
from upwell.client.api import NewFile

if TYPE_CHECKING:
    from tests.client.fake_server import FakeServer

ROOM = Path(upwell.client.__file__).parent


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: path.name)
def test_the_client_stands_alone(path: Path) -> None:
    ours = {name for name in imported(path) if name.partition(".")[0] == "upwell"}
    assert {name for name in ours if not name.startswith("upwell.client")} == set()


def answering(response: httpx2.Response) -> Calls:
    transport = httpx2.MockTransport(lambda _: response)
    return Calls("http://up.example", retry=Retry(0), transport=transport)


def test_files_tasks_and_their_ends(client: Calls, server: FakeServer) -> None:
    first, second = server.add(b"1", "one"), server.add(b"22", "two")
    task = client.create_upload(NewFile(name="three", size=3))
    assert isinstance(task, UploadTask)

    page = client.files(offset=1, take=10)
    assert [file.name for file in page.items] == ["two"]
    assert page.total == 2
    assert client.info(first.id).size == 1
    assert [item.id for item in client.tasks(status="in_progress").items] == [task.id]

    client.delete(second.id)
    client.cancel(task.id)
    assert client.files().total == 1
    assert client.tasks(status="in_progress").total == 0
    with pytest.raises(ApiError) as caught:
        client.delete(second.id)
    assert caught.value.code == "FILE_NOT_FOUND"


def test_a_deletion_whose_answer_was_lost_is_done(client: Calls, server: FakeServer) -> None:
    file = server.add(b"1")
    server.fail("DELETE", "lose")
    client.delete(file.id)
    assert not server.files


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (502, b"<html>Bad gateway</html>", "HTTP_502"),
        (404, b"[]", "HTTP_404"),
        (400, b'{"meta": 3, "errors": [], "code": null}', "HTTP_400"),
        (413, b"", "HTTP_413"),
    ],
)
def test_errors_of_what_stands_in_between(status: int, body: bytes, code: str) -> None:
    with (
        answering(httpx2.Response(status, content=body)) as client,
        pytest.raises(ApiError) as caught,
    ):
        client.info("f1")
    assert caught.value.code == code
    assert caught.value.meta == {}


@pytest.mark.parametrize("body", [b"<html>Log in</html>", b"", b"[]", b"3", b'{"id": 3}'])
def test_answers_of_something_else(body: bytes) -> None:
    with answering(httpx2.Response(200, content=body)) as client, pytest.raises(UnexpectedAnswer):
        client.info("f1")


def test_lists_of_something_else() -> None:
    with answering(httpx2.Response(200, json={})) as client, pytest.raises(UnexpectedAnswer):
        client.files()


def test_nobody_there() -> None:
    with (
        Calls("http://127.0.0.1:9", retry=Retry(0)) as client,
        pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:9"),
    ):
        client.files()


def test_the_error_tells_of_the_last_failure() -> None:
    with Calls("http://127.0.0.1:9", retry=Retry(0.1)) as client, pytest.raises(PatienceOver):
        client.files()


def test_the_token_is_sent_and_never_shown(client: Calls, server: FakeServer) -> None:
    client.files()
    assert server.headers[-1]["Authorization"].startswith("Bearer ")
    assert server.headers[-1]["Authorization"].split()[1] not in repr(vars(client))


def test_an_address_that_is_silent_is_given_up_soon_and_waited_for_longer_each_time() -> None:
    """The first failure comes within two seconds; over a bad network, a later try gets through."""
    seen: list[float] = []

    def silent(request: httpx2.Request) -> httpx2.Response:
        seen.append(request.extensions["timeout"]["connect"])
        raise httpx2.ConnectTimeout("timed out")

    transport = httpx2.MockTransport(silent)
    with Calls("http://up.example", retry=Retry(0), transport=transport) as calls:
        for _ in range(3):
            with pytest.raises(ConnectionFailed, match=r"^No answer from http://up.example: timed"):
                calls.info("f")
            with pytest.raises(ConnectionFailed):
                calls.complete("t")
        with pytest.raises(ConnectionFailed), calls.download("f"):
            pass
    assert seen[0] < 2.0
    assert seen == sorted(seen)
    assert seen[-2:] == [12.0, 12.0]
