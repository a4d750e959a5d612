"""One server for the session, asked over HTTP and, without our extensions, over plain ASGI."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest
import uvicorn

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.api.world import Api, Clock, LoopTransport, Server, World, add_second_pool, settings_of
from upwell.app import asgi, build
from upwell.http.api import PREFIXES
from upwell.http.server import UpwellProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    clock = Clock()
    core = build(settings_of(tmp_path_factory.mktemp("data")), clock)
    add_second_pool(core)
    server = Server(
        uvicorn.Config(
            asgi(core),
            http=UpwellProtocol,
            port=0,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    description = httpx2.get(f"{url}/openapi.json", trust_env=False).json()
    made = World(core, clock, asgi(core), url, description)
    made.secrets = {name: made.token(name) for name in ("alice", "bob")}
    yield made
    server.should_exit = True
    thread.join()
    core.close()


@pytest.fixture(scope="session")
def plain(world: World) -> Iterator[LoopTransport]:
    transport = LoopTransport(world.app)
    yield transport
    transport.stop()


@pytest.fixture(params=["server", "asgi"])
def api(request: pytest.FixtureRequest, world: World, plain: LoopTransport) -> Iterator[Api]:
    """Alice, over our server and over plain ASGI."""
    transport = plain if request.param == "asgi" else None
    with Api(world, transport, world.secrets["alice"]) as client:
        yield client


@pytest.fixture
def live(world: World) -> Iterator[Api]:
    """Alice, over our server."""
    with Api(world, None, world.secrets["alice"]) as client:
        yield client


@pytest.fixture
def stranger(world: World) -> Iterator[Api]:
    """Bob, over our server."""
    with Api(world, None, world.secrets["bob"]) as client:
        yield client


@pytest.fixture
def anonymous(world: World) -> Iterator[Api]:
    with Api(world, None, "") as client:
        yield client


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)
