"""``upwell pool …``, ``account quota``, ``quota`` and ``mv``: what a person and a script see."""

from __future__ import annotations

import json
import subprocess
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import PROGRAM
from tests.client import fake_server
from tests.client.fake_server import FakeServer, Refused
from tests.harness import Server, token_of
from upwell import app
from upwell.config import Settings
from upwell.model import DEFAULT_POOL_ID, Pool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Run

pytestmark = pytest.mark.slow

GUID = "3f0a2f1e-6d0b-4a51-9a3e-0d8f3a0f7c11"
FILMS = {"id": GUID, "name": "films"}
DEFAULT = {"id": DEFAULT_POOL_ID, "name": "default"}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setenv("UPWELL_DATA", str(folder))
    return folder


def pools(data: Path) -> dict[str, Pool]:
    with closing(app.open_catalog(Settings(data=data))) as catalog:
        return {pool.name: pool for pool in catalog.pools()}


# the operator's commands


def test_a_pool_with_everything(run: Run, data: Path, tmp_path: Path) -> None:
    made = run(
        "pool", "create", "films", "--path", tmp_path / "films", "--id", GUID.upper(),
        "--max-file-size", "5GiB", "--accept", "Video/*", "--accept", "image/png",
        "--quota", "2T", "--file-expiry-days", "1.5", "--no-encryption", "--allow-anonymous",
        "--public", "--no-metadata", "--no-optimization", "--recycle",
    )  # fmt: skip
    assert (made.exit_code, made.stdout) == (0, f"{GUID}\n")
    shown = run("pool", "show", "films", "--json")
    assert json.loads(shown.stdout) == {
        "id": GUID,
        "name": "films",
        "path": str(tmp_path / "films"),
        "max_file_size": 5 << 30,
        "accept_types": ["video/*", "image/png"],
        "allow_encryption": False,
        "allow_anonymous": True,
        "public_usable": True,
        "no_metadata": True,
        "no_optimization": True,
        "enable_recycle": True,
        "quota": 2 << 40,
        "file_expiry": 129600,
        "stored_bytes": 0,
        "reserved_bytes": 0,
        "total_bytes": 0,
        "files": 0,
    }
    assert pools(data)["films"].account_id is None
    assert (tmp_path / "films" / "blobs").is_dir()


def test_a_pool_with_nothing_is_for_admins_alone(run: Run, data: Path) -> None:
    assert run("pool", "create", "plain").exit_code == 0
    policy = pools(data)["plain"].policy
    assert (policy.public_usable, policy.allow_encryption, policy.quota) == (False, True, None)
    lines = run("pool", "show", "plain").stdout.splitlines()
    assert "public_usable\tno" in lines
    assert "quota\t-" in lines
    assert "accept_types\t-" in lines


def test_list(run: Run, data: Path) -> None:
    pool_id = run("pool", "create", "plain", "--quota", "10").stdout.strip()
    listed = run("pool", "list").stdout.splitlines()
    assert listed == [
        f"default\t{DEFAULT_POOL_ID}\t0\t0\t-\t-",
        f"plain\t{pool_id}\t0\t0\t10\t-",
    ]
    records = [json.loads(line) for line in run("pool", "list", "--json").stdout.splitlines()]
    assert [record["name"] for record in records] == ["default", "plain"]


def test_set_changes_what_is_named_and_nothing_else(run: Run, data: Path) -> None:
    run("pool", "create", "films", "--quota", "10", "--accept", "video/*", "--public", "--recycle")
    before = pools(data)["films"].policy
    assert run("pool", "set", "films", "--max-file-size", "5M").exit_code == 0
    after = pools(data)["films"].policy
    assert after.max_file_size == 5 << 20
    assert (after.quota, after.accept_types, after.public_usable, after.enable_recycle) == (
        before.quota, before.accept_types, True, True,
    )  # fmt: skip
    none = ("--quota", "none", "--max-file-size", "none", "--accept", "none")
    assert run("pool", "set", "films", *none, "--file-expiry-days", "none").exit_code == 0
    assert (
        run("pool", "set", "films", "--private", "--no-recycle", "--name", "reels").exit_code == 0
    )
    bare = pools(data)["reels"].policy
    assert (bare.quota, bare.max_file_size, bare.accept_types, bare.file_expiry) == (
        None, None, (), None,
    )  # fmt: skip
    assert (bare.public_usable, bare.enable_recycle) == (False, False)
    assert run("pool", "set", "films", "--quota", "1").exit_code == 1


def test_remove(run: Run, data: Path, tmp_path: Path) -> None:
    run("pool", "create", "films", "--path", tmp_path / "films")
    pool_id = run("pool", "create", "plain").stdout.strip()
    done = run("pool", "remove", "films")
    assert (done.exit_code, done.stdout) == (
        0,
        f"Its folder can be deleted: {tmp_path / 'films'}\n",
    )
    assert run("pool", "remove", pool_id).stdout == ""
    assert set(pools(data)) == {"default"}
    refused = run("pool", "remove", "default")
    assert refused.exit_code == 1
    assert "it stays" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (("create", "default"), 1, "exists already"),
        (("create", ""), 2, "name must be"),
        (("create", "x", "--path", "data/x"), 2, "overlap"),
        (("create", "x", "--id", "x"), 2, "GUID"),
        (("create", "x", "--quota", "much"), 2, "not a size"),
        (("create", "x", "--accept", "video"), 2, "media types"),
        (("create", "x", "--accept", "none", "--accept", "a/b"), 2, "media types"),
        (("create", "x", "--file-expiry-days", "soon"), 2, "number of days"),
        (("create", "x", "--file-expiry-days", "nan"), 2, "number of days"),
        (("create", "x", "--file-expiry-days", "0"), 2, "file_expiry must be"),
        (("create", "x", "--file-expiry-days", "1e6"), 2, "file_expiry must be"),
        (("set", "default"), 2, "nothing to change"),
        (("set", "nothing", "--public"), 1, "no pool nothing"),
        (("show", "nothing"), 1, "no pool nothing"),
        (("remove", "nothing"), 1, "no pool nothing"),
    ],
)
def test_what_cannot_be_is_told(
    run: Run,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    why: str,
) -> None:
    monkeypatch.chdir(data.parent)
    done = run("pool", *arguments)
    assert (done.exit_code, done.stdout) == (code, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr
    assert set(pools(data)) == {"default"}


def test_a_name_cannot_act_on_a_terminal(run: Run, data: Path) -> None:
    run("pool", "create", "a\N{RIGHT-TO-LEFT OVERRIDE}b")
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in run("pool", "list").stdout


@pytest.mark.parametrize(("size", "quota"), [("5GiB", 5 << 30), ("0", 0), ("none", None)])
def test_account_quota(run: Run, data: Path, size: str, quota: int | None) -> None:
    run("account", "create", "ann")
    assert run("account", "quota", "ann", "7").exit_code == 0
    assert run("account", "quota", "ann", size).exit_code == 0
    with closing(app.open_catalog(Settings(data=data))) as catalog:
        ann = catalog.account("ann")
    assert ann is not None
    assert ann.quota == quota
    assert run("account", "quota", "ann", "-1").exit_code == 2
    assert run("account", "quota", "ann", "much").exit_code == 2
    assert run("account", "quota", "bob", "1").exit_code == 1


# what a user sees


class Moving:
    """What the fake server answers to questions about pools."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.quota: int | None = 100
        self.names: list[str] = []

    def rename(self, file_id: str, body: bytes) -> dict[str, Any]:
        if file_id == "missing":
            raise Refused(404, "FILE_NOT_FOUND", "There is no such file.")
        self.names.append(json.loads(body)["name"])
        return fake_server.Stored(file_id, self.names[-1], b"", "").as_json()

    def move(self, file_id: str, body: bytes) -> dict[str, Any]:
        if file_id == "missing":
            raise Refused(404, "FILE_NOT_FOUND", "There is no such file.")
        self.asked.append((file_id, json.loads(body)))
        return self.state("waiting")

    def look(self) -> list[dict[str, Any]]:
        return [self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]]

    @staticmethod
    def state(status: str, error: str | None = None) -> dict[str, Any]:
        at = {"created_at": "2030-01-01T00:00:00Z", "finished_at": None}
        return {"id": 7, "pool_id": GUID, "status": status, "error": error} | at


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> Moving:
    told = Moving()

    def usage(handler: Any, _: bytes) -> None:
        held = {"stored_bytes": 50, "reserved_bytes": 10, "total_bytes": 60, "files": 2}
        other = {"stored_bytes": 0, "reserved_bytes": 0, "total_bytes": 0, "files": 0}
        listed = [{"pool": DEFAULT} | held, {"pool": FILMS} | other]
        handler._json(held | {"open_uploads": 3, "unsent_bytes": 7, "pools": listed})

    def quota(handler: Any, _: bytes) -> None:
        left = None if told.quota is None else told.quota - 60
        of_pools = [
            {"pool": DEFAULT, "quota": None, "used": 60},
            {"pool": FILMS, "quota": 2000, "used": 0},
        ]
        handler._json({"quota": told.quota, "used": 60, "available": left, "pools": of_pools})

    routes: tuple[tuple[str, Callable[..., None]], ...] = (
        (r"GET /api/pools", lambda handler, _: handler._json([DEFAULT, FILMS])),
        (r"GET /api/billing/usage", usage),
        (r"GET /api/billing/quota", quota),
        (r"PATCH /(\w+)/name", lambda handler, body, name: handler._json(told.rename(name, body))),
        (r"POST /(\w+)/move", lambda handler, body, name: handler._json(told.move(name, body))),
        (r"GET /(\w+)/moves", lambda handler, *_: handler._json(told.look())),
    )
    monkeypatch.setattr(fake_server, "ROUTES", (*routes, *fake_server.ROUTES))
    return told


def test_quota(run: Run, moving: Moving) -> None:
    apart = (
        "Files take 50 bytes; uploads in progress (3) have reserved 10 bytes, of which 7 bytes are "
        "not sent yet."
    )
    done = run("quota")
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "default\t2\t50 bytes\t10 bytes\t-",
        "films\t0\t0 bytes\t0 bytes\t2.0 kB",
        f"60 bytes of 100 bytes used, 40 bytes left. {apart}",
    ]
    record = json.loads(run("quota", "--json").stdout)
    assert (record["quota"]["available"], record["usage"]["reserved_bytes"]) == (40, 10)
    moving.quota = None
    assert run("quota").stdout.splitlines()[-1] == f"60 bytes used, no limit. {apart}"


@pytest.mark.parametrize("name", ["films", GUID, GUID.upper()])
def test_mv_waits_until_the_file_has_moved(run: Run, moving: Moving, name: str) -> None:
    moving.answers = [moving.state("waiting"), moving.state("running"), moving.state("done")]
    done = run("mv", "f1", "--pool", name)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "moved f1 to films\n", "")
    assert moving.asked == [("f1", {"pool_id": GUID})]


def test_mv_renames_and_moves(run: Run, moving: Moving) -> None:
    moving.answers = [moving.state("done")]
    done = run("mv", "f1", "--name", "new.txt")
    assert (done.exit_code, done.stdout, moving.asked) == (0, "renamed f1 to new.txt\n", [])
    both = run("mv", "f1", "--name", "b", "--pool", "films")
    assert (both.exit_code, both.stdout) == (0, "renamed f1 to b\nmoved f1 to films\n")
    (told,) = map(json.loads, run("mv", "f1", "--name", "c", "--json").stdout.splitlines())
    assert (told["status"], told["file"]["name"]) == ("renamed", "c")
    assert moving.names == ["new.txt", "b", "c"]
    for wrong in (["f1"], ["f1", "f2", "--name", "x"]):
        assert run("mv", *wrong).exit_code == 2
    assert run("mv", "missing", "--name", "x").exit_code == 5


def test_mv_tells_a_script(run: Run, moving: Moving) -> None:
    moving.answers = [moving.state("done")]
    done = run("mv", "f1", "missing", "--pool", "films", "--json")
    assert done.exit_code == 1
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first == {
        "id": "f1",
        "pool": "films",
        "move": moving.state("done"),
        "status": "moved",
    }
    assert (second["id"], second["status"]) == ("missing", "failed")
    assert second["error"]["code"] == "FILE_NOT_FOUND"


def test_mv_need_not_wait(run: Run, moving: Moving) -> None:
    done = run("mv", "f1", "f2", "--pool", "films", "--no-wait")
    assert (done.exit_code, done.stdout) == (0, "moving f1 to films\nmoving f2 to films\n")


def test_mv_says_why_it_waits_and_why_it_failed(run: Run, moving: Moving) -> None:
    full = "The server is out of space for this file."
    moving.answers = [
        moving.state("waiting", full),
        moving.state("waiting", full),
        moving.state("failed", "the file is gone"),
    ]
    done = run("mv", "f1", "--pool", "films")
    assert (done.exit_code, done.stdout) == (5, "")
    assert done.stderr.splitlines() == [
        f"moving f1 to films: waiting: {full}",
        "upwell: f1: not moved to films: the file is gone",
    ]


def test_mv_of_what_the_server_does_not_know(run: Run, moving: Moving) -> None:
    unknown = run("mv", "f1", "--pool", "nothing")
    assert unknown.exit_code == 2
    assert "default, films" in unknown.stderr
    assert run("mv", "missing", "--pool", "films").exit_code == 5
    assert run("mv", "../pools", "--pool", "films").exit_code == 2
    assert moving.asked == []


def test_mv_outlasts_a_restart_of_the_server(run: Run, moving: Moving, server: FakeServer) -> None:
    moving.answers = [moving.state("done")]
    server.fail("GET /f1/moves", "reset", times=2)
    done = run("mv", "f1", "--pool", "films")
    assert (done.exit_code, done.stdout) == (0, "moved f1 to films\n")
    assert "connection lost" in done.stderr


# as two programs on one machine


@pytest.mark.slow
def test_with_a_real_server(tmp_path: Path, environ: dict[str, str]) -> None:
    data = tmp_path / "data"
    with Server(data) as server:
        ours = environ | {
            "UPWELL_SERVER": f"http://127.0.0.1:{server.port}",
            "UPWELL_TOKEN": token_of(data),
            "UPWELL_DATA": str(data),
        }

        def upwell(*arguments: object) -> str:
            done = subprocess.run(
                [*PROGRAM, *map(str, arguments)],
                env=ours, capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            return done.stdout

        path = tmp_path / "film.bin"
        path.write_bytes(b"film" * 100_000)
        file = json.loads(upwell("put", path, "--json"))["file"]["id"]
        upwell("pool", "create", "films", "--path", tmp_path / "films")  # the server sees it
        assert upwell("mv", file, "--pool", "films") == f"moved {file} to films\n"
        upwell("get", file, "-o", tmp_path / "back.bin")
        assert (tmp_path / "back.bin").read_bytes() == path.read_bytes()
        upwell("account", "quota", "owner", "1MB")
        assert upwell("quota").splitlines()[-1] == "400.0 kB of 1.0 MB used, 600.0 kB left."
        assert json.loads(upwell("pool", "show", "films", "--json"))["stored_bytes"] == 400_000
        assert "All is well." in upwell("verify")
        assert not server.bugs()
