from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from typer.testing import CliRunner

# The tests of the client and of the command line share one fake server.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.client.fake_server import TOKEN, FakeServer
from upwell.cli import app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typer.testing import Result

PROGRAM = [sys.executable, "-c", "from upwell.cli import main; main()"]


class Run(Protocol):
    def __call__(self, *arguments: str | Path) -> Result: ...


class Start(Protocol):
    def __call__(
        self, *arguments: str | Path, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]: ...


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def environ(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment of its own: nothing of the person who runs the tests is read."""
    for name in [name for name in os.environ if name.startswith("UPWELL_")]:
        monkeypatch.delenv(name)
    ours = {
        "UPWELL_SERVER": server.url,
        "UPWELL_TOKEN": TOKEN,
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    return dict(os.environ) | ours


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    """Run the command line in this process."""

    def invoke(*arguments: str | Path) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def start(environ: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Start the real program; it is killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: str | Path, stderr: int = subprocess.PIPE) -> subprocess.Popen[str]:
        command = [*PROGRAM, *map(str, arguments)]
        process = subprocess.Popen(
            command, env=environ, stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=tmp_path
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()
