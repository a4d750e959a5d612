"""Live streams, whatever they tell of: how long they last, and how many there may be."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.api.world import Api, refused, unique
from tests.harness import eventually
from upwell.http import live as live_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.api.world import World

STREAM = {"Accept": "text/event-stream"}
KINDS = ("events", "progress")


def streams_of(world: World) -> set[str]:
    """The paths of all operations that answer with a stream."""
    return {
        path
        for path, operations in world.description["paths"].items()
        for operation in operations.values()
        if "text/event-stream" in operation["responses"].get("200", {}).get("content", {})
    }


def test_every_stream_is_tested_here(world: World) -> None:
    assert streams_of(world) == {
        "/api/events",
        "/api/files/upload/progress/{task_id}",
        "/drive/files/upload/progress/{task_id}",
    }


class Watched:
    """A path to stream from, and what makes news for it."""

    def __init__(self, live: Api, kind: str) -> None:
        content = unique(30)
        task = live.create(content, chunk_size=10)["task_id"]
        indexes = iter(range(3))

        def chunk() -> None:
            index = next(indexes)
            live.chunk(task, index, content[index * 10 : index * 10 + 10])

        self.path = "/api/events" if kind == "events" else f"/api/files/upload/progress/{task}"
        self.make_news: Callable[[], object] = live.direct if kind == "events" else chunk


@pytest.fixture(params=KINDS)
def watched(request: pytest.FixtureRequest, live: Api) -> Watched:
    return Watched(live, request.param)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_streams, "LOOK", 0.02)


@contextmanager
def streaming(client: Api, path: str) -> Iterator[Iterator[str]]:
    """The data lines of a stream."""
    with client.stream("GET", path, headers=STREAM) as response:
        assert response.status_code == 200
        yield (line[6:] for line in response.iter_lines() if line.startswith("data: "))


def revoke(world: World, secret: str) -> None:
    principal = world.core.accounts.authenticate(secret)
    world.core.accounts.revoke(principal.account, principal.token_id)


@pytest.mark.usefixtures("quick")
def test_a_revoked_token_gets_no_more_news(world: World, watched: Watched) -> None:
    """At once, and not at the next check of a silent stream."""
    secret = world.token("alice")
    with Api(world, None, secret) as client, streaming(client, watched.path) as lines:
        watched.make_news()
        assert "TOKEN_INVALID" not in next(lines)
        revoke(world, secret)
        watched.make_news()
        *_, last = lines  # what was on its way when the token was revoked may come before it
        assert "TOKEN_INVALID" in last


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_a_silent_stream_ends_with_its_token(
    world: World, watched: Watched, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_streams, "RECHECK", 0.1)
    secret = world.token("alice", life=timedelta(hours=1))
    with Api(world, None, secret) as client, streaming(client, watched.path) as lines:
        if how == "revoked":
            revoke(world, secret)
        else:
            monkeypatch.setattr(world.clock, "ahead", timedelta(hours=2))
        *_, last = lines
        assert "TOKEN_INVALID" in last


@pytest.mark.slow
def test_an_account_has_so_many_streams_at_once(world: World, live: Api, stranger: Api) -> None:
    most = world.core.settings.streams_per_account
    with ExitStack() as stack:
        for _ in range(most):
            stack.enter_context(streaming(live, "/api/events"))
        with Api(world, None, world.token("alice")) as another:
            answer = another.get("/api/events", headers=STREAM)
            refused(answer, 429, "TOO_MANY_STREAMS")
            assert int(answer.headers["retry-after"]) > 0
            assert another.get("/api/events").status_code == 200  # pages are not streams
        with streaming(stranger, "/api/events"):
            pass

    def free() -> bool:
        with live.stream("GET", "/api/events", headers=STREAM) as answer:
            return answer.status_code == 200

    eventually(free, 30, "the places are free again")
