"""Pages go to the least loaded server, and to another one when theirs dies."""

from __future__ import annotations

import asyncio

import pytest
from PIL import Image

from tests.fake_engine import FakeEngine, grounded
from vllm_dsocr.engine import EngineError, EngineLost, Request
from vllm_dsocr.fleet import replicas as fleet
from vllm_dsocr.fleet.discovery import discovery, split_servers
from vllm_dsocr.fleet.replicas import Replica
from vllm_dsocr.fleet.routing import BalancedEngine, num_vision_tokens


def page(side: int = 100, mode: str | None = "base") -> Request:
    return Request(Image.new("RGB", (side, side)), "<image>\nFree OCR.", mode)


def replica(name: str, engine: FakeEngine | Exception) -> Replica:
    async def connect() -> FakeEngine:
        if isinstance(engine, Exception):
            raise engine
        return engine

    return Replica(name, connect)


class Dying(FakeEngine):
    """Answers so many pages, then is gone."""

    def __init__(self, pages: int) -> None:
        super().__init__(self._reply)
        self._left = pages

    def _reply(self, request):
        self._left -= 1
        if self._left < 0:
            raise EngineLost("the server cannot be used")
        return grounded(request)


async def read(engine: BalancedEngine, count: int) -> list[str]:
    async with engine:
        done = await asyncio.gather(*(engine.complete(page()) for _ in range(count)))
    return [completion.text for completion in done]


def test_pages_are_spread():
    engines = FakeEngine(), FakeEngine(), FakeEngine()
    asyncio.run(read(BalancedEngine([replica(str(i), e) for i, e in enumerate(engines)]), 30))
    assert [len(engine.requests) for engine in engines] == [10, 10, 10]


def test_a_costly_page_counts_for_what_it_costs():
    async def run() -> tuple[int, int]:
        engines = FakeEngine(), FakeEngine()
        balanced = BalancedEngine([replica(str(i), e) for i, e in enumerate(engines)])
        async with balanced:
            costly, cheap = page(2000, "gundam-m"), page(100, "tiny")
            await asyncio.gather(*map(balanced.complete, [costly, *[cheap] * 10]))
        return len(engines[0].requests), len(engines[1].requests)

    assert num_vision_tokens(page(2000, "gundam-m")) > 10 * num_vision_tokens(page(100, "tiny"))
    assert asyncio.run(run()) == (1, 10)


def test_pages_of_a_server_that_dies_are_read_by_another():
    engines = Dying(5), FakeEngine()
    texts = asyncio.run(
        read(BalancedEngine([replica(str(i), e) for i, e in enumerate(engines)]), 40)
    )
    assert len(texts) == 40 and all(text.startswith("<|ref|>title") for text in texts)


def test_when_all_are_gone_the_page_is_lost_with_a_sentence():
    with pytest.raises(EngineLost, match="no server is left"):
        asyncio.run(read(BalancedEngine([replica("a", Dying(0)), replica("b", Dying(0))]), 1))
    with pytest.raises(EngineLost, match="no server is left"):
        asyncio.run(read(BalancedEngine([replica("a", EngineLost("x"))]), 1))


def test_what_a_server_says_of_a_page_is_not_asked_of_another():
    def refuse(request):
        raise EngineError("the page is too long")

    engines = FakeEngine(refuse), FakeEngine(refuse)
    with pytest.raises(EngineError, match="too long"):
        asyncio.run(read(BalancedEngine([replica(str(i), e) for i, e in enumerate(engines)]), 1))
    assert len(engines[0].requests) + len(engines[1].requests) == 1


def test_a_server_that_comes_back_is_used_again(monkeypatch):
    monkeypatch.setattr(fleet, "PROBE_SECONDS", 0.01)
    late = FakeEngine()

    async def run() -> None:
        state = {"up": False}

        async def connect() -> FakeEngine:
            if not state["up"]:
                raise EngineLost("not yet")
            return late

        balanced = BalancedEngine([replica("a", FakeEngine()), Replica("late", connect)])
        async with balanced:
            await balanced.complete(page())
            state["up"] = True
            async with asyncio.timeout(5):
                while balanced.replicas.all[1].engine is None:
                    await asyncio.sleep(0.01)
            await asyncio.gather(*(balanced.complete(page()) for _ in range(4)))

    asyncio.run(run())
    assert len(late.requests) == 2


def test_a_drained_server_gets_no_new_pages():
    async def run() -> list[int]:
        engines = FakeEngine(), FakeEngine()
        balanced = BalancedEngine([replica(str(i), e) for i, e in enumerate(engines)])
        async with balanced:
            balanced.replicas.drain("0")
            await asyncio.gather(*(balanced.complete(page()) for _ in range(6)))
        return [len(engine.requests) for engine in engines]

    assert asyncio.run(run()) == [0, 6]


def test_servers_are_found_and_let_go_when_they_have_read_their_pages(monkeypatch):
    monkeypatch.setattr(fleet, "PROBE_SECONDS", 0.01)
    engines = {"a": FakeEngine(), "b": FakeEngine()}
    replicas = {name: replica(name, engine) for name, engine in engines.items()}
    there = ["a"]

    async def discover() -> list[Replica]:
        return [replicas[name] for name in there]

    async def names(balanced: BalancedEngine, expected: list[str]) -> None:
        async with asyncio.timeout(5):
            while [r.name for r in balanced.replicas.all if r.engine is not None] != expected:
                await asyncio.sleep(0.01)

    async def run() -> None:
        balanced = BalancedEngine([], discover=discover)
        async with balanced:
            await balanced.complete(page())
            there.append("b")
            await names(balanced, ["a", "b"])
            there.remove("a")
            await names(balanced, ["b"])
            await balanced.complete(page())

    asyncio.run(run())
    assert [len(engine.requests) for engine in engines.values()] == [1, 1]


def test_every_address_of_a_name_is_a_server():
    async def run() -> list[str]:
        ask = discovery(["http://localhost:8123/v1"], lambda url: Replica(url, None))
        return [found.name for found in await ask()]

    found = asyncio.run(run())
    assert "http://127.0.0.1:8123/v1" in found
    assert split_servers(["dns+http://a:1", "http://b:2"]) == (["http://b:2"], ["http://a:1"])
    assert discovery([], lambda url: None) is None
