"""The OpenAI-compatible engine against a server that really answers, errs and hangs up."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest
from PIL import Image

from tests.fake_server import Answer, FakeServer, Raw, Trouble, fake_server, page_text
from vllm_dsocr.engine import Completion, EngineError, EngineLost, Request
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.repetition import NGramRule

pytest.importorskip("openai", reason="pip install 'vllm-dsocr[client]'")

from vllm_dsocr.server_engine import ServerEngine, _finish, api_url  # noqa: E402

PAGE = Image.new("RGB", (64, 48), (200, 30, 30))


def _ask(server: FakeServer, retries: int = 3, **options: Any) -> Completion:
    async def ask() -> Completion:
        engine = await ServerEngine.connect(server.url, max_retries=retries)
        async with engine:
            return await engine.complete(Request(PAGE, TASKS["markdown"], **options))

    return asyncio.run(ask())


def test_the_page_arrives_as_it_is_and_the_text_comes_back() -> None:
    with fake_server() as server:
        completion = _ask(server)
    assert completion.text == page_text({}, PAGE).text
    assert (completion.finish, completion.num_text_tokens) == ("stop", 7)
    assert completion.num_vision_tokens == 120 - 10 + 1


def test_only_what_was_asked_for_is_sent() -> None:
    with fake_server() as server:
        _ask(server)
        _ask(server, mode="base", max_tokens=50, temperature=0.2, guard=NGramRule(20, 1024))
    bare, full = server.bodies
    assert bare["model"] == "fake-reader"
    assert bare["temperature"] == 0
    assert bare["skip_special_tokens"] is False
    assert not {"max_tokens", "mm_processor_kwargs", "vllm_xargs"} & set(bare)
    texts = [part["text"] for part in bare["messages"][0]["content"] if part["type"] == "text"]
    assert texts == ["<|grounding|>Convert the document to markdown."]
    assert full["mm_processor_kwargs"] == {"mode": "base"}
    assert full["vllm_xargs"] == {"ngram_size": 20, "window_size": 1024}
    assert (full["max_tokens"], full["temperature"]) == (50, 0.2)


def test_logprobs_come_with_the_tokens_where_they_were_asked_for() -> None:
    content = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": " b", "logprob": 0}]
    with fake_server(lambda *_: Answer("a b", logprobs={"content": content})) as server:
        assert _ask(server, logprobs=True).tokens == (("a", -0.5), (" b", 0.0))
        _ask(server)
    asked, not_asked = server.bodies
    assert asked["logprobs"] is True and "logprobs" not in not_asked


@pytest.mark.parametrize(
    "logprobs",
    [None, [], {}, {"content": None}, {"content": [1]}, {"content": [{"token": "a"}]}]
    + [{"content": [{"token": "a", "logprob": value}]} for value in ("1", None, float("nan"))],
)
def test_a_server_without_logprobs_still_has_a_text(logprobs: Any) -> None:
    with fake_server(lambda *_: Answer("a b", logprobs=logprobs)) as server:
        completion = _ask(server, logprobs=True)
    assert (completion.text, completion.tokens) == ("a b", ())


@pytest.mark.parametrize("trouble", [Trouble(429), Trouble(503), Trouble(500), Trouble(0)])
def test_passing_trouble_is_waited_out(trouble: Trouble) -> None:
    left = [trouble, trouble]
    with fake_server(lambda *page: left.pop() if left else page_text(*page)) as server:
        assert _ask(server).text
    assert len(server.bodies) == 3


def test_a_refusal_is_the_servers_own_sentence() -> None:
    refusal = Trouble(400, "mode must be one of\n tiny, small")
    with (
        fake_server(lambda *_: refusal) as server,
        pytest.raises(EngineError, match="^mode must be one of tiny, small$"),
    ):
        _ask(server)
    assert len(server.bodies) == 1


def test_lasting_trouble_with_one_page_is_that_pages_error() -> None:
    with fake_server(lambda *_: Trouble(500, "broken")) as server, pytest.raises(EngineError):
        _ask(server, retries=1)
    assert len(server.bodies) == 2


ODD = [
    b"<html>Bad gateway</html>",
    b'{"choices": [{"mess',
    b'{"choices": [{}]}',
    b'{"choices": []}',
    b'{"choices": [{"message": {"content": 7}}]}',
    b'{"choices": {"a": 1}}',
    b"[1, 2]",
    b"null",
    b"",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_an_odd_answer_is_that_pages_error(body: bytes) -> None:
    for media_type in ("application/json", "text/html"):
        with (
            fake_server(lambda *_, kind=media_type: Raw(body, kind)) as server,
            pytest.raises(EngineError, match="the server's answer"),
        ):
            _ask(server, retries=0)


def test_an_answer_without_usage_or_in_parts_is_an_answer() -> None:
    parts = [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]
    body = json.dumps({"choices": [{"message": {"content": parts}}]}).encode()
    with fake_server(lambda *_: Raw(body)) as server:
        completion = _ask(server)
    assert (completion.text, completion.finish) == ("one two", "stop")
    assert (completion.num_text_tokens, completion.num_vision_tokens) == (0, None)


def test_one_broken_connection_is_not_the_end() -> None:
    with (
        fake_server(lambda *_: Trouble(0)) as server,
        pytest.raises(EngineError, match="the connection broke"),
    ):
        _ask(server, retries=0)


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("http://host/v1/chat/completions", "http://host/v1"),
        ("https://host/api/openai", "https://host/api/openai"),
        ("host:8000", "http://host:8000/v1"),
    ],
)
def test_the_address_may_be_what_a_person_types(typed: str, url: str) -> None:
    assert api_url(typed) == url


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_no_page_gets_past_ends_the_run(status: int) -> None:
    with (
        fake_server(lambda *_: Trouble(status, "no such model")) as server,
        pytest.raises(EngineLost, match="no such model"),
    ):
        _ask(server)


def test_a_server_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(EngineLost, match="no answer from"):
        asyncio.run(ServerEngine.connect(url, max_retries=0))


@pytest.mark.parametrize(
    ("reason", "finish"), [("length", "length"), ("repetition", "repetition"), ("stop", "stop")]
)
def test_why_it_ended(reason: str, finish: str) -> None:
    with fake_server(lambda *_: Answer("x", reason)) as server:
        assert _ask(server).finish == finish


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
def test_what_was_cut_off_has_not_stopped(reason: str) -> None:
    assert _finish(reason) == "abort"
