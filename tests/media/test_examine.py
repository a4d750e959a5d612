"""The server's side: whatever the worker does, the answer is bounded, and nothing stays."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING

import pytest

from upwell.media.answer import LARGEST_ANSWER
from upwell.media.examine import Examiner, available, wants
from upwell.media.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from upwell.media.facts import Examined

pytestmark = pytest.mark.slow

if not available():
    pytest.skip("needs the extra media", allow_module_level=True)

SAY = """
import json, os, struct, sys, time
def say(kind, payload):
    os.write(1, struct.pack(">cI", kind, len(payload)) + payload)
say(b"f", json.dumps({"kind": "image", "width": 3}).encode())
"""


def ask(script: str, timeout: float = 20.0) -> Examined | None:
    examiner = Examiner(timeout=timeout, command=[sys.executable, "-I", "-c", SAY + script])
    with tempfile.TemporaryFile() as file:
        return examiner.examine(file.fileno(), "image/png")


def running(marker: str) -> list[str]:
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208
        try:
            with open(f"/proc/{process}/cmdline", "rb") as file:  # noqa: PTH123
                command = file.read()
        except OSError:
            continue
        if marker.encode() in command:
            found.append(process)
    return found


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_types_worth_a_process() -> None:
    for mime_type in (
        "image/jpeg", "IMAGE/PNG", "image/unknown", "video/mp4; codecs=x", "audio/ogg",
        "application/ogg", "video/x-matroska",
    ):  # fmt: skip
        assert wants(mime_type)
    for mime_type in (
        "", "image", "text/html", "image/svg+xml", "Image/SVG+XML; charset=x", "application/pdf",
        "application/vnd.apple.mpegurl", "audio/x-mpegurl", "application/octet-stream", "x\x00/\n",
    ):  # fmt: skip
        assert not wants(mime_type) or mime_type == "image"
    assert available()


def test_other_types_cost_no_process() -> None:
    examiner = Examiner(command=["/nonexistent"])
    assert examiner.examine(-1, "image/svg+xml") is None


def test_what_was_said_before_a_worker_died_counts() -> None:
    for end in (
        "os.kill(os.getpid(), 9)", "os.abort()", "raise SystemExit(3)", "x = b'x' * 2**62",
        "os.write(1, struct.pack('>cI', b't', 99) + b'RIFF'); os._exit(0)",
    ):  # fmt: skip
        found = ask(end)
        assert found
        assert found.facts == {"kind": "image", "width": 3}
        assert found.thumbnail is None


def test_a_worker_that_hangs_is_ended_with_its_children() -> None:
    marker = f"upwell-hangs-{os.getpid()}"
    script = f"import subprocess; subprocess.Popen(['sleep', '77']); time.sleep(99) # {marker}"
    begun = time.monotonic()
    found = ask(script, timeout=0.5)
    assert time.monotonic() - begun < 30
    assert found
    assert found.facts["width"] == 3
    assert within(30, lambda: not running(marker))


def test_a_child_that_holds_the_pipe_does_not_hold_the_server() -> None:
    begun = time.monotonic()
    assert ask("import subprocess; subprocess.Popen(['sleep', '77'])", timeout=0.5)
    assert time.monotonic() - begun < 30


def test_a_worker_that_floods_is_ended() -> None:
    begun = time.monotonic()
    assert ask("while True: os.write(1, bytes(65536))") is None
    assert ask("while True: say(b'f', b'{\"kind\": \"image\"}')") is None
    assert time.monotonic() - begun < 60
    assert LARGEST_ANSWER < 10 * 1024 * 1024


def test_nonsense_is_no_answer() -> None:
    assert ask("os.write(1, b'Traceback (most recent call last)')") is None
    assert ask("say(b'f', b'[' * 9999)") is None
    assert ask("say(b't', b'<html>')") is None


def test_the_worker_inherits_nothing_of_the_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UPWELL_SECRET", "s3cret")
    with (tmp_path / "other").open("w") as other:
        os.set_inheritable(other.fileno(), True)
        found = ask(
            "say(b'f', json.dumps({'kind': 'image', 'exif': {'make': ' '.join(os.environ), "
            "'model': ' '.join(os.listdir('/proc/self/fd')), 'lens': os.getcwd()}}).encode())"
        )
    assert found
    known = found.facts["exif"]
    assert isinstance(known, dict)
    assert set(str(known["make"]).split()) <= {
        "PATH", "LC_ALL", "LC_CTYPE", "MALLOC_ARENA_MAX", "LD_LIBRARY_PATH",
    }  # fmt: skip
    assert known["model"] == "0 1 2 3"  # 3 is the listing itself
    assert known["lens"] == "/"


def test_one_worker_at_once() -> None:
    begun = time.monotonic()
    examiner = Examiner(command=[sys.executable, "-I", "-S", "-c", "import time; time.sleep(0.2)"])
    with tempfile.TemporaryFile() as file:
        threads = [
            threading.Thread(target=examiner.examine, args=(file.fileno(), "image/png"))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert time.monotonic() - begun >= 0.8


def test_close_ends_what_runs() -> None:
    examiner = Examiner(command=[sys.executable, "-I", "-S", "-c", "import time; time.sleep(99)"])
    with tempfile.TemporaryFile() as file:
        asking = threading.Thread(target=examiner.examine, args=(file.fileno(), "image/png"))
        asking.start()
        assert within(30, lambda: bool(examiner._running))
        examiner.close()
        asking.join(30)
        assert not asking.is_alive()
        assert examiner.examine(file.fileno(), "image/png") is None


def test_a_worker_that_cannot_start_is_the_servers_trouble() -> None:
    examiner = Examiner(command=["/nonexistent"])
    with tempfile.TemporaryFile() as file, pytest.raises(OSError, match="nonexistent"):
        examiner.examine(file.fileno(), "image/png")


def test_nothing_stays_open() -> None:
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    ask("")
    ask("time.sleep(9)", timeout=0.2)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_a_source_reads_as_a_file_does() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(bytes(range(100)))
        file.flush()
        source = Source(file.fileno())
        assert source.read(3) == b"\x00\x01\x02"
        assert source.seek(-2, os.SEEK_END) == 98
        assert source.read() == b"bc"
        assert source.seek(2**70) == 2**70
        assert source.read(1) == b""
        source.seek(5)
        assert (source.seek(2, os.SEEK_CUR), source.read(1)) == (7, b"\x07")
        with pytest.raises(OSError, match="beginning"):
            source.seek(-1)
        source.seek(0)
        source._budget = 10
        assert source.read() == bytes(range(10))
