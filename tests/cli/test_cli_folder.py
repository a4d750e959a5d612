"""A folder of small files, the real program and the real server: quick, calm, never lost."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.conftest import PROGRAM
from tests.cli.test_cli_real_server import Server
from upwell import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow
FILES = 600


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "data")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(FILES):
        path = folder / f"{number % 5}" / f"{number}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000 + number))
    (folder / "large.bin").write_bytes(os.urandom(3 << 20))
    return folder


@cache
def token_of(server: Server) -> str:
    return server.token()


def environ_of(server: Server, tmp_path: Path) -> dict[str, str]:
    return dict(os.environ) | {
        "UPWELL_SERVER": f"http://127.0.0.1:{server.port}",
        "UPWELL_TOKEN": token_of(server),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


def put(server: Server, tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, "put", *map(str, arguments)],
        env=environ_of(server, tmp_path),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def listed(server: Server, tmp_path: Path) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [*PROGRAM, "ls", "--limit", "100000", "--json"],
        env=environ_of(server, tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({each["name"] for each in found}) == len(found), "a file is there twice"
    return {each["name"]: each for each in found}


def test_a_folder_is_summed_up_and_sent_once(server: Server, tmp_path: Path, folder: Path) -> None:
    """What cannot be read or named on the server fails for itself, and is named at the end."""
    (folder / "gone.bin").symlink_to(folder / "nowhere")
    deep = folder.joinpath(*["d" * 200] * 6)
    deep.mkdir(parents=True)
    (deep / "leaf.bin").write_text("leaf")
    done = put(server, tmp_path, "-r", folder)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    *failures, summary = done.stderr.splitlines()
    assert sorted("gone.bin" in each for each in failures) == [False, True]
    assert any("leaf.bin" in each and "1024" in each for each in failures)
    assert re.match(rf"603 files: {FILES + 1} uploaded \(.* in .*\), 2 failed \(", summary)
    assert "gone.bin" in summary
    assert "/leaf.bin" in summary

    (folder / "gone.bin").unlink()
    shutil.rmtree(folder / ("d" * 200))
    (folder / "new.bin").write_text("new")
    again = put(server, tmp_path, "-r", folder)
    assert again.returncode == 0, again.stderr
    assert re.search(r"602 files: 1 uploaded \(3 bytes in .*\), 601 already there\.", again.stderr)

    files = listed(server, tmp_path)
    assert set(files) == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }


def test_a_server_that_is_killed_again_and_again_gets_every_file_once(
    server: Server, tmp_path: Path, folder: Path
) -> None:
    process = subprocess.Popen(
        [*PROGRAM, "put", "-r", str(folder), "--json"],
        env=environ_of(server, tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(3):
            time.sleep(0.7)  # wherever it is by then
            server.kill()
            server.start()
        out, err = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode == 0, err
    records = [json.loads(line) for line in out.splitlines()]
    assert {record["status"] for record in records} <= {"uploaded", "existing"}
    files = listed(server, tmp_path)
    assert len(files) == len(records) == FILES + 1
    with Client(f"http://127.0.0.1:{server.port}", token_of(server)) as client:
        for path in (folder / "0/0.bin", folder / "4/599.bin", folder / "large.bin"):
            content = io.BytesIO()
            client.download_to(files[path.relative_to(folder).as_posix()]["id"], content)
            assert content.getvalue() == path.read_bytes()


def test_the_base_install_is_enough_for_the_client() -> None:
    """Nothing of the server is imported, and nothing that only the server depends on."""
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in BLOCKED:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "import upwell\n"
        "assert 'upwell.client' not in sys.modules\n"
        "with upwell.Client('http://127.0.0.1:9') as client: pass\n"
        "upwell.AsyncClient, __import__('upwell.cli')\n"
        "assert not [name for name in sys.modules if name in OURS]\n"
    )
    server = (
        "fastapi starlette pydantic sqlalchemy alembic uvicorn uvloop httptools cryptography "
        "multipart structlog xxhash standardwebhooks pure_magic_rs PIL av"
    )
    ours = "upwell.app upwell.core upwell.http upwell.catalog upwell.stores upwell.jobs"
    named = f"BLOCKED = set({server!r}.split())\nOURS = set({ours!r}.split())\n"
    subprocess.run([sys.executable, "-c", named + code], check=True)
