"""How long one client's chunk takes while many others send theirs slowly.

    .venv/bin/python -m bench.slow --connections 0 300 1000 --write

Each slow connection sends 1,400 bytes a second of a chunk of its own, a little more than the server
asks for (1 KiB/s), to one upload. Meanwhile one client creates an upload, sends its chunk of 1,000
bytes and completes it, over and over. The slow senders are a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measure import BENCH, Process, cpu_seconds, free_port, progress, proportional_memory

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

UPWELL = Path(sys.executable).with_name("upwell")
RESULTS = BENCH / "results" / "slow.md"
STEP = 1400  # bytes a second of a slow connection
CHUNK = 1000  # bytes of the quick client's chunk
CREATE = "/api/files/upload/create"


@dataclass(frozen=True)
class Row:
    """What the quick client saw, in milliseconds, and what the server used."""

    connections: int
    create: list[float]
    chunk: list[float]
    complete: list[float]
    cores: float
    threads: int
    descriptors: int
    memory: int

    def line(self) -> str:
        times = " | ".join(_times(each) for each in (self.create, self.chunk, self.complete))
        return (
            f"| {self.connections} | {times} | {self.cores:.2f} | {self.threads} | "
            f"{self.descriptors} | {self.memory >> 20} MiB |"
        )


def _times(seen: list[float]) -> str:
    return f"{statistics.median(seen):.1f} / {statistics.quantiles(seen, n=20)[-1]:.1f}"


class Client:
    """One connection that stays open."""

    def __init__(self, port: int, token: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._headers = {"Authorization": f"Bearer {token}"}

    def call(self, method: str, path: str, body: bytes, kind: str = "") -> bytes:
        headers = self._headers | ({"Content-Type": kind} if kind else {})
        self._connection.request(method, path, body, headers)
        answer = self._connection.getresponse()
        told = answer.read()
        if answer.status not in (200, 204):
            message = f"{method} {path}: {answer.status} {told.decode()}"
            raise RuntimeError(message)
        return told

    def create(self, size: int, chunk_size: int = 1 << 16) -> str:
        asked = {"file_name": "a", "file_size": size, "chunk_size": chunk_size}
        told = self.call("POST", CREATE, json.dumps(asked).encode(), "application/json")
        return str(json.loads(told)["task_id"])


def slow_senders(
    port: int, token: str, task: str, connections: int, size: int, begun: Event, end: Event
) -> None:
    """Send a chunk of the upload on each connection, a piece a second."""

    async def send(number: int) -> None:
        await asyncio.sleep(number / connections)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = f"PUT /api/files/upload/chunk/{task}/{number} HTTP/1.1\r\nHost: a\r\n"
        head += f"Authorization: Bearer {token}\r\nContent-Length: {size}\r\n\r\n"
        writer.write(head.encode())
        for _ in range(size // STEP - 1):
            if end.is_set():
                break
            writer.write(bytes(STEP))
            await asyncio.sleep(1)
        writer.close()

    async def run() -> None:
        sending = [asyncio.create_task(send(each)) for each in range(connections)]
        await asyncio.sleep(3)
        begun.set()
        await asyncio.gather(*sending)

    _allow_many_files()
    asyncio.run(run())


def _allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(server: Process, token: str, connections: int, seconds: float) -> Row:
    """One row: ``seconds`` of the quick client beside so many slow connections."""
    client = Client(server.port, token)
    size = int(seconds + 60) * STEP
    slow = client.create(connections * size, size) if connections else ""
    context = multiprocessing.get_context("spawn")
    begun, end = context.Event(), context.Event()
    arguments = (server.port, token, slow, connections, size, begun, end)
    senders = context.Process(target=slow_senders, args=arguments)
    if slow:
        senders.start()
        begun.wait()
    took: dict[str, list[float]] = {"create": [], "chunk": [], "complete": []}
    before, began = cpu_seconds(server.pid), time.monotonic()
    while time.monotonic() < began + seconds:
        _probe(client, took)
        time.sleep(0.02)
    cores = (cpu_seconds(server.pid) - before) / (time.monotonic() - began)
    folder = Path(f"/proc/{server.pid}")
    threads, descriptors = (len(list((folder / name).iterdir())) for name in ("task", "fd"))
    row = Row(connections, **took, cores=cores, threads=threads, descriptors=descriptors,
              memory=proportional_memory(server.pid))  # fmt: skip
    end.set()
    if slow:
        senders.join()
        client.call("DELETE", f"/api/files/upload/{slow}", b"")
    return row


def _probe(client: Client, took: dict[str, list[float]]) -> None:
    def timed(what: str, call: Any, *args: Any) -> Any:
        began = time.perf_counter()
        result = call(*args)
        took[what].append(1000 * (time.perf_counter() - began))
        return result

    task = timed("create", client.create, CHUNK)
    chunk = f"/api/files/upload/chunk/{task}/0"
    timed("chunk", client.call, "PUT", chunk, os.urandom(CHUNK))
    timed("complete", client.call, "POST", f"/api/files/upload/complete/{task}", b"")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, nargs="+", default=[0, 300, 1000])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--upwell", type=Path, default=UPWELL, help="another version's command")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    _allow_many_files()
    with tempfile.TemporaryDirectory(prefix="upwell-slow-") as name:
        folder, port = Path(name), free_port()
        command = [options.upwell, "serve", "--data", folder / "data", "--port", str(port)]
        server = Process(command, folder, os.environ, port)
        try:
            make = [options.upwell, "token", "create", "--account", "owner", "--data"]
            token = subprocess.check_output([*make, folder / "data"], text=True).strip()
            rows = []
            for count in options.connections:
                rows.append(measure(server, token, count, options.seconds))
                progress(rows[-1].line())
        finally:
            server.stop()
    table = _table(rows)
    print(table)
    if options.write:
        RESULTS.write_text(table)


def _table(rows: list[Row]) -> str:
    machine = (
        f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"
    )
    when = time.strftime("%Y-%m-%d")
    columns = ["slow connections", "create", "chunk", "complete"]
    columns += ["server cores", "threads", "descriptors", "memory"]
    lines = [
        "# A quick client beside slow ones",
        "",
        f"`python -m bench.slow`, {when}, {machine}.",
        f"A slow connection sends {STEP} bytes a second. Milliseconds, median / 95th percentile.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(row.line() for row in rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
