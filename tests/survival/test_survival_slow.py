"""Clients that are slow, many, or still there when the server is told to stop."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.harness import BOUNDARY, Api, Server, Wire, chunked, eventually, form

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

K = 64 << 10
MIB = 1 << 20
IMPATIENT = {
    "upwell.http.server.HEAD_TIMEOUT": 2,
    "upwell.http.server.DISCARD_TIMEOUT": 2,
    "upwell.http.bodies.STALL": 2,
    "upwell.http.guard.JSON_SECONDS": 2,
    "upwell.http.bodies.RATE_GRACE": 2,
    "upwell.http.bodies.MIN_RATE": 1024,
}
SOON = 15.0  # seconds: the constants above, a busy machine; less than they are by default
RSS = 200 << 20


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose patience is shorter than a test's."""
    with Server(tmp_path_factory.mktemp("slow") / "data", constants=IMPATIENT) as running:
        yield running
        assert not running.bugs()


def _drip(wire: Wire, data: bytes, step: int, pause: float, seconds: float) -> float:
    """Send piece by piece until the server hangs up; after how long it did."""
    began = time.monotonic()
    wire.sock.settimeout(0.001)
    for at in range(0, len(data), step):
        if time.monotonic() - began > seconds:
            break
        try:
            wire.sock.sendall(data[at : at + step])
            if not wire.sock.recv(65536):
                return time.monotonic() - began
        except TimeoutError:
            time.sleep(pause)
        except OSError:
            return time.monotonic() - began
    return seconds + 1


@pytest.mark.parametrize("begin", [b"", b"GET /health/live HTTP/1.1\r\n"])
def test_a_head_that_does_not_come_is_cut_off(impatient: Server, begin: bytes) -> None:
    with Wire(impatient.port) as wire:
        wire.send(begin)
        assert wire.closed_within(SOON)


def test_a_dripping_head_is_cut_off(impatient: Server) -> None:
    with Wire(impatient.port) as wire:
        head = b"GET /health/live HTTP/1.1\r\nX: " + b"a" * 10_000
        assert _drip(wire, head, 1, 0.1, SOON) < SOON


def test_a_dripping_second_head_is_cut_off(impatient: Server) -> None:
    with Wire(impatient.port) as wire:
        wire.send(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
        assert wire.answer().status == 200
        assert _drip(wire, b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000, 1, 0.1, SOON) < SOON


def test_an_idle_connection_that_had_an_answer_may_stay(impatient: Server) -> None:
    with Wire(impatient.port) as wire:
        for _ in range(2):
            wire.send(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert wire.answer().status == 200
            time.sleep(3)


def _chunk_request(api: Api, task: str, kind: str, size: int) -> bytes:
    path = api.chunk_path(task, 0)
    if kind == "raw":
        return api.request("PUT", path, bytes(size))
    if kind == "form":
        media = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return api.request("POST", path, form(bytes(size)), media)
    return api.head("PUT", path, {"Transfer-Encoding": "chunked"}) + chunked(bytes(size), 100)


@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_a_stalled_body_is_cut_off(impatient: Server, kind: str) -> None:
    api = impatient.api()
    task = api.create(K, K)
    with api.wire() as wire:
        wire.send(_chunk_request(api, task, kind, K)[: K // 2])
        answer = wire.answer()
        assert answer.status == 408, answer
        assert answer.code == "BODY_TIMEOUT"
        assert wire.closed_within(SOON)
    assert api.uploaded(task) == []
    assert api.put(task, 0, bytes(K)).status == 200


@pytest.mark.parametrize("kind", ["raw", "form", "chunked"])
def test_a_dripping_body_is_cut_off(impatient: Server, kind: str) -> None:
    api = impatient.api()
    task = api.create(K, K)
    with api.wire() as wire:
        request = _chunk_request(api, task, kind, K)
        wire.send(request[:500])
        assert _drip(wire, request[500:], 20, 0.1, SOON) < SOON
    assert api.uploaded(task) == []


def test_a_refused_body_is_not_waited_for(impatient: Server) -> None:
    api = impatient.api()
    with api.wire() as wire:
        wire.send(api.put_head("0" * 32, 0, 10 * MIB) + bytes(100))
        assert wire.answer().code == "TASK_NOT_FOUND"
        assert _drip(wire, bytes(100_000), 10, 0.1, SOON) < SOON


def test_a_dripping_json_body_is_cut_off(impatient: Server) -> None:
    api = impatient.api()
    body = json.dumps({"file_name": "a" * 1000, "file_size": 1}).encode()
    more: dict[str, str | int] = {"Content-Type": "application/json", "Content-Length": len(body)}
    with api.wire() as wire:
        wire.send(api.head("POST", "/api/files/upload/create", more))
        assert _drip(wire, body, 1, 0.1, SOON) < SOON


def test_a_pipelined_body_has_its_own_time(impatient: Server) -> None:
    """The time in which a refused body may flow in is not that of the request behind."""
    api = impatient.api()
    task = api.create(2 * K, K)
    first = api.request("PUT", api.chunk_path(task, 0), bytes(K))
    second = api.request("PUT", api.chunk_path(task, 1), bytes(K))
    with api.wire() as wire:
        wire.send(first + second[: len(second) // 2])
        assert wire.answer().status == 200
        for at in range(len(second) // 2, len(second), 6000):
            time.sleep(0.6)
            wire.send(second[at : at + 6000])
        assert wire.answer().status == 200
        time.sleep(2.5)
        wire.send(api.request("GET", "/api/files/me"))
        assert wire.answer().status == 200


@pytest.mark.parametrize(
    ("kind", "bound"),
    [("raw", RSS), ("form", RSS), ("chunked", RSS + (120 << 20))],  # the slow way holds a read more
)
def test_i7_memory_with_200_uploads_at_once(data: Path, kind: str, bound: int) -> None:
    """200 connections, each with an 8 MiB file in chunks of 1 MiB, all open at once."""
    count = 200
    with Server(data) as server, ExitStack() as stack:
        api = server.api(timeout=120)
        tasks = [api.create(8 * MIB, MIB) for _ in range(count)]
        wires = [Wire(server.port, timeout=120) for _ in range(count)]
        idle = server.resident()
        peak = _Peak(server)
        peak.start()
        stack.callback(peak.join)
        stack.callback(peak.stop.set)
        for wire in wires:
            stack.callback(wire.sock.close)
        chunks = 8 if kind == "raw" else 2
        for index in range(chunks):
            requests = [_chunk(api, task, index, kind) for task in tasks]
            for at in range(0, len(requests[0]), 160 << 10):
                for wire, request in zip(wires, requests, strict=True):
                    wire.send(request[at : at + (160 << 10)])
            for wire in wires:
                assert wire.answer().status == 200
        if chunks == 8:
            answer = api.complete(tasks[-1])
            assert answer.json()["hash"] == hashlib.sha256(b"M" * 8 * MIB).hexdigest()
        assert peak.bytes < bound, f"{peak.bytes >> 20} MiB resident, {idle >> 20} before ({kind})"
        assert not server.bugs()


def _chunk(api: Api, task: str, index: int, kind: str) -> bytes:
    data = _MEBIBYTE
    path = api.chunk_path(task, index)
    if kind == "raw":
        return api.request("PUT", path, data)
    if kind == "form":
        media = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        return api.request("POST", path, form(data), media)
    return api.head("PUT", path, {"Transfer-Encoding": "chunked"}) + chunked(data)


_MEBIBYTE = b"M" * MIB


class _Peak(threading.Thread):
    """The most memory a server's processes had at once."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self._server = server
        self.bytes = 0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.05):
            if self._server.process is not None:
                self.bytes = max(self.bytes, self._server.resident())


# SIGTERM


@pytest.mark.parametrize("workers", [1, 2])
def test_i1_sigterm_with_an_upload_and_an_event_stream_open(data: Path, workers: int) -> None:
    with Server(data, workers=workers) as server:
        api = server.api()
        content = os.urandom(4 * K)
        task = api.create(len(content), K)
        assert api.put(task, 0, content[:K]).status == 200
        with api.wire() as events, api.wire() as half, api.wire() as idle:
            stream = {"Accept": "text/event-stream"}
            events.send(api.head("GET", f"/api/files/upload/progress/{task}", stream))
            assert events.head()[0] == 200
            assert b"event: progress" in events.line() + events.line() + events.line()
            idle.send(api.request("GET", "/api/files/me"))
            assert idle.answer().status == 200
            half.send(api.put_head(task, 1, K) + content[K : K + 1000])
            time.sleep(0.3)
            began = time.monotonic()
            code = server.terminate(25)
            took = time.monotonic() - began
        assert took < 22, f"it took {took:.1f} s to stop"
        assert code == 0
        server.kill()
        server.start()
        assert server.api().uploaded(task) == [0]
        server.api().finish(task, content, K)


def test_no_worker_outlives_the_process_that_supervises_it(data: Path) -> None:
    """Not even one that is stopped; and the port is free for the next server."""
    with Server(data, workers=3) as server:
        assert server.process is not None
        parent, port = server.process.pid, server.port
        api, content = server.api(), os.urandom(2 * K)
        task = api.create(len(content), K)
        assert api.put(task, 0, content[:K]).status == 200
        workers = set(server.pids()) - {parent}
        os.kill(max(workers), signal.SIGSTOP)
        os.kill(parent, signal.SIGKILL)
        server.process.wait(20)
        eventually(lambda: not set(server.pids()), 20, "every worker ends with its parent")
        server.kill()
        server.start(port)
        server.api().finish(task, content, K)


def test_i1_sigterm_while_many_send(data: Path) -> None:
    """Whatever was answered 200 is there; what was not finished is missing, and said so."""
    with Server(data, workers=2) as server:
        api = server.api()
        tasks = [api.create(64 * 1024, 1024) for _ in range(4)]
        told: list[list[int]] = [[] for _ in tasks]

        def send(number: int) -> None:
            for index in range(64):
                try:
                    answer = api.put(tasks[number], index, bytes([index]) * 1024)
                except OSError:
                    return
                if answer.status == 200:
                    told[number].append(index)

        threads = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(4)]
        for each in threads:
            each.start()
        eventually(lambda: sum(map(len, told)) > 30, 60, "some chunks")
        assert server.terminate(15) == 0
        for each in threads:
            each.join(20)
        server.kill()
        server.start()
        content = b"".join(bytes([index]) * 1024 for index in range(64))
        for task, acknowledged in zip(tasks, told, strict=True):
            assert set(acknowledged) <= set(server.api().uploaded(task))
            server.api().finish(task, content, 1024)


@pytest.mark.parametrize(
    ("point", "workers"), [("add_task:hang", 1), ("write:hang", 2), ("close:hang", 2)]
)
def test_a_thread_that_hangs_forever_does_not_keep_the_server_alive(
    data: Path, point: str, workers: int
) -> None:
    """In a verb, in a chunk, and while the server closes what it has open."""
    grace = {"upwell.http.shutdown.REQUESTS": 1, "upwell.http.shutdown.GRACE": 5}
    with Server(data, workers=workers, point=point, constants=grace) as server:
        api = server.api()
        with api.wire() as wire:
            create = {"file_name": "f", "file_size": K, "chunk_size": K}
            body = json.dumps(create).encode()
            kind = {"Content-Type": "application/json"}
            wire.send(api.request("POST", "/api/files/upload/create", body, kind))
            if not point.startswith("add_task"):
                task = wire.answer().json()["task_id"]
                wire.send(api.request("PUT", api.chunk_path(task, 0), b"x" * K))
            time.sleep(0.3)
            server.terminate(60)
            eventually(lambda: not server.pids(), 20, "the end of every process of it")
