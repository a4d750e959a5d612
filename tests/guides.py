"""The shell commands of a document, run as printed.

Every ``sh`` block of a page runs, in order, in one shell; a comment in front of one says why it
does not (``not run: …``), or that it is to go on in the background (``runs on``).
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[1]
ADDRESS = "127.0.0.1:8420"  # what documents say
_BLOCK = re.compile(
    r"(?:^<!-- (?P<note>[^>]*) -->\n)?^```sh\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)
_READY = f"curl -sS --retry 60 --retry-delay 1 --retry-connrefused -o guide.ready http://{ADDRESS}/health/ready\n"


def commands(page: str) -> Iterator[str]:
    """The blocks of the page that run."""
    for each in _BLOCK.finditer((ROOT / page).read_text()):
        note, text = each["note"] or "", each["text"]
        if note == "runs on":
            yield f"{text.rstrip()} > guide.log 2>&1 &\n{_READY}"
        elif not note.startswith("not run: "):
            yield text


def run(page: str, folder: Path, port: int, swaps: Mapping[str, str], **environment: str) -> str:
    """Run a page's commands in a folder, against the server on this port; what they print."""
    script = "\n".join(commands(page))
    for old, new in {ADDRESS: f"127.0.0.1:{port}", **swaps}.items():
        assert old in script, f"{page} has no {old!r} any more"
        script = script.replace(old, new)
    own = {key: value for key, value in os.environ.items() if not key.startswith("UPWELL_")}
    own |= {"HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{own['PATH']}"}
    done = subprocess.run(
        [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            f"trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n{script}",
        ],
        cwd=folder,
        env=own | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
