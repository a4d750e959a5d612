"""The OpenAPI description against the server, by Schemathesis: every phase and check.

The environment makes a longer or another run::

    export UPWELL_FUZZ_EXAMPLES=5000 UPWELL_FUZZ_SECONDS=3600 UPWELL_FUZZ_SEED=$RANDOM
    pytest tests/api/test_schemathesis.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.api.world import World

EXAMPLES = os.environ.get("UPWELL_FUZZ_EXAMPLES", "200")
SECONDS = os.environ.get("UPWELL_FUZZ_SECONDS", "75")  # for each of two parts
SEED = os.environ.get("UPWELL_FUZZ_SEED", "1")


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", ["^/api/files", "^/health", "^/drive/files"])
def test_the_description_is_true(world: World, part: str, tmp_path: Path) -> None:
    token = world.token("fuzzed")
    few = "20" if "drive" in part else EXAMPLES  # the same routes again, under their alias
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={Path(__file__).with_name('schemathesis.toml')}",
        "run",
        f"{world.url}/openapi.json",
        f"--include-path-regex={part}",
        "--phases=examples,coverage,fuzzing,stateful",
        "--checks=all",
        "--request-timeout=10",
        f"--max-time={SECONDS}",
        f"--max-examples={few}",
        f"--seed={SEED}",
        "--generation-database=none",
        "--suppress-health-check=all",
        f"--header=Authorization: Bearer {token}",
        "--no-color",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr
