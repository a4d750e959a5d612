"""`upwell serve` obeys a signal at any moment, also before uvicorn listens to signals."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
import uvicorn

from upwell import app
from upwell.config import Settings
from upwell.http import shutdown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STOPS = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    monkeypatch.setenv("UPWELL_WORKER_SETTINGS", "")  # put back afterwards, as the handlers are
    monkeypatch.setattr(shutdown, "end_within", lambda _: None)  # it would end the tests
    handlers = {stop: signal.getsignal(stop) for stop in STOPS}
    yield Settings(data=tmp_path)
    for stop, handler in handlers.items():
        signal.signal(stop, handler)


@pytest.mark.parametrize("stop", STOPS)
def test_before_the_server_is_up_it_ends(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_: signal.raise_signal(stop))
    with pytest.raises(SystemExit) as ended:
        app.serve(settings, [])
    assert ended.value.code == 0


@pytest.mark.parametrize("stop", STOPS)
def test_when_all_is_done_it_is_no_news(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stop: signal.Signals
) -> None:
    def run(server: uvicorn.Server, _sockets: object) -> None:
        server.started = True
        signal.raise_signal(stop)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    assert app.serve(settings, []) == 0
