"""Planning the archives of bundles: once for all who ask, and few at a time."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from upwell.core.zips import Plan
from upwell.errors import ServerBusy
from upwell.http.bundle_zip import Planners
from upwell.model import Bundle

NOW = datetime(2030, 1, 1, tzinfo=UTC)
BUNDLE = Bundle("b", "a", "slug", "name", None, None, None, NOW, NOW)


class Slow:
    """Bundles that are planned when they are let."""

    def __init__(self) -> None:
        self.let, self.begun = threading.Event(), list[str]()
        self.at_once = self.most = 0
        self._lock = threading.Lock()

    def plan(self, bundle: Bundle) -> Plan:
        with self._lock:
            self.begun.append(bundle.id)
            self.at_once += 1
            self.most = max(self.most, self.at_once)
        assert self.let.wait(60)
        with self._lock:
            self.at_once -= 1
        if bundle.id == "bad":
            raise ZeroDivisionError
        return Plan([])


def test_a_crowd_costs_one_plan_and_takes_turns() -> None:
    async def scene() -> None:
        planners, bundles = Planners(at_once=2, most=4), Slow()
        given: Any = bundles

        def ask(name: str) -> asyncio.Task[Plan]:
            return asyncio.ensure_future(planners.plan(given, replace(BUNDLE, id=name)))

        crowd = [ask("b") for _ in range(50)]
        others = [ask(name) for name in ("c", "bad", "e")]
        await asyncio.sleep(0)
        with pytest.raises(ServerBusy) as refused:
            await ask("one too many")
        assert refused.value.retry_after
        again = ask("b")  # needs no plan of its own
        await asyncio.sleep(0)
        crowd.pop().cancel()  # who goes takes the plan from nobody
        bundles.let.set()
        plans = await asyncio.gather(*crowd, again)
        assert len(set(map(id, plans))) == 1
        results = await asyncio.gather(*others, return_exceptions=True)
        assert [isinstance(each, ZeroDivisionError) for each in results] == [False, True, False]
        assert sorted(bundles.begun) == ["b", "bad", "c", "e"]
        assert bundles.most <= 2
        assert await planners.plan(given, replace(BUNDLE, id="f"))  # there is room again

    asyncio.run(scene())
