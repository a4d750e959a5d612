"""The README's three calls run as printed."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness import Server

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_three_calls_of_the_readme_run_as_printed(tmp_path: Path) -> None:
    marked = re.search(
        r"test_readme\.py runs this block -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL
    )
    assert marked, "the README's block of calls is gone"
    with Server(tmp_path / "data") as server:
        script = marked[1].replace("http://127.0.0.1:8420", f"http://127.0.0.1:{server.port}")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env={**os.environ, "UPWELL_TOKEN": server.api().token},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        file = json.loads(done.stdout)
        assert file["name"] == "example.bin"
        assert server.api().download(file["id"]) == (tmp_path / "example.bin").read_bytes()
