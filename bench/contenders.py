"""The servers that are compared: how each is started, fed, and checked afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from .measure import (
    BENCH,
    BUILD,
    BenchError,
    Load,
    Process,
    call_load,
    free_port,
    progress,
    run_load,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 5 * 2**20
WRITTEN = "written: no sync, no hash"
PEERS = BUILD / "venv" / "bin"
HERE = Path(sys.executable).parent  # Upwell's own environment


@dataclass(frozen=True)
class Plan:
    """One upload: how much, over how many connections."""

    total: int
    connections: int = 4


@cache
def content_digest(total: int) -> str:
    """Return the SHA-256 of the generator's content of this size."""
    return call_load("digest", total=total)[0]


def _say(*command: str | Path) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return (done.stdout + done.stderr).strip()


@cache
def _peer_version(package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return f"{package} {_say(PEERS / 'python', '-c', code)}"


class Contender:
    """A server under test, running from `started` until its block ends.

    A subclass says how it is started, how a file is uploaded and how the stored bytes are
    compared with the generator's.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    keeps: ClassVar[str]  # what its 200 promises, for the table
    process: Process
    folder: Path

    def version(self) -> str:
        """Name the software and its version."""
        raise NotImplementedError

    def command(self, port: int, plan: Plan) -> list[str | Path]:
        """Return the command that starts the server; `folder` exists and is empty."""
        raise NotImplementedError

    def upload(self, plan: Plan) -> Load:
        """Upload the content."""
        raise NotImplementedError

    def verify(self, plan: Plan, load: Load) -> None:
        """Compare every stored byte with what was sent."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Do what the server needs once it answers."""

    @property
    def files(self) -> Path:
        """The folder that the server stores to."""
        return self.folder / "files"

    @contextmanager
    def started(self, parent: Path, plan: Plan) -> Iterator[Contender]:
        """Run the server on a fresh folder; whatever fails in the block shows the log's end."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-", dir=parent))
        try:
            for name in ("files", "temp", "home"):
                (self.folder / name).mkdir()
            port = free_port()
            self.process = Process(self.command(port, plan), self.folder, self._env(), port)
            try:
                self.prepare()
                yield self
            except BenchError as error:
                log = self.process.log_tail()
                raise BenchError(f"{self.name}: {error}\nIts log ends with:\n{log}") from error
            finally:
                self.process.stop()
        finally:
            shutil.rmtree(self.folder)
            os.sync()  # what one contender left to write must not slow the next one down

    def _env(self) -> dict[str, str]:
        keep = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        folders = {"HOME": self.folder / "home", "TMPDIR": self.folder / "temp"}
        return {
            **keep,
            **{key: str(value) for key, value in folders.items()},
            "BENCH_DIR": str(self.files),
        }

    def _load(self, mode: str, plan: Plan, **options: object) -> Load:
        return run_load(
            mode,
            port=self.process.port,
            total=plan.total,
            connections=plan.connections,
            chunk=CHUNK,
            **options,
        )

    def _verify_whole(self, path: Path, plan: Plan) -> None:
        call_load("verify", path=path, total=plan.total, chunk=CHUNK)

    def _verify_pieces(self, plan: Plan) -> None:
        for index, start in enumerate(range(0, plan.total, CHUNK)):
            size = min(CHUNK, plan.total - start)
            call_load("verify", path=self.files / str(index), first=index, total=size, chunk=CHUNK)


class CFloor(Contender):
    """The C program of floor.c: synced chunks, and the whole file's SHA-256."""

    name = "c-floor"
    title = "C floor"
    keeps = "synced, SHA-256 known"
    mode = ("sync", "hash")

    def version(self) -> str:
        return _say("gcc", "--version").splitlines()[0]

    def command(self, port: int, plan: Plan) -> list[str | Path]:
        numbers = [str(plan.total), str(CHUNK)]
        return [BUILD / "floor", str(port), self.files / "whole", *numbers, *self.mode]

    def upload(self, plan: Plan) -> Load:
        return self._load("post", plan, path="/chunk/", final="GET /digest")

    def verify(self, plan: Plan, load: Load) -> None:
        self._verify_whole(self.files / "whole", plan)
        if "hash" in self.mode and load.output[0] != content_digest(plan.total):
            raise BenchError(f"the digest is wrong: {load.output[0]}")


class CWrite(CFloor):
    """The same program without sync and hash: what the machine can do at all."""

    name = "c-write"
    title = "C, write only"
    keeps = WRITTEN
    mode = ("nosync", "nohash")


class Nginx(Contender):
    """nginx with its WebDAV module: each chunk is a file of its own."""

    name = "nginx"
    title = "nginx `PUT`, a file per chunk"
    keeps = WRITTEN
    unpacked = BUILD / "nginx" / "usr" / "sbin" / "nginx"

    @property
    def program(self) -> Path:
        """The unpacked nginx, or the one that is installed."""
        if self.unpacked.exists():
            return self.unpacked
        return Path(shutil.which("nginx") or "/usr/sbin/nginx")

    def version(self) -> str:
        return _say(self.program, "-v").removeprefix("nginx version: ")

    def command(self, port: int, plan: Plan) -> list[str | Path]:  # noqa: ARG002
        text = (BENCH / "nginx.conf").read_text()
        config = self.folder / "nginx.conf"
        config.write_text(text.replace("@root@", str(self.folder)).replace("@port@", str(port)))
        if os.getuid() == 0:  # its workers give root up; the folder is fresh and ours
            config.write_text("user root;\n" + config.read_text())
        return [self.program, "-p", self.folder, "-c", config, "-e", "stderr"]

    def upload(self, plan: Plan) -> Load:
        return self._load("put", plan, path="/")

    def verify(self, plan: Plan, load: Load) -> None:  # noqa: ARG002
        self._verify_pieces(plan)


class FastAPIUploadFile(Contender):
    """The textbook FastAPI handler of fastapi_app.py, one uvicorn process."""

    name = "fastapi"
    title = "FastAPI `UploadFile`"
    keeps = WRITTEN

    def version(self) -> str:
        packages = ("fastapi", "uvicorn", "python-multipart")
        return ", ".join(map(_peer_version, packages))

    def command(self, port: int, plan: Plan) -> list[str | Path]:  # noqa: ARG002
        return _uvicorn("fastapi_app:app", port)

    def upload(self, plan: Plan) -> Load:
        return self._load("post", plan, path="/chunk/")

    def verify(self, plan: Plan, load: Load) -> None:  # noqa: ARG002
        self._verify_whole(self.files / "whole", plan)


def _uvicorn(app: str, port: int) -> list[str | Path]:
    where = ["--host", "127.0.0.1", "--port", str(port), "--app-dir", str(BENCH)]
    return [PEERS / "uvicorn", app, *where, "--no-access-log", "--log-level", "warning"]


class TusNode(Contender):
    """@tus/server with @tus/file-store: one upload per connection, PATCHes of a chunk."""

    name = "tus-node"
    title = "@tus/server, an upload per connection"
    keeps = WRITTEN

    def version(self) -> str:
        found = [
            f"@tus/{name} {json.loads(path.read_text())['version']}"
            for name in ("server", "file-store")
            for path in [BENCH / "node_modules" / "@tus" / name / "package.json"]
        ]
        return ", ".join([*found, f"node {_say('node', '--version')}"])

    def command(self, port: int, plan: Plan) -> list[str | Path]:  # noqa: ARG002
        return ["node", BENCH / "tus_server.mjs", str(port), self.files]

    def upload(self, plan: Plan) -> Load:
        return self._load("tus", plan, path="/files")

    def verify(self, plan: Plan, load: Load) -> None:  # noqa: ARG002
        for line in load.output:
            first, size, place = line.split()
            path = self.files / Path(place).name
            call_load("verify", path=path, first=first, total=size, chunk=CHUNK)


class Tuspyserver(TusNode):
    """tuspyserver under one uvicorn process."""

    name = "tuspyserver"
    title = "tuspyserver, an upload per connection"

    def version(self) -> str:
        return ", ".join(map(_peer_version, ("tuspyserver", "uvicorn")))

    def command(self, port: int, plan: Plan) -> list[str | Path]:  # noqa: ARG002
        return _uvicorn("tuspy_app:app", port)


class Copyparty(Contender):
    """copyparty by HTTP PUT, its checksum turned off: its cheapest documented way."""

    name = "copyparty"
    title = "copyparty `PUT`, a file per chunk"
    keeps = WRITTEN

    def version(self) -> str:
        return _peer_version("copyparty")

    def command(self, port: int, plan: Plan) -> list[str | Path]:  # noqa: ARG002
        where = ["-i", "127.0.0.1", "-p", str(port), "--http-only", "-v", f"{self.files}::rw"]
        return [PEERS / "copyparty", "-q", "--put-ck", "no", *where]

    def upload(self, plan: Plan) -> Load:
        return self._load("put", plan, path="/")

    def verify(self, plan: Plan, load: Load) -> None:  # noqa: ARG002
        self._verify_pieces(plan)


class Upwell(Contender):
    """Upwell with its defaults: every chunk durable, the file verified by its SHA-256."""

    name = "upwell"
    title = "**Upwell**"
    keeps = "synced, SHA-256 verified"
    arguments: ClassVar[list[str]] = []
    wishes: ClassVar[dict[str, str]] = {}
    programs: ClassVar[Path] = HERE
    token = ""

    def version(self) -> str:
        try:
            return f"upwell {version('upwell')}"
        except PackageNotFoundError:
            return "upwell, not installed"

    def command(self, port: int, plan: Plan) -> list[str | Path]:  # noqa: ARG002
        where = ["--host", "127.0.0.1", "--port", str(port), "--data", str(self.files)]
        return [self.programs / "upwell", "serve", *where, *self.arguments]

    def prepare(self) -> None:
        make: list[str | Path] = [
            self.programs / "upwell",
            "token",
            "create",
            "--account",
            "owner",
            "--data",
            self.files,
        ]
        made = subprocess.run(make, capture_output=True, text=True, check=False, env=self._env())
        if made.returncode != 0:
            raise BenchError(f"no token could be made: {made.stderr.strip()}")
        self.token = made.stdout.strip()

    @property
    def header(self) -> str:
        """The header that tells who is calling."""
        return f"Authorization: Bearer {self.token}"

    def upload(self, plan: Plan) -> Load:
        wish = {
            "hash": content_digest(plan.total),
            "file_name": "bench.bin",
            "file_size": plan.total,
            "content_type": "application/x-bench",
            "chunk_size": CHUNK,
            **self.wishes,
        }
        return self._load(
            "post",
            plan,
            header=self.header,
            create="/api/files/upload/create",
            create_body=json.dumps(wish),
            path="/api/files/upload/chunk/{task_id}/",
            final="POST /api/files/upload/complete/{task_id}",
        )

    def verify(self, plan: Plan, load: Load) -> None:
        got = run_load(
            "get",
            port=self.process.port,
            path=self.path_of(load),
            header=self.header,
            chunk=CHUNK,
            verify=True,
        )
        if got.received != plan.total:
            raise BenchError(f"{got.received} bytes came back of {plan.total}")

    def path_of(self, load: Load) -> str:
        """Return the URL path of the file that an upload has made."""
        return f"/api/files/{json.loads(load.output[0])['id']}"


class UpwellBefore(Upwell):
    """Upwell at an earlier commit, in an environment of its own: has the hot path got slower?"""

    name = "upwell-before"
    title = "**Upwell**, before"
    commit: ClassVar[str] = ""

    def version(self) -> str:
        return f"upwell at commit {self.commit}"

    @classmethod
    def install(cls, revision: str) -> None:
        """Build it as it was at ``revision``. Raises BenchError."""
        try:
            cls.commit = _say("git", "rev-parse", "--short", f"{revision}^{{commit}}")
            tree = BUILD / "before" / cls.commit
            cls.programs = tree / ".venv" / "bin"
            if not (tree / ".venv" / ".installed").exists():
                progress(f"building Upwell as it was at {cls.commit}")
                tree.mkdir(parents=True, exist_ok=True)
                packed = tree.with_suffix(".tar")
                _say("git", "archive", "--output", packed, cls.commit)
                _say("tar", "-xf", packed, "-C", tree)
                _say("env", "-C", tree, "scripts/venv.sh", sys.executable, ".venv")
        except subprocess.CalledProcessError as error:
            raise BenchError(f"{revision} cannot be built: {error.stderr.strip()}") from error


class UpwellTwo(Upwell):
    """Upwell with two worker processes."""

    name = "upwell-2"
    title = "**Upwell**, `--workers 2`"
    arguments: ClassVar[list[str]] = ["--workers", "2"]


class UpwellSealed(Upwell):
    """Upwell with ``encrypt_password``: what is stored is an age file."""

    name = "upwell-sealed"
    title = "**Upwell**, encrypted"
    keeps = "synced, SHA-256 verified, sealed (age)"
    wishes: ClassVar[dict[str, str]] = {"encrypt_password": "bench"}

    @property
    def header(self) -> str:
        return f"{super().header}\r\nX-Encrypt-Password: bench"


ALL: tuple[type[Contender], ...] = (
    CWrite,
    CFloor,
    Upwell,
    UpwellTwo,
    UpwellSealed,
    Nginx,
    Copyparty,
    FastAPIUploadFile,
    TusNode,
    Tuspyserver,
)
