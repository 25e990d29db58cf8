"""Pages of all documents share the engine: bounded, and the small document does not wait."""

from __future__ import annotations

import asyncio

import pytest

from vllm_dsocr.server.work.gate import FairGate


async def hold(gate: FairGate, document: str, order: list[str], release: asyncio.Event) -> None:
    async with gate.slot(document):
        order.append(document)
        await release.wait()


def test_no_more_than_the_bounds_run():
    async def run() -> None:
        gate, order, release = FairGate(4, 3), [], asyncio.Event()
        tasks = [asyncio.create_task(hold(gate, "a", order, release)) for _ in range(10)]
        await asyncio.sleep(0)
        assert gate.num_running == 3 and gate.num_waiting == 7
        tasks.append(asyncio.create_task(hold(gate, "b", order, release)))
        tasks.append(asyncio.create_task(hold(gate, "b", order, release)))
        await asyncio.sleep(0.01)
        assert gate.num_running == 4 and order.count("b") == 1
        release.set()
        await asyncio.gather(*tasks)
        assert gate.num_running == gate.num_waiting == 0

    asyncio.run(run())


def test_a_free_place_goes_to_the_document_with_the_fewest_pages():
    async def run() -> None:
        gate, order = FairGate(2, 2), []
        releases = [asyncio.Event() for _ in range(2)]
        long = [asyncio.create_task(hold(gate, "long", order, release)) for release in releases]
        await asyncio.sleep(0)
        done = asyncio.Event()
        done.set()
        more = [asyncio.create_task(hold(gate, "long", order, done)) for _ in range(5)]
        short = asyncio.create_task(hold(gate, "short", order, done))
        await asyncio.sleep(0)
        releases[0].set()
        await asyncio.gather(short)
        assert order[2] == "short"
        releases[1].set()
        await asyncio.gather(*long, *more)

    asyncio.run(run())


@pytest.mark.parametrize("when", ["waiting", "running"])
def test_a_cancelled_page_leaves_its_place(when):
    async def run() -> None:
        gate, order, release = FairGate(1, 1), [], asyncio.Event()
        first = asyncio.create_task(hold(gate, "a", order, release))
        second = asyncio.create_task(hold(gate, "b", order, release))
        third = asyncio.create_task(hold(gate, "c", order, release))
        await asyncio.sleep(0)
        (second if when == "waiting" else first).cancel()
        await asyncio.sleep(0)
        release.set()
        await asyncio.gather(first, second, third, return_exceptions=True)
        assert "c" in order
        assert gate.num_running == gate.num_waiting == 0

    asyncio.run(run())


def test_a_place_given_in_the_moment_of_cancelling_is_not_lost():
    async def run() -> None:
        gate, order, release = FairGate(1, 1), [], asyncio.Event()
        first = asyncio.create_task(hold(gate, "a", order, release))
        second = asyncio.create_task(hold(gate, "b", order, release))
        await asyncio.sleep(0)
        release.set()
        await asyncio.sleep(0)  # the first leaves, the second's turn has come
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        async with asyncio.timeout(1), gate.slot("c"):
            assert gate.num_running == 1

    asyncio.run(run())
