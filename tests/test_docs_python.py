"""The guide for Python: its code runs as it stands, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import Server, token_of
from upwell.client import client as module

GUIDE = Path(__file__).parents[1] / "docs" / "python.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    assert len(BLOCKS) > 8
    place = tmp_path / "place"
    place.mkdir()
    with Server(tmp_path / "data") as server:
        environ = dict(os.environ) | {
            "UPWELL_SERVER": f"http://127.0.0.1:{server.port}",
            "UPWELL_TOKEN": token_of(server.data),
        }
        command = [sys.executable, "-W", "error", "-c", "\n".join(BLOCKS)]
        done = subprocess.run(
            command,
            cwd=place,
            env=environ,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "404 FILE_NOT_FOUND" in done.stdout
        assert (place / "Summer.zip").exists()
        assert not server.bugs()


def test_the_guide_names_every_verb() -> None:
    text = GUIDE.read_text()
    rows = dict(re.findall(r"^\| `client\.(\w+)` \| (.*) \|$", text, re.MULTILINE))
    for name in ("Files", "Uploads", "Bundles", "Pools", "Webhooks"):
        verbs = {verb for verb in vars(getattr(module, name)) if not verb.startswith("_")}
        assert set(re.findall(r"`(\w+)`", rows[name.lower()])) == verbs
