"""The memory that direct uploads share."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from upwell.http.direct import Budget


async def taken(budget: Budget, size: int, order: list[int], held: asyncio.Event) -> None:
    async with budget.hold(size):
        order.append(size)
        await held.wait()


def test_the_budget_is_never_exceeded_and_taken_in_turn() -> None:
    async def scene() -> None:
        budget, order, held = Budget(10), list[int](), asyncio.Event()
        tasks = [asyncio.create_task(taken(budget, size, order, held)) for size in (6, 5, 4)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert order == [6]  # 5 does not fit yet, and 4 does not overtake it
        held.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 5)
        assert order == [6, 5, 4]

    asyncio.run(scene())


def test_who_gives_up_waiting_leaves_the_budget_whole() -> None:
    async def scene() -> None:
        budget, held = Budget(10), asyncio.Event()
        async with budget.hold(6):
            waiting = asyncio.create_task(taken(budget, 9, [], held))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        async with asyncio.timeout(5), budget.hold(10):
            pass

    asyncio.run(scene())


def test_more_than_all_is_all() -> None:
    async def scene() -> None:
        budget = Budget(10)
        async with asyncio.timeout(5), AsyncExitStack() as stack:
            await stack.enter_async_context(budget.hold(99))
        async with asyncio.timeout(5), budget.hold(10):
            pass

    asyncio.run(scene())
