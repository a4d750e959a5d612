"""What is measured, and how: processor time, memory, and one run of the load generator.

Processor time and memory are those of a server's whole process tree, read from /proc: the
children that a server has reaped are in its `cutime` and `cstime`.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BENCH = Path(__file__).resolve().parent
BUILD = BENCH / "build"
GIB = 2**30
MIB = 2**20
_TICKS = os.sysconf("SC_CLK_TCK")
_START = time.monotonic()


class BenchError(Exception):
    """A contender did not do its work; no number of this run can be trusted."""


def progress(text: str) -> None:
    """Tell the person who waits what goes on."""
    print(f"[{time.monotonic() - _START:6.0f} s] {text}", file=sys.stderr, flush=True)


# ---- processes -----------------------------------------------------------------------------


def _stat(pid: int) -> list[str]:
    # The name, in parentheses, may hold blanks: the fields are what follows it, from `state`.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(root: int) -> list[int]:
    """Return the process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:  # grows while it is walked
        found.extend(children.get(pid, ()))
    return found


def cpu_seconds(root: int) -> float:
    """Return user and system seconds of the tree, with the children it has reaped."""
    ticks = 0
    for pid in process_tree(root):
        with suppress(OSError):
            ticks += sum(map(int, _stat(pid)[11:15]))
    return ticks / _TICKS


def _memory_field(path: str, field: str) -> int:
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return 0


def peak_resident(root: int) -> int:
    """Return the sum of every process's own peak (VmHWM): an upper bound, pages count twice."""
    return sum(_memory_field(f"/proc/{pid}/status", "VmHWM:") for pid in process_tree(root))


def proportional_memory(root: int) -> int:
    """Return the tree's memory now, with shared pages counted once (sum of Pss)."""
    return sum(_memory_field(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in process_tree(root))


class MemorySampler:
    """Samples the tree's memory every 50 ms while it is entered; keeps the largest sum."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.idle = proportional_memory(root)
        self.peak = self.idle

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self.peak = max(self.peak, proportional_memory(self._root))


def free_port() -> int:
    """Return a port on the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A server as a process group of its own, its output in a log file."""

    def __init__(
        self, command: Sequence[str | Path], folder: Path, env: Mapping[str, str], port: int
    ) -> None:
        self.port = port
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                list(map(str, command)),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=dict(env),
                start_new_session=True,
            )
        self.pid = self._process.pid
        try:
            self._wait_until_ready()
            self._settle()
        except BaseException:
            self.stop()
            raise

    def log_tail(self, lines: int = 40) -> str:
        """Return the end of what the server said."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ask the server to end, and its whole group to die when it does not."""
        if self._process.poll() is None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return True

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"the server did not come up; its log:\n{self.log_tail()}")
            time.sleep(0.05)

    def _settle(self) -> None:
        """Wait until the start is over (imports, workers), so that it is not measured."""
        deadline = time.monotonic() + 10
        before = -1.0
        while (now := cpu_seconds(self.pid)) - before > 0.02 and time.monotonic() < deadline:
            before = now
            time.sleep(0.3)


# ---- the load generator --------------------------------------------------------------------


@dataclass(frozen=True)
class Load:
    """What one run of the load generator saw."""

    seconds: float  # first byte sent to last 200 received, with creation and completion
    final_seconds: float  # the last chunk's 200 to the final answer
    client_cpu: float
    units: int
    received: int  # downloaded bytes
    output: list[str]  # the final answer's body, or the places of tus uploads


def _options(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, list):
            for item in value:
                yield from (flag, str(item))
        elif value is True:
            yield flag
        elif value is not None:
            yield from (flag, str(value))


def call_load(mode: str, **options: object) -> list[str]:
    """Run the load generator in a mode that measures nothing, and return its lines."""
    command = [str(BUILD / "load"), mode, *_options(options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(done.stderr.strip() or f"load {mode} ended with {done.returncode}")
    return done.stdout.splitlines()


def warm_memory(size: int) -> None:
    """Touch more memory than a run of this size needs, and free it again.

    A virtual machine may have given free memory back to its host. The first touch of such a
    page costs more than anything that is measured here, and hits contenders at random.
    """
    free = _memory_field("/proc/meminfo", "MemAvailable:")
    call_load("warm", total=min(size + 2 * GIB, free // 2))


def run_load(mode: str, **options: object) -> Load:
    """Run the load generator against a server, and return what it measured."""
    first, *rest = call_load(mode, **options)
    seen = json.loads(first)
    return Load(
        seconds=seen["seconds"],
        final_seconds=seen["final_seconds"],
        client_cpu=seen["cpu_seconds"],
        units=seen["units"],
        received=seen["received"],
        output=rest,
    )
