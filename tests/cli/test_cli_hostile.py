"""Text of others through every command: from a server that answers with it, from a catalog that
holds it, from file names and arguments. None of it may act on the terminal."""

from __future__ import annotations

import json
import re
import shutil
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
import typer

from tests.test_printable import HOSTILE, UNSAFE
from upwell import cli
from upwell.app import api_of, build
from upwell.cli import app
from upwell.config import Settings
from upwell.model import NewUpload, Policy, Pool, Principal, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.conftest import Run

pytestmark = pytest.mark.slow

NAME = HOSTILE.replace("\0", "").replace("/", "")
UTF8 = NAME.encode("utf-8", "replace").decode()  # what a server and a catalog can hold
GUID = "3f0a2f1e-6d0b-4a51-9a3e-0d8f3a0f7c11"
PATH = "the path of a file with such a name"

# Each command with what it takes. An argument that is a name of others is a hostile one.
COMMANDS: dict[str, list[str]] = {
    "put": [PATH],
    "get": ["x"],
    "ls": [],
    "rm": [NAME],
    "mv": ["x", NAME],
    "quota": [],
    "tasks": [],
    "cancel": [NAME],
    "recycle": [],
    "restore": [NAME],
    "share": ["x"],
    "links": ["x"],
    "unshare": [NAME],
    "events": [],
    "bundle create": [NAME],
    "bundle list": [],
    "bundle show": [GUID],
    "bundle set": [GUID, "--name", NAME],
    "bundle add": [GUID, NAME],
    "bundle remove": [NAME],
    "bundle delete": [NAME],
    "webhook add": ["https://hook.example/"],
    "webhook list": [],
    "webhook remove": [NAME],
    "webhook enable": [NAME],
    "webhook test": ["x"],
    "webhook deliveries": ["x"],
}
ON_A_FOLDER: dict[str, list[str]] = {
    "serve": ["--port", "0"],
    "login": [],
    "verify": [],
    "recover": [],
    "account create": [NAME],
    "account list": [],
    "account quota": [NAME, "1"],
    "pool create": [NAME],
    "pool list": [],
    "pool show": [NAME],
    "pool set": [NAME, "--quota", "1"],
    "pool remove": [NAME],
    "token create": ["--account", NAME],
    "token list": ["--account", "owner"],
    "token revoke": [NAME, "--account", "owner"],
}


def every_command() -> dict[str, Any]:
    def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
        for name, each in getattr(command, "commands", {}).items():
            yield from walk(each, (*path, name))
        if not getattr(command, "commands", None):
            yield " ".join(path), command

    return dict(walk(typer.main.get_command(app)))


def test_every_command_is_tested_here() -> None:
    assert set(every_command()) == COMMANDS.keys() | ON_A_FOLDER.keys()


def test_nothing_else_prints() -> None:
    """A command that printed by itself would have to remember to escape."""
    prints = re.compile(r"typer\.(?:secho|echo|confirm|prompt)\(|\bprint\(|\.write\(")
    found = {
        path.name: prints.findall(path.read_text())
        for path in Path(cli.__file__).parent.glob("*.py")
        if path.name not in ("say.py", "show.py")
    }
    assert not {name: calls for name, calls in found.items() if calls}


# a server whose every text is hostile


def sample(schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """A value of a schema, hostile wherever text may be."""
    while "$ref" in schema or "anyOf" in schema:
        if "$ref" in schema:
            schema = schemas[schema["$ref"].rpartition("/")[2]]
        else:
            schema = next(each for each in schema["anyOf"] if each.get("type") != "null")
    if "enum" in schema or "const" in schema:
        return schema.get("const", schema.get("enum", [None])[-1])
    kind = schema.get("type")
    if kind == "array":
        return [sample(schema.get("items", {}), schemas)]
    if kind == "object":
        return {name: sample(each, schemas) for name, each in schema.get("properties", {}).items()}
    if kind == "string":
        known = {"uuid": GUID, "date-time": "2030-01-01T00:00:00Z"}
        return known.get(schema.get("format", ""), NAME)
    return {"integer": 1, "number": 1.0, "boolean": False, "null": None}.get(kind or "", NAME)


class Hostile:
    """Answers each request in the shape that the API describes, or, with ``refuses``, with an
    error. A stream has one event."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.description = description
        self.refuses = self.streamed = False
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, kind, body = hostile.answer(self.command, self.path, dict(self.headers))
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, method: str, target: str, headers: dict[str, str]) -> tuple[int, str, bytes]:
        streams = headers.get("Accept", "") == "text/event-stream"
        if self.refuses or (streams and self.streamed):
            error = {"code": NAME, "message": NAME, "status": 401, "trace_id": NAME}
            return 401, "application/json", json.dumps(error).encode()
        if streams:
            self.streamed = True
            data = {"seq": 1, "type": NAME, "timestamp": NAME, "data": {"id": NAME, "name": NAME}}
            return 200, "text/event-stream", f"id: 1\ndata: {json.dumps(data)}\n\n".encode()
        for status, answer in self._operation(method, target)["responses"].items():
            if status.startswith("2"):
                schema = answer.get("content", {}).get("application/json", {}).get("schema")
                schemas = self.description["components"]["schemas"]
                body = b"x" if schema is None else json.dumps(sample(schema, schemas)).encode()
                return int(status), "application/json", b"" if status == "204" else body
        raise AssertionError(target)

    def _operation(self, method: str, target: str) -> Any:
        path = target.partition("?")[0]
        fitting = (
            operations[method.lower()]
            for route, operations in sorted(self.description["paths"].items(), key=_first)
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route), path)
            and method.lower() in operations
        )
        return next(fitting)


def _first(item: tuple[str, Any]) -> tuple[bool, str]:
    return "{" in item[0], item[0]


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Any:
    core = build(Settings(data=tmp_path_factory.mktemp("described")))
    try:
        return api_of(core).openapi()
    finally:
        core.close()


@pytest.fixture
def hostile(
    description: Any, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hostile]:
    del environ  # is set up before it is changed
    made = Hostile(description)
    monkeypatch.setenv("UPWELL_SERVER", made.url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_bytes(b"x")
    thread = Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def require_harmless(result: Any, *, terminal: bool = False) -> None:
    """A terminal is sent rich's own sequences too, of which none is a title or in 8 bits."""
    shown = result.stdout_bytes.decode() + result.stderr_bytes.decode()
    if terminal:
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", shown)
        shown = shown.replace("\x1b[31m", "")
    found = UNSAFE.search(shown)
    assert found is None, shown
    assert "\n2026-01-01" not in shown


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("terminal", [False, True])
def test_a_server_cannot_act_on_the_terminal(
    run: Run, hostile: Hostile, terminal: bool, refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, everything is a terminal
    hostile.refuses = refuses
    for command, arguments in COMMANDS.items():
        hostile.streamed = False
        given = [NAME if each == PATH else each for each in arguments]
        for flags in ([], ["--json"]):
            result = run(*command.split(), *given, *flags)
            assert result.exception is None or isinstance(result.exception, SystemExit), command
            require_harmless(result, terminal=terminal)


def test_no_argument_acts_on_the_terminal(run: Run) -> None:
    """Not even of a command that does not take it: a shell's ``*`` hands over any name."""
    for command in (*every_command(), NAME, f"bundle {NAME}"):
        for wrong in (f"--{NAME}", f"--server={NAME}", f"--config={NAME}"):
            require_harmless(run(*command.split(" "), wrong, NAME))


# a data folder whose every name is hostile


@pytest.fixture
def folder(tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    del environ
    data = tmp_path / NAME.replace("\n", "")
    core = build(Settings(data=data))
    try:
        owner, now = core.accounts.create("owner", admin=True), core.verbs.uploads._clock()
        core.accounts.create(UTF8)
        core.accounts.issue(owner, UTF8)
        policy = Policy(accept_types=(UTF8,))
        core.catalog.add_pool(Pool(GUID, UTF8, policy, None, None, now, now))
        who = Principal(owner, frozenset(Scope), "t")
        core.uploads.store_direct(who, NewUpload(UTF8, 1, "text/plain"), b"x")
    finally:
        core.close()
    for blob in (data / "pools").rglob("blobs/**/*"):
        if blob.is_file():
            blob.write_bytes(b"y")
    monkeypatch.setenv("UPWELL_DATA", str(data))
    (data / "upwell.toml").write_text(f"[server]\npublic_url = {json.dumps('http://' + UTF8)}\n")
    return data


def test_a_catalog_cannot_act_on_the_terminal(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upwell.app.serve", lambda *_: 0)
    for command, arguments in ON_A_FOLDER.items():
        given = [UTF8 if each == NAME else each for each in arguments]
        result = run(*command.split(), *given)
        assert result.exception is None or isinstance(result.exception, SystemExit), command
        require_harmless(result)
    require_harmless(run("verify", "--json"))
    shutil.rmtree(folder)
