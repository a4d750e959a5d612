"""The command line against the real server, as two programs on one machine."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import PROGRAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
MIB = 1 << 20
# Chunk by chunk, each of them synced: there is time to get in the way.
SLOWLY = ("--chunk-size", "64K", "--connections", "1")


class Server:
    """`upwell serve` on a data folder of its own; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        arguments = ["serve", "--data", str(self.folder), "--port", str(self.port)]
        log = (self.folder.parent / "serve.log").open("a")
        with log:
            self.process = subprocess.Popen(
                [*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout
        assert re.search(r"serves", self.process.stdout.readline())

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def token(self) -> str:
        command = [*PROGRAM, "token", "create", "--account", "owner", "--data", str(self.folder)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "data")
    server.start()
    yield server
    server.kill()


class Upwell:
    def __init__(self, server: Server, tmp_path: Path) -> None:
        self._environ = dict(os.environ) | {
            "UPWELL_SERVER": f"http://127.0.0.1:{server.port}",
            "UPWELL_TOKEN": server.token(),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }

    def start(self, *arguments: str | Path, program: list[str] | None = None) -> Any:
        return subprocess.Popen(
            [*(program or PROGRAM), *map(str, arguments)],
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def json(self, *arguments: str | Path) -> list[dict[str, Any]]:
        process = self.start(*arguments, "--json")
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def upwell(real: Server, tmp_path: Path) -> Upwell:
    return Upwell(real, tmp_path)


def random_file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        for start in range(0, size, MIB):
            file.write(os.urandom(min(MIB, size - start)))
    return path


def test_the_address_that_is_printed_answers(real: Server) -> None:
    """A script reads the line and connects; the first answer comes once the server is up."""
    with socket.create_connection(("127.0.0.1", real.port), timeout=60) as client:
        client.sendall(b"GET /health/live HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 200 ")


def test_there_and_back(upwell: Upwell, tmp_path: Path) -> None:
    sizes = [0, 1, 5 * MIB - 1, 5 * MIB, 5 * MIB + 1, 23 * MIB + 7]
    paths = [random_file(tmp_path / f"ö{size}.bin", size) for size in sizes]
    records = upwell.json("put", *paths)
    assert [record["status"] for record in records] == ["uploaded"] * len(sizes)
    again = upwell.json("put", *paths, "--check-first")
    assert [record["status"] for record in again] == ["existing"] * len(sizes)

    (tmp_path / "down").mkdir()
    ids = [record["file"]["id"] for record in records]
    upwell.json("get", *ids, "-o", tmp_path / "down")
    for path in paths:
        assert (tmp_path / "down" / path.name).read_bytes() == path.read_bytes()

    assert {file["id"] for file in upwell.json("ls")} == set(ids)
    upwell.json("rm", *ids)
    assert upwell.json("ls") == []
    assert upwell.json("tasks") == []


def test_a_part_of_a_download_is_continued(upwell: Upwell, tmp_path: Path) -> None:
    path = random_file(tmp_path / "a", 3 * MIB)
    (record,) = upwell.json("put", path)
    (tmp_path / "b.part").write_bytes(path.read_bytes()[:MIB])
    upwell.json("get", record["file"]["id"], "-o", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_the_server_is_killed_and_comes_back(upwell: Upwell, real: Server, tmp_path: Path) -> None:
    path = random_file(tmp_path / "big", 64 * MIB)
    process = upwell.start("put", path, "--json", *SLOWLY)
    started = time.monotonic()
    while not upwell.json("tasks"):
        assert time.monotonic() - started < 30
    real.kill()
    assert process.poll() is None
    time.sleep(1)
    real.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out)["file"]["size"] == 64 * MIB
    assert err.count("connection lost") == 1
    assert len(upwell.json("tasks", "--all")) == 1


def test_ctrl_c_and_resume(upwell: Upwell, tmp_path: Path) -> None:
    path = random_file(tmp_path / "big", 64 * MIB)
    process = upwell.start("put", path, *SLOWLY)
    while not (tasks := upwell.json("tasks")) or not tasks[0]["progress"]:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 130
    (task,) = upwell.json("tasks")
    assert 0 < task["progress"] < 100
    (record,) = upwell.json("put", path)
    assert record["status"] == "uploaded"
    (after,) = upwell.json("tasks", "--all")
    assert after["task_id"] == task["task_id"]


def test_cancel(upwell: Upwell, tmp_path: Path) -> None:
    path = random_file(tmp_path / "big", 64 * MIB)
    process = upwell.start("put", path, *SLOWLY)
    while not (tasks := upwell.json("tasks")):
        assert process.poll() is None
    upwell.json("cancel", tasks[0]["task_id"])
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5, err
    assert upwell.json("tasks") == []
    (record,) = upwell.json("put", path)
    assert record["status"] == "uploaded"


def test_memory_does_not_grow_with_the_file(upwell: Upwell, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 600 * MIB)
    # Not getrusage: its maximum begins with that of the process that started this one.
    code = (
        "import pathlib, re, sys\n"
        "from upwell.cli import main\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "try: main()\n"
        "finally: print(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1], file=sys.stderr)"
    )
    process = upwell.start("put", path, program=[sys.executable, "-c", code])
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert int(err.split()[-1]) < 100 * 1024  # KiB
