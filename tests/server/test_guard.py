"""Defaults and the repetition guard over HTTP, for clients that state nothing but a prompt."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_dsocr.repetition import NGramGuard, NGramRule

pytest.importorskip("vllm")
openai = pytest.importorskip("openai")

PROMPT = "Free OCR."
CELL = 886  # <td> of the tiny checkpoint
BAD = [
    ({"ngram_size": "x"}, "ngram_size"),
    ({"ngram_size": -1}, "ngram_size"),
    ({"ngram_size": 5, "window_size": 0}, "window_size"),
    ({"whitelist_token_ids": 5}, "whitelist_token_ids"),
]


@pytest.fixture(scope="module")
def client(server_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)


def chat(client: openai.OpenAI, tokens: int = 8, **fields: Any) -> Any:
    """The first choice of a request without sampling parameters; `fields` are vLLM's own."""
    messages = [{"role": "user", "content": PROMPT}]
    answer = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=tokens, extra_body=fields
    )
    return answer.choices[0]


def completion(client: openai.OpenAI, tokens: int = 8, **fields: Any) -> Any:
    answer = client.completions.create(
        model="tiny", prompt=PROMPT, max_tokens=tokens, extra_body=fields
    )
    return answer.choices[0]


def test_bare_requests_are_greedy_whichever_api_they_use(client: openai.OpenAI) -> None:
    answers = {chat(client, temperature=0).message.content}
    answers |= {chat(client).message.content for _ in range(2)}
    answers |= {completion(client).text for _ in range(2)}
    assert len(answers) == 1


@pytest.mark.parametrize(("options", "named"), BAD)
@pytest.mark.parametrize("ask", [chat, completion])
def test_a_bad_option_is_refused_by_name(
    client: openai.OpenAI, ask: Any, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=named):
        ask(client, vllm_xargs=options)
    assert ask(client).finish_reason == "length"


def test_a_request_may_change_the_rule(client: openai.OpenAI) -> None:
    options = {"ngram_size": 4, "window_size": 12, "whitelist_token_ids": []}
    fields = {"logit_bias": {"300": 100, "301": 100}, "return_token_ids": True}
    answer = completion(client, tokens=60, vllm_xargs=options, **fields)
    seen: list[int] = []
    guard = NGramGuard(NGramRule(4, 12), seen)
    for token in answer.token_ids:
        assert token not in guard.banned()
        seen.append(token)
    assert len(seen) == 60


def test_a_loop_is_ended_and_reported(client: openai.OpenAI) -> None:
    answer = chat(client, tokens=400, allowed_token_ids=[CELL])
    assert answer.finish_reason == "repetition"
    assert set(answer.message.content.replace("<td>", "|")) == {"|"}
    assert answer.message.content.count("<td>") < 400
