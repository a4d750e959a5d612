"""How many requests go at once: found by measuring, on links that are simulated exactly."""

from __future__ import annotations

import heapq
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.client.fake_server import TOKEN, FakeServer
from upwell.client import ApiError, Backoff, Calls, ConnectionFailed, Interrupted, Retry
from upwell.client.pace import Pace
from upwell.client.upload import UploadOptions, upload_file

if TYPE_CHECKING:
    from pathlib import Path

CHUNK = 5 << 20
GO_ON = threading.Event()


@dataclass
class Link:
    """A link of ``total`` bytes per second in all, and at most ``each`` for one connection."""

    each: float
    total: float

    def seconds(self, size: int, active: int) -> float:
        return size / min(self.each, self.total / active)


class Simulation:
    """Senders that always have something to send, in a time of their own."""

    def __init__(self, link: Link, most: int) -> None:
        self.now = 0.0
        self.link = link
        self.pace = Pace(most, clock=lambda: self.now)
        self.limits: list[int] = []

    def run(self, requests: int) -> None:
        ends: list[tuple[float, int]] = []
        number = 0
        contexts = {}
        while requests:
            while len(ends) < self.pace.limit:
                number += 1
                contexts[number] = self.pace.request(CHUNK, GO_ON)
                contexts[number].__enter__()
                took = self.link.seconds(CHUNK, len(ends) + 1)
                heapq.heappush(ends, (self.now + took, number))
            self.now, ended = heapq.heappop(ends)
            contexts.pop(ended).__exit__(None, None, None)
            self.limits.append(self.pace.limit)
            requests -= 1
        for context in contexts.values():
            context.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (Link(each=1e6, total=1e9), {8}),  # a long way: each connection brings its own megabyte
        (Link(each=1e6, total=4e6), {4, 5}),  # four fill it
        (Link(each=1e8, total=1e6), {2, 3}),  # one fills it
    ],
    ids=["as-many-as-may-be", "four-fill-it", "one-fills-it"],
)
def test_it_takes_as_many_as_help(link: Link, expected: set[int]) -> None:
    simulation = Simulation(link, most=8)
    simulation.run(600)
    assert set(simulation.limits[-200:]) <= expected


def test_it_comes_to_rest() -> None:
    """A number that was found is left now and then, for one round, and ever more rarely."""
    simulation = Simulation(Link(each=1e6, total=4e6), most=16)
    simulation.run(2000)
    changes = [before != now for before, now in zip(simulation.limits, simulation.limits[1:])]  # noqa: B905 - pairs
    assert sum(changes[:1000]) > sum(changes[1000:])
    assert sum(changes[1000:]) <= 8


def test_it_notices_that_a_link_has_grown() -> None:
    simulation = Simulation(Link(each=1e6, total=3e6), most=8)
    simulation.run(300)
    assert simulation.pace.limit <= 5
    simulation.link = Link(each=1e6, total=1e9)
    simulation.run(2500)
    assert simulation.pace.limit == 8


def test_trouble_halves_and_a_refusal_does_not() -> None:
    simulation = Simulation(Link(each=1e6, total=1e9), most=8)
    simulation.run(300)
    pace = simulation.pace
    assert pace.limit == 8
    with pytest.raises(ConnectionFailed), pace.request(1, GO_ON):
        raise ConnectionFailed("reset")
    assert pace.limit == 4
    with pytest.raises(ValueError), pace.request(1, GO_ON):  # noqa: PT011 - any
        raise ValueError
    assert pace.limit == 4
    for _ in range(5):
        with pytest.raises(ConnectionFailed), pace.request(1, GO_ON):
            raise ConnectionFailed("reset")
    assert pace.limit == 1


def test_one_connection_is_one() -> None:
    simulation = Simulation(Link(each=1e6, total=1e9), most=1)
    simulation.run(100)
    assert set(simulation.limits) == {1}


def test_who_waits_for_its_turn_can_be_stopped() -> None:
    pace, stop = Pace(1), threading.Event()
    failure: list[BaseException] = []

    def wait() -> None:
        try:
            with pace.request(1, stop):
                pass
        except Interrupted as error:
            failure.append(error)

    with pace.request(1, GO_ON):
        waiting = threading.Thread(target=wait)
        waiting.start()
        stop.set()
        waiting.join(10)
    assert len(failure) == 1


def test_a_server_that_is_too_busy_gets_less_to_do(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(bytes(range(100)) * 200)
    retry = Retry(5.0, backoff=Backoff(first=0.01, longest=0.02))
    with Calls(server.url, TOKEN, connections=8, retry=retry) as client:
        client.pace._limit = 8
        server.fail("/chunk/", "answer", times=3, status=429)
        upload_file(client, path, UploadOptions(chunk_size=1000))
        assert client.pace.limit <= 2
    (file,) = server.files.values()
    assert file.content == path.read_bytes()


def test_what_is_refused_for_good_costs_nobody_its_pace(server: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 3000)
    with Calls(server.url, TOKEN, connections=8) as client:
        server.fail("/chunk/", "answer", status=400)
        with pytest.raises(ApiError):
            upload_file(client, path, UploadOptions(chunk_size=1000))
        assert client.pace.limit == 2
