"""What `upwell put` makes of slow, lossy and breaking lines: prints a table.

    sudo .venv/bin/python -m bench.networks --output bench/results/networks.md

Client and server are in network namespaces of their own (so it needs root). Between them, each
packet passes through this program, which has a line's rate, queue, delay and loss for it; all
else is the kernel's TCP. What a line is like stands in LINES.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import platform
import random
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

UPWELL = str(Path(sys.executable).with_name("upwell"))
SERVER, CLIENT = "10.213.0.1", "10.213.0.2"
PORT = 8420
MB = 1_000_000
QUEUE_SECONDS = 0.1  # of packets that a line's sending side holds before it drops some
QUEUE_LEAST = 64 * 1500  # bytes
LIMIT = 6  # times what the line alone would take: then it is given up
OUTAGE = 2.0  # seconds in which nothing passes after a cut
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


@dataclass(frozen=True)
class Line:
    """``down`` and ``up`` are MBit/s of IP packets, ``rtt`` seconds, ``loss`` a part of the
    packets of each direction, ``size`` bytes to send, ``cut_every`` seconds."""

    name: str
    down: float
    up: float
    rtt: float
    loss: float
    size: int
    mtu: int = 1500
    cut_every: float = 0.0
    varied: bool = False  # other chunk sizes and connections too


LTE = Line("LTE", 20, 10, 0.050, 0.005, 40 * MB, varied=True)
LINES = [
    Line("fibre", 1000, 1000, 0.005, 0, 1000 * MB, mtu=9000),
    Line("cable", 100, 40, 0.015, 0, 80 * MB),
    Line("DSL", 16, 2.4, 0.030, 0, 6 * MB),
    LTE,
    Line("hotel Wi-Fi", 2, 2, 0.080, 0.02, 8 * MB, varied=True),
    Line("satellite", 20, 3, 0.600, 0, 10 * MB, varied=True),
    replace(LTE, name="LTE, cut every 20 s", cut_every=20.0),
]
CHOICES = [("1M", 4), ("1M", 8), ("5M", 1), ("5M", 4), ("16M", 4)]
USUAL = ("5M", 4)  # what `upwell put` does when nothing is said


class Direction:
    """One direction of a line: takes packets from one end, gives them to the other in time."""

    def __init__(self, source: int, sink: int, mbits: float, line: Line) -> None:
        self.source = source
        self._sink = sink
        self._rate = mbits * 1e6 / 8
        self._line = line
        self._room = max(QUEUE_LEAST, QUEUE_SECONDS * self._rate)
        self._free_at = 0.0  # when the sending side has sent what it holds
        self._under_way: deque[tuple[float, bytes]] = deque()
        self.heard: dict[bytes, int] = {}  # by connection: bytes of its stream so far
        self._first: dict[bytes, int] = {}
        self.began = 0.0

    def take(self, now: float, *, dead: bool) -> None:
        packet = os.read(self.source, 65536)
        self._count(packet)
        waiting = max(0.0, self._free_at - now)
        if dead or waiting * self._rate > self._room:
            return
        self._free_at = now + waiting + len(packet) / self._rate
        if random.random() >= self._line.loss:
            self._under_way.append((self._free_at + self._line.rtt / 2, packet))

    def give(self, now: float) -> float:
        """Deliver what is due; when the next packet is."""
        while self._under_way and self._under_way[0][0] <= now:
            os.write(self._sink, self._under_way.popleft()[1])
        return self._under_way[0][0] if self._under_way else now + 0.05

    def _count(self, packet: bytes) -> None:
        """How far each TCP stream got: what TCP itself sends again does not count."""
        if packet[0] >> 4 != 4 or packet[9] != 6:
            return
        at = (packet[0] & 15) * 4
        ports, sequence = packet[at : at + 4], int.from_bytes(packet[at + 4 : at + 8])
        if packet[at + 13] & 2:  # SYN
            self._first[ports] = sequence + 1
            self.began = self.began or time.monotonic()
        length = len(packet) - at - (packet[at + 12] >> 4) * 4
        if length and ports in self._first:
            end = (sequence + length - self._first[ports]) % 2**32
            self.heard[ports] = max(self.heard.get(ports, 0), end)


@dataclass
class Emulator:
    """The line between two namespaces, while the context lasts."""

    line: Line
    cuts: int = 0
    sent: int = 0  # bytes of all TCP streams of the client
    began: float = 0.0  # when it first connected
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        with ExitStack() as stack:
            ends = [stack.enter_context(_end(self.line, each)) for each in (SERVER, CLIENT)]
            worker = threading.Thread(target=self._work, args=ends)
            worker.start()
            try:
                yield
            finally:
                self._stop.set()
                worker.join()

    def _work(self, server: int, client: int) -> None:
        up = Direction(client, server, self.line.up, self.line)
        down = Direction(server, client, self.line.down, self.line)
        next_cut = time.monotonic() + (self.line.cut_every or float("inf"))
        dead_until = 0.0
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= next_cut:
                self.cuts += 1
                next_cut, dead_until = now + self.line.cut_every, now + OUTAGE
                _break_connections(self.line)
            due = min(up.give(now), down.give(now))
            ready, _, _ = select.select([server, client], [], [], max(0.0, due - now))
            for each in (up, down):
                if each.source in ready:
                    each.take(time.monotonic(), dead=now < dead_until)
        self.sent, self.began = sum(up.heard.values()), up.began


def _namespace(line: Line, address: str) -> str:
    return f"upwell{LINES.index(line)}-{address[-1]}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _break_connections(line: Line) -> None:
    """As when a modem gets another address: connections are gone, at both ends."""
    for each in (SERVER, CLIENT):
        _run("ip", "netns", "exec", _namespace(line, each), "ss", "-K", "-t", "state", "connected")


@contextmanager
def _end(line: Line, address: str) -> Iterator[int]:
    """A namespace whose only way out is the descriptor that this yields."""
    space = name = _namespace(line, address)
    fd = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    _run("ip", "netns", "add", space)
    inside = ("ip", "-n", space)
    try:
        _run("ip", "link", "set", name, "mtu", str(line.mtu), "netns", space)
        _run(*inside, "address", "add", f"{address}/24", "dev", name)
        _run(*inside, "link", "set", "lo", "up")
        _run(*inside, "link", "set", name, "up")
        # Most clients' TCP is CUBIC, whatever this machine's is.
        route = ("10.213.0.0/24", "dev", name, "src", address)
        _run(*inside, "route", "replace", *route, "congctl", "lock", "cubic")
        yield fd
    finally:
        _run("ip", "netns", "del", space)
        os.close(fd)


@contextmanager
def _serving(line: Line, folder: Path) -> Iterator[str]:
    """A server behind the line; a token."""
    data = folder / "data"
    serve = [UPWELL, "serve", "--data", str(data), "--host", SERVER, "--port", str(PORT)]
    inside = ["ip", "netns", "exec", _namespace(line, SERVER)]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([*inside, *serve], stdout=log, stderr=log)
    try:
        while "Log a browser in" not in (folder / "log").read_text():
            if server.poll() is not None:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.1)
        token = [UPWELL, "token", "create", "--account", "owner", "--data", str(data)]
        yield subprocess.check_output(token, text=True).strip()
    finally:
        server.terminate()
        server.wait()


@dataclass(frozen=True)
class Result:
    """Of one run; ``seconds`` are infinite when it was given up."""

    line: Line
    seconds: float
    cuts: int
    again: int  # bytes that the client sent more than once

    @property
    def mbits(self) -> float:
        return self.line.size * 8 / 1e6 / self.seconds

    @property
    def share(self) -> float:
        return self.mbits / self.line.up


Results = dict[tuple[str, str, int], Result]


def measure(line: Line, chunk_size: str, connections: int, folder: Path) -> Result:
    """One `upwell put` over the line, from its first connection to its end."""
    file, emulator = folder / "file.bin", Emulator(line)
    with file.open("wb") as made:
        for _ in range(line.size // MB):
            made.write(os.urandom(MB))
    options = ["--chunk-size", chunk_size, "--connections", str(connections), "--quiet"]
    with emulator.running(), _serving(line, folder) as token:
        inside = ["ip", "netns", "exec", _namespace(line, CLIENT)]
        put = [UPWELL, "put", str(file), "--server", f"http://{SERVER}:{PORT}", *options]
        own = {**os.environ, "HOME": str(folder), "UPWELL_TOKEN": token}
        limit = LIMIT * line.size * 8 / 1e6 / line.up
        try:
            subprocess.run([*inside, *put], check=True, env=own, timeout=limit)
            ended = time.monotonic()
        except subprocess.TimeoutExpired:
            ended = float("inf")
    shutil.rmtree(folder / "data")
    heads = 1000 * (8 + line.size // MB)  # bytes, about: requests' heads, JSON
    again = emulator.sent - line.size
    return Result(line, ended - emulator.began, emulator.cuts, again if again > heads else 0)


def _print_row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _describe(line: Line) -> str:
    loss = f", {line.loss:.1%} loss" if line.loss else ""
    return f"{line.down:g}/{line.up:g} Mbit/s, {1000 * line.rtt:g} ms{loss}"


def _row(result: Result) -> str:
    line = result.line
    again = f"{result.again / MB:.1f} MB" if result.again else "-"
    return _print_row(
        line.name,
        _describe(line),
        f"{line.size // MB} MB in {result.seconds:.1f} s",
        f"{result.mbits:.3g} Mbit/s",
        f"{result.share:.0%}",
        str(result.cuts or "-"),
        again,
    )


def _tables(results: Results) -> Iterator[str]:
    yield _print_row(
        "network", "down/up, round trip", "sent", "goodput", "of the line", "cuts", "sent twice"
    )
    yield "|---|---|---|---|---|---|---|"
    for (_, *choice), result in results.items():
        if tuple(choice) == USUAL:
            yield _row(result)
    yield ""
    yield _print_row(
        "of the line, by chunk size and connections", *(f"{s}iB, {n}" for s, n in CHOICES)
    )
    yield "|---|" + "---|" * len(CHOICES)
    for name in dict.fromkeys(name for name, *choice in results if tuple(choice) != USUAL):
        found = [results.get((name, *choice)) for choice in CHOICES]
        yield _print_row(name, *(f"{each.share:.0%}" if each else "-" for each in found))


def _lost(results: Results) -> str:
    """What a cut costs: the same line with and without."""
    cut = results.get((LINES[-1].name, *USUAL))
    whole = results.get((LTE.name, *USUAL))
    if not cut or not whole or not cut.cuts:
        return ""
    each = (cut.seconds - whole.seconds) / cut.cuts
    return f"\nA cut costs {each:.1f} s; for {OUTAGE:g} s of it nothing passes.\n"


def _report(results: Results, options: argparse.Namespace) -> str:
    usual = " --usual" if options.usual else ""
    command = f"python -m bench.networks{usual}" + "".join(
        f" --only '{each}'" for each in options.only
    )
    head = (
        f"# What networks leave of an upload\n\n`{command}` on Linux {platform.release()}, CUBIC, "
    )
    version = subprocess.check_output([UPWELL, "--version"], text=True).strip()
    head += (
        f"{time.strftime('%Y-%m-%d')}, {version}. Made by [bench/networks.py](../networks.py).\n\n"
    )
    return head + "\n".join(_tables(results)) + "\n" + _lost(results)


def _measured(line: Line, options: argparse.Namespace) -> Results:
    results: Results = {}
    for choice in CHOICES if line.varied and not options.usual else [USUAL]:
        with tempfile.TemporaryDirectory() as folder:
            result = results[line.name, *choice] = measure(line, *choice, Path(folder))
        print(line.name, *choice, f"{result.share:.0%}", result, file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="a network's name; repeat it")
    parser.add_argument("--usual", action="store_true", help="no other chunk sizes, connections")
    parser.add_argument("--output", type=Path, help="also write the tables there")
    options = parser.parse_args()
    lines = [line for line in LINES if not options.only or line.name in options.only]
    results: Results = {}
    for line in lines:
        results |= _measured(line, options)
    report = _report(results, options)
    print(report)
    if options.output:
        options.output.write_text(report)


if __name__ == "__main__":
    main()
