"""One server for the session, asked over HTTP and, without our extensions, over plain ASGI."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.api.world import Api, LoopTransport, World, serving
from upwell.http.api import PREFIXES
from upwell.model import Scope

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with serving(tmp_path_factory.mktemp("data")) as made:
        yield made


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


@pytest.fixture(scope="session")
def boss_token(world: World) -> str:
    return world.token("boss", scopes=frozenset(Scope))


@pytest.fixture
def boss(world: World, boss_token: str) -> Iterator[Api]:
    """An admin, over our server."""
    with Api(world, None, boss_token) as client:
        yield client


@pytest.fixture
def anonymous(world: World) -> Iterator[Api]:
    with Api(world, None, "") as client:
        yield client


@pytest.fixture(params=PREFIXES)
def prefix(request: pytest.FixtureRequest) -> str:
    return str(request.param)
