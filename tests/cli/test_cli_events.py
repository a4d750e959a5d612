"""`upwell events` and `upwell webhook` against the real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import PROGRAM
from tests.harness import Server, eventually, token_of
from tests.jobs.receiver import Receiver, answer
from upwell.cli.exits import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

CONFIG = "[server]\nwebhook_private_networks = true\n"


class Upwell:
    """The command line with a token of the server's owner."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self._environ = dict(os.environ) | {
            "UPWELL_SERVER": f"http://127.0.0.1:{server.port}",
            "UPWELL_TOKEN": token_of(server.data),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_STATE_HOME": str(folder / "state"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, out + err
        return out, err

    def lines(self, *arguments: str, code: int = 0) -> list[Any]:
        out, _ = self.run(*arguments, "--json", code=code)
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture(scope="module")
def upwell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upwell]:
    folder = tmp_path_factory.mktemp("events")
    with Server(folder / "data", config=CONFIG) as server:
        yield Upwell(server, folder)
        assert not server.bugs()


def store(upwell: Upwell, content: bytes) -> dict[str, Any]:
    api = upwell.server.api()
    return api.finish(api.create(len(content), 100), content, 100)


def test_a_webhook_from_its_beginning_to_its_end(upwell: Upwell) -> None:
    with Receiver() as receiver:
        (made,) = upwell.lines("webhook", "add", receiver.url, "--event", "file.created")
        assert made["secret"].startswith("whsec_")
        out, _ = upwell.run("webhook", "list")
        assert out == f"{made['id']}\tenabled\tfile.created\t{receiver.url}\n"
        out, _ = upwell.run("webhook", "test", made["id"])
        assert out == "delivered\n"
        assert receiver.received[0].is_signed_with(made["secret"])
        file = store(upwell, b"a file")
        eventually(lambda: len(receiver.received) == 2, 60, "the event comes")
        assert receiver.received[1].json()["data"]["id"] == file["id"]
        receiver.behave = answer(410)
        out, _ = upwell.run("webhook", "test", made["id"], code=ExitCode.REFUSED)
        assert out == "failed: it answered 410: the webhook is disabled\n"
        assert upwell.lines("webhook", "list")[0]["disabled_at"] is not None
        out, _ = upwell.run("webhook", "enable", made["id"])
        assert out == f"enabled {made['id']}\n"
        rows = upwell.lines("webhook", "deliveries", made["id"])
        assert [row["status"] for row in rows] == ["failed", "delivered", "delivered"]
        assert upwell.lines("webhook", "deliveries", made["id"], "--limit", "1") == rows[:1]
        out, _ = upwell.run("webhook", "deliveries", made["id"], "--offset", "2")
        assert re.fullmatch(r"\d+\ttest\tdelivered\t1\t[^\t]+\t\n", out)
        upwell.run("webhook", "remove", made["id"])
        assert upwell.lines("webhook", "list") == []
        _, err = upwell.run("webhook", "remove", made["id"], code=ExitCode.REFUSED)
        assert "WEBHOOK_NOT_FOUND" in err


def test_the_secret_is_shown_to_a_person(upwell: Upwell) -> None:
    out, err = upwell.run("webhook", "add", "https://hooks.example/x")
    webhook_id, secret = out.strip().split("\t")
    assert secret.startswith("whsec_")
    assert "keep it" in err
    upwell.run("webhook", "remove", webhook_id)


def test_what_the_server_refuses_is_told(upwell: Upwell) -> None:
    _, err = upwell.run("webhook", "add", "ftp://hooks.example", code=ExitCode.REFUSED)
    assert "http:// or https://" in err
    _, err = upwell.run("webhook", "test", "../x", code=ExitCode.USAGE)
    assert "identifier" in err


def test_events_are_followed_until_ctrl_c(upwell: Upwell) -> None:
    first = store(upwell, b"before")
    follower = upwell.start("events", "--after", "0", "--json")
    assert follower.stdout is not None

    def read_until(file: dict[str, Any]) -> None:
        assert follower.stdout is not None
        while json.loads(follower.stdout.readline())["data"].get("id") != file["id"]:
            pass

    read_until(first)
    read_until(store(upwell, b"meanwhile"))
    follower.send_signal(signal.SIGINT)
    out, err = follower.communicate(timeout=30)
    assert (out, err) == ("", "")
    assert follower.returncode == ExitCode.INTERRUPTED


def test_events_for_a_person(upwell: Upwell) -> None:
    follower = upwell.start("events", "--after", "0")
    assert follower.stdout is not None
    file = store(upwell, b"for a person")
    line = follower.stdout.readline()
    while file["id"] not in line:
        line = follower.stdout.readline()
    assert re.fullmatch(r"\d+\t\S+Z\tfile.created\t\w+\tf.bin\n", line)
    follower.send_signal(signal.SIGINT)
    follower.communicate(timeout=30)


def test_a_token_that_is_not_valid_ends_it(upwell: Upwell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upwell._environ, "UPWELL_TOKEN", "upw_wrong")
    _, err = upwell.run("events", code=ExitCode.NOT_AUTHORISED)
    assert "TOKEN_INVALID" in err
