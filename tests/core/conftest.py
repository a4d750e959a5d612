"""A world per test, on each kind of store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.world import World
from upwell.core import age

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def cheap_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretched in 1 ms rather than 150."""
    monkeypatch.setattr(age, "LOG_N", 10)


@pytest.fixture(params=["memory", "local"])
def world(request: pytest.FixtureRequest, tmp_path: Path, cheap_passwords: None) -> Iterator[World]:
    made = World(tmp_path, request.param)
    yield made
    made.close()


@pytest.fixture
def small(tmp_path: Path, cheap_passwords: None) -> Iterator[World]:
    """A world in which the kind of store does not matter."""
    made = World(tmp_path, "memory")
    yield made
    made.close()
