"""``bundle``, ``share``, the recycle bin, and encrypted files, against the real server."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import structlog
import uvicorn
from typer.testing import CliRunner

from tests.api.world import Server
from upwell.app import asgi, build
from upwell.cli import app, transfer
from upwell.cli import secret as secrets
from upwell.client import Calls, Client, SettingsError
from upwell.config import Settings
from upwell.core import age, passcodes
from upwell.http.server import UpwellProtocol
from upwell.model import Policy, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typer.testing import Result

pytestmark = pytest.mark.slow

BIN_POOL = "a0e6f7c4-0000-4000-8000-00000000000b"
UNKNOWN = "0" * 32


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A server's address, and a token for it."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # else into our output
    core = build(Settings(data=tmp_path_factory.mktemp("data")))
    now = datetime.now(UTC)
    rules = Policy(public_usable=True, enable_recycle=True)
    core.catalog.add_pool(Pool(BIN_POOL, "bin", rules, None, None, now, now))
    config = uvicorn.Config(
        asgi(core), http=UpwellProtocol, port=0, lifespan="off", log_config=None, access_log=False
    )
    server = Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    token = core.accounts.issue(core.accounts.create("alice"), "test")
    yield f"http://127.0.0.1:{port}", token
    server.should_exit = True
    thread.join()
    core.close()
    structlog.reset_defaults()


class Upwell:
    """The command line, as a person or a script runs it."""

    def __init__(self, server: str) -> None:
        self.server = server

    def run(self, *arguments: str | Path, typed: str = "", code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(each) for each in arguments], input=typed)
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments: str | Path, typed: str = "") -> list[Any]:
        lines = self.run(*arguments, "--json", typed=typed).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def put(self, path: Path, content: bytes, *more: str, typed: str = "") -> Any:
        path.write_bytes(content)
        return self.json("put", path, *more, typed=typed)[0]["file"]

    def get(self, path: str, **query: str) -> httpx2.Response:
        """What a stranger gets."""
        return httpx2.get(self.server + path, params=query, trust_env=False)


@pytest.fixture
def upwell(
    upstream: tuple[str, str], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Upwell:
    monkeypatch.setattr(passcodes, "_MEMORY", 64)
    monkeypatch.setattr(age, "LOG_N", 10)
    monkeypatch.setenv("UPWELL_SERVER", upstream[0])
    monkeypatch.setenv("UPWELL_TOKEN", upstream[1])
    return Upwell(upstream[0])


def test_a_bundle_from_beginning_to_end(upwell: Upwell, tmp_path: Path) -> None:
    created = upwell.run("bundle", "create", "My trip", "--slug", "trip", "--expires", "7d")
    bundle, url = created.stdout.strip().split("\t")
    assert url == f"{upwell.server}/b/trip"
    inside = upwell.put(tmp_path / "in.txt", b"in", "--bundle", bundle)
    later = upwell.put(tmp_path / "later.txt", b"later")
    assert upwell.run("bundle", "add", bundle, later["id"]).stdout == f"added {later['id']}\n"

    listed = upwell.run("bundle", "list").stdout.splitlines()[0].split("\t")
    assert listed[:4] == [bundle, "My trip", "2", "no"]
    shown = upwell.run("bundle", "show", bundle).stdout
    for told in ("Name: My trip", f"Address: {url}", "Until: ", inside["id"], "later.txt"):
        assert told in shown
    record = upwell.json("bundle", "show", bundle)[0]
    assert [file["name"] for file in record["files"]] == ["in.txt", "later.txt"]
    archive = zipfile.ZipFile(io.BytesIO(upwell.get("/api/bundles/public/trip/zip").content))
    assert archive.namelist() == ["in.txt", "later.txt"]

    upwell.run("bundle", "remove", later["id"])
    assert upwell.json("bundle", "show", bundle)[0]["files_count"] == 1
    upwell.run("bundle", "delete", bundle)
    assert upwell.get("/b/trip").status_code == 404
    assert [file["id"] for file in upwell.json("ls")] == [later["id"]]
    upwell.run("rm", later["id"])


def test_a_passcode_is_read_not_written(upwell: Upwell) -> None:
    created = upwell.run("bundle", "create", "x", "--passcode", typed="pässcode\nmore\n")
    assert "pässcode" not in created.output
    bundle = upwell.json("bundle", "list")[0]
    assert bundle["has_passcode"] is True
    path = f"/api/bundles/public/{bundle['slug']}"
    assert upwell.get(path).status_code == 403
    assert upwell.get(path, passcode="pässcode").status_code == 200
    upwell.run("bundle", "set", bundle["id"], "--passcode", typed="other\n")
    assert upwell.get(path, passcode="pässcode").status_code == 403
    assert upwell.get(path, passcode="other").status_code == 200
    upwell.run("bundle", "set", bundle["id"], "--no-passcode")
    assert upwell.get(path).status_code == 200
    upwell.run("bundle", "set", bundle["id"], "--passcode", code=2)  # nothing is typed
    upwell.run("bundle", "delete", bundle["id"])


def test_a_bundle_is_changed(upwell: Upwell) -> None:
    bundle = upwell.json("bundle", "create", "x", "--description", "d", "--expires", "1d")[0]
    changes = ("--name", "y", "--slug", "other-slug", "--description", "none", "--expires", "never")
    changed = upwell.json("bundle", "set", bundle["id"], *changes)[0]
    assert (changed["name"], changed["slug"]) == ("y", "other-slug")
    assert (changed["description"], changed["expired_at"]) == (None, None)
    refused = upwell.run("bundle", "set", bundle["id"], code=2)
    assert "Nothing to change" in refused.stderr
    taken = upwell.run("bundle", "create", "z", "--slug", "other-slug", code=5)
    assert "SLUG_TAKEN" in taken.stderr
    upwell.run("bundle", "delete", bundle["id"])
    unknown = upwell.run("bundle", "delete", bundle["id"], "no/id", code=1)
    assert "BUNDLE_NOT_FOUND" in unknown.stderr


def test_links_from_beginning_to_end(upwell: Upwell, tmp_path: Path) -> None:
    file = upwell.put(tmp_path / "a.txt", b"linked")["id"]
    shared = upwell.run("share", file, "--downloads", "1", "--expires", "2h")
    url = shared.stdout.strip()
    assert "upwell unshare" in shared.stderr
    other = upwell.json("share", file)[0]
    assert other["max_downloads"] is None
    listed = [line.split("\t") for line in upwell.run("links", file).stdout.splitlines()]
    assert [(row[2], row[3]) for row in listed] == [("-", other["url"]), ("1 downloads", url)]
    assert httpx2.get(url, trust_env=False).content == b"linked"
    assert httpx2.get(url, trust_env=False).status_code == 404
    assert httpx2.get(other["url"], trust_env=False).status_code == 200
    upwell.run("unshare", other["id"])
    assert httpx2.get(other["url"], trust_env=False).status_code == 404
    upwell.run("unshare", other["id"], code=5)
    upwell.run("share", UNKNOWN, code=5)
    upwell.run("share", file, "--expires", "yesterday", code=2)
    upwell.run("share", file, "--downloads", "0", code=2)


def test_the_recycle_bin(upwell: Upwell, tmp_path: Path) -> None:
    file = upwell.put(tmp_path / "a.txt", b"binned", "--pool", BIN_POOL)["id"]
    upwell.run("rm", file)
    assert file in upwell.run("recycle").stdout
    assert [each["id"] for each in upwell.json("recycle")] == [file]
    assert upwell.run("restore", file, UNKNOWN, code=1).stdout == f"restored {file}\n"
    assert upwell.json("recycle") == []
    assert file in upwell.run("ls").stdout


@pytest.mark.parametrize("size", [0, 10, 6 << 20])
def test_an_encrypted_file_there_and_back(
    upwell: Upwell, tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(range(256)) * (size // 256) + b"." * (size % 256)
    file = upwell.put(tmp_path / "a.bin", content, "--encrypt", typed="pässword\n")
    assert (file["is_encrypted"], file["size"]) == (True, size)
    (tmp_path / "down").mkdir()
    target = tmp_path / "down" / "a.bin"
    without = upwell.run("get", file["id"], "-o", target.parent, code=5 if size else 0)
    assert target.exists() == (not size)
    assert ("PASSWORD_REQUIRED" in without.stderr) == bool(size)
    for password, code in (("wrong", 5 if size else 0), ("pässword", 0)):
        monkeypatch.setenv("UPWELL_ENCRYPT_PASSWORD", password)
        upwell.run("get", file["id"], "--force", "-o", target.parent, code=code)
    assert target.read_bytes() == content
    again = upwell.run("get", file["id"], "-o", "-")
    assert again.stdout_bytes == content
    upwell.run("rm", file["id"])


def test_an_encrypted_upload_is_not_resumed_under_another_password(
    upwell: Upwell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after some chunks: the same password goes on, another one begins anew."""
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(256)) * 4096)
    options = ("--chunk-size", "64K", "--connections", "1", "--patience", "0")
    monkeypatch.setenv("UPWELL_ENCRYPT_PASSWORD", "first")
    with monkeypatch.context() as patch:
        sent: list[int] = []

        def cut(self: Any, task_id: str, index: int, data: Any, **more: Any) -> None:
            if len(sent) == 3:
                raise SettingsError("cut")
            sent.append(index)
            real(self, task_id, index, data, **more)

        real = Calls.put_chunk
        patch.setattr(Calls, "put_chunk", cut)
        upwell.run("put", path, "--encrypt", *options, code=2)
    begun = upwell.json("tasks")
    assert [task["chunks_uploaded"] for task in begun] == [3]
    monkeypatch.setenv("UPWELL_ENCRYPT_PASSWORD", "second")
    second = upwell.json("put", path, "--encrypt", *options)[0]["file"]["id"]
    assert [task["chunks_uploaded"] for task in upwell.json("tasks")] == [3]
    plain = upwell.json("put", path, *options)[0]["file"]
    assert plain["is_encrypted"] is False
    monkeypatch.setenv("UPWELL_ENCRYPT_PASSWORD", "first")
    first = upwell.json("put", path, "--encrypt", *options)[0]["file"]["id"]
    assert upwell.json("tasks") == []
    upwell.run("get", first, "-o", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == path.read_bytes()
    upwell.run("get", second, "-o", tmp_path / "two", code=5)
    assert not any("first" in each.read_text() for each in tmp_path.glob("state/**/*.json"))


def test_a_secret_is_typed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal."""
    asked: list[str] = []
    answers = iter(["one", "two", "same", "same", ""])

    def typed(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    monkeypatch.setattr(secrets, "getpass", typed)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with pytest.raises(SettingsError, match="differ"):
        secrets.ask_secret("Passcode", twice=True)
    assert secrets.ask_secret("Passcode", twice=True) == "same"
    with pytest.raises(SettingsError, match="empty"):
        secrets.ask_secret("Passcode", twice=True)
    assert asked[:2] == ["Passcode: ", "Passcode, once more: "]
    monkeypatch.setenv("A_SECRET", "given")
    assert secrets.ask_secret("Password", variable="A_SECRET", twice=True) == "given"
    monkeypatch.setenv("A_SECRET", "\udcff")
    with pytest.raises(SettingsError, match="UTF-8"):
        secrets.ask_secret("Password", variable="A_SECRET")


def test_get_asks_for_a_password_only_when_it_is_needed(
    upwell: Upwell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = upwell.put(tmp_path / "plain", b"plain")["id"]
    sealed = upwell.put(tmp_path / "sealed", b"sealed", "--encrypt", typed="p\n")["id"]
    asked: list[str] = []

    def ask(what: str, **_: Any) -> str:
        asked.append(what)
        return "p"

    monkeypatch.setattr(transfer, "ask_secret", ask)
    monkeypatch.setattr(sys, "stdin", _Terminal())
    (tmp_path / "down").mkdir()
    with Client(upwell.server, os.environ["UPWELL_TOKEN"]) as client:
        assert transfer._password(client, [plain, "no/id", UNKNOWN]) is None
        assert asked == []
        assert transfer._password(client, [plain, sealed]) == "p"
        assert asked == ["Password"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
