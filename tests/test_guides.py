"""The guides' commands do what the guides say."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.guides import ROOT, commands, run
from tests.harness import UPWELL, Server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_the_curl_guide_runs_as_printed(tmp_path: Path) -> None:
    with Server(tmp_path / "data") as server:
        run("docs/curl.md", tmp_path, server.port, {}, UPWELL_TOKEN=server.api().token)
        assert {file["name"] for file in server.api().files()} == {
            "holiday.bin",
            "diary.bin",
            "notes.txt",
        }


def test_the_team_guide_runs_as_printed(tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    places = {
        "/srv/upwell": str(tmp_path / "data"),
        "/mnt/pictures": str(tmp_path / "mnt/pictures"),
    }
    with Server(tmp_path / "data") as server:
        printed = run("docs/team.md", tmp_path, server.port, places)
        assert f"http://127.0.0.1:{server.port}/s/" in printed
    assert (tmp_path / "mnt/pictures/blobs").is_dir()


def test_the_quickstart_runs_as_printed(tmp_path: Path) -> None:
    port = free_port()
    serve = {"upwell serve": f"upwell serve --port {port}"}
    printed = run(
        "docs/quickstart.md", tmp_path, port, serve, UPWELL_SERVER=f"http://127.0.0.1:{port}"
    )
    assert "holiday.mp4" in printed
    assert "/login?code=" in (tmp_path / "guide.log").read_text()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_units_command_serves(tmp_path: Path) -> None:
    """What systemd would run, on other places."""
    unit = re.findall(r"^ExecStart=(.*)$", (ROOT / "docs/quickstart.md").read_text(), re.MULTILINE)
    places = {"/opt/upwell/bin/upwell": UPWELL, "/srv/upwell": str(tmp_path / "data")}
    command = [places.get(word, word) for word in shlex.split(unit[0])]
    log = tmp_path / "log"
    with log.open("wb") as out:
        server = subprocess.Popen([*command, "--port", "0"], stdout=out, stderr=out)
    try:
        until = time.monotonic() + 60
        while "Log a browser in" not in log.read_text():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)
    finally:
        server.terminate()
        assert server.wait(30) in (0, -signal.SIGTERM)


@pytest.mark.parametrize("page", ["docs/curl.md", "docs/team.md", "docs/quickstart.md"])
def test_a_guide_has_commands(page: str) -> None:
    """A page whose blocks are not found would pass by running nothing."""
    assert len(list(commands(page))) >= 4
