from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from upwell.cli.exits import HELP, ExitCode

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def test_the_command_line_starts_without_heavy_modules() -> None:
    """What makes `upwell --help` slow is loaded by the command that needs it."""
    code = "import sys, upwell.cli; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"httpx2", "fastapi", "sqlalchemy", "pydantic", "rich.progress", "uvicorn"}
    assert heavy.isdisjoint(loaded)


def test_version(run: Run) -> None:
    assert run("--version").stdout == f"upwell {version('upwell')}\n"


@pytest.mark.parametrize("command", ["put", "get", "ls", "rm", "tasks", "cancel"])
def test_help_teaches_the_exit_codes(command: str, run: Run) -> None:
    text = run(command, "--help").output
    assert "130 interrupted" in " ".join(text.replace("│", " ").split())
    # Square brackets would be taken for markup and vanish.
    assert "env: UPWELL_SERVER" in " ".join(text.replace("│", " ").split())


def test_every_exit_code_is_documented() -> None:
    assert all(f"{code.value} " in HELP for code in ExitCode)
