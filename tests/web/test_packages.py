"""The JavaScript packages: their own checks and tests, and what would be published."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
NPM = ["bash", str(ROOT / "scripts" / "npm.sh"), str(VENV)]
PACKAGES = ("client", "uppy")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def npm(*arguments: str) -> str:
    done = subprocess.run(
        [*NPM, *arguments],
        env={**os.environ, "UPWELL": str(Path(sys.executable).with_name("upwell"))},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    """They share node_modules and dist, whichever processes run them."""
    with (ROOT / "web" / "package.json").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (ROOT / "web" / "node_modules" / ".package-lock.json").exists():
            npm("ci")
        yield


def test_types_and_format_of_everything_in_web_are_right() -> None:
    npm("run", "check")


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tests_of_the_package_pass(package: str) -> None:
    if package == "uppy" and not (os.environ.get("CHROMIUM") or shutil.which("chromium")):
        pytest.fail("Chromium is missing. On Debian: sudo apt-get install chromium")
    npm("run", "test", "--workspace", f"packages/{package}")


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_published_is_dist_with_types_and_nothing_else(package: str) -> None:
    shutil.rmtree(ROOT / "web" / "packages" / package / "dist", ignore_errors=True)
    npm("run", "build:packages")
    packed = json.loads(npm("pack", "--dry-run", "--json", "--workspace", f"packages/{package}"))
    (tarball,) = packed if isinstance(packed, list) else packed.values()
    paths = {file["path"] for file in tarball["files"]}
    assert {"dist/index.js", "dist/index.d.ts", "package.json", "README.md"} <= paths
    beside = {path for path in paths if not path.startswith("dist/")}
    assert beside == {"package.json", "README.md"}
    scripts = {path for path in paths if path.endswith(".js")}
    types = {path for path in paths if path.endswith(".d.ts")}
    assert {path.removesuffix(".js") for path in scripts} == {
        path.removesuffix(".d.ts") for path in types
    }
    assert scripts | types | beside == paths
