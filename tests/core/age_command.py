"""Debian's ``age`` command, which asks for a password on its terminal and nowhere else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")

# Runs a command on a terminal of its own, and answers each question for a passphrase. In a
# process of its own: forking one that has threads, as the tests', is not safe.
_ON_A_TERMINAL = r"""
import os, pty, re, sys

password, command = sys.argv[1], sys.argv[2:]
child, terminal = pty.fork()
if child == 0:
    os.execvp(command[0], command)
shown, answered = b"", 0
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    shown += piece
    asked = len(re.findall(rb"passphrase[^:\r\n]*: ?", shown))
    while answered < asked:
        os.write(terminal, password.encode() + b"\n")
        answered += 1
_, status = os.waitpid(child, 0)
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def age(password: str, *arguments: str | Path) -> None:
    """Run it. Raises AssertionError with what it showed when it fails."""
    command = [sys.executable, "-c", _ON_A_TERMINAL, password, "age", *map(str, arguments)]
    run = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
    )
    shown = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", run.stdout + run.stderr)
    assert run.returncode == 0, shown.decode(errors="replace")
