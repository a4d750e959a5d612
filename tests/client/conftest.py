from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# The tests of the client and of the command line share one fake server.
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.client.fake_server import TOKEN, FakeServer
from upwell.client import Backoff, Calls, Retry

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK = Backoff(first=0.01, longest=0.05, out_of_space=0.05)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


@pytest.fixture
def client(server: FakeServer) -> Iterator[Calls]:
    with Calls(server.url, TOKEN, retry=Retry(5.0, backoff=QUICK)) as made:
        yield made
