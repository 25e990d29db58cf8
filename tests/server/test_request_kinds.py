"""Every kind of request that vLLM knows, once, against a server that has our defaults in force.

(route, fields) -> what comes back. None of the defaults may change what a request asked for.

Kinds that need an engine or server of another shape are elsewhere: two API servers, the cache in
shared memory, prompts as embeddings, batches in files, `vllm bench serve`, data-parallel engines
and a loop on every route in test_other_servers.py, adapters in test_lora.py, preemption in
tests/plugin/test_preemption.py, splits over processes in tests/plugin/test_parallel.py, what nobody
should send in test_hostile.py.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm_dsocr.document.loops import loop_start

DATA = Path(__file__).parent.parent / "data"
TEXT, CHAT, RESPONSES, MESSAGES = (
    "/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"
)  # fmt: skip
PROMPT = "Free OCR."
CELL = {"logit_bias": {"886": 100}}  # the model writes <td> without end
PAGE = (
    "data:image/png;base64,"
    + base64.b64encode((DATA / "images" / "v3_small.png").read_bytes()).decode()
)
DOT = (  # an image of its own: vLLM caches it before it refuses the request
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)
PAID = {
    "type": "object",
    "properties": {"paid": {"const": True}, "amounts": {"const": [0] * 40}},
    "required": ["paid", "amounts"],
    "additionalProperties": False,
}
TAG = {"type": "structural_tag", "format": {"type": "const_string", "value": "ab" * 60}}
Answer = tuple[int, dict[str, Any]]


def post(url: str, path: str, body: dict[str, Any]) -> Answer:
    request = urllib.request.Request(
        url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def ask(url: str, route: str, **fields: Any) -> Answer:
    """The prompt of every case in the words of the route; `fields` may replace it."""
    chat = [{"role": "user", "content": PROMPT}]
    body: dict[str, Any] = {
        TEXT: {"prompt": PROMPT, "max_tokens": 600, "return_token_ids": True},
        CHAT: {"messages": chat, "max_tokens": 600},
        RESPONSES: {"input": PROMPT, "max_output_tokens": 400},
        MESSAGES: {"messages": chat, "max_tokens": 5},
    }[route]
    return post(url, route, {"model": "tiny", **body, **fields})


def page(url: str | None, uuid: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chat about one image."""
    image: dict[str, Any] = {"type": "image_url", "image_url": url and {"url": url}}
    content = [image | ({"uuid": uuid} if uuid else {}), {"type": "text", "text": PROMPT}]
    return {"messages": [{"role": "user", "content": content}], "max_tokens": 3, **fields}


def text(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    return choice["text"] if "text" in choice else choice["message"]["content"]


def is_text(expected: str, finish: str = "stop") -> Callable[[dict[str, Any]], bool]:
    return lambda a: text(a) == expected and a["choices"][0]["finish_reason"] == finish


def has_choices(number: int) -> Callable[[dict[str, Any]], bool]:
    return lambda a: len(a["choices"]) == number


def ends(finish: str, tokens: int) -> Callable[[dict[str, Any]], bool]:
    return lambda a: (
        a["choices"][0]["finish_reason"] == finish and a["usage"]["completion_tokens"] == tokens
    )


def only_ids(*allowed: int) -> Callable[[dict[str, Any]], bool]:
    return lambda a: set(a["choices"][0]["token_ids"]) <= set(allowed)


ANSWERED: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], bool]]] = {
    "regex": (TEXT, {"structured_outputs": {"regex": "Q{300}"}}, is_text("Q" * 300)),
    "records": (
        TEXT,
        {"structured_outputs": {"regex": r'(\{"paid":"(yes|no)","amount":0\},){14}'}},
        lambda a: bool(re.fullmatch(r'(\{"paid":"(yes|no)","amount":0\},){14}', text(a))),
    ),
    "choice": (TEXT, {"structured_outputs": {"choice": ["ab", "cd"]}},
               lambda a: text(a) in ("ab", "cd")),
    "grammar": (TEXT, {"structured_outputs": {"grammar": 'root ::= "xy" "xy" "."'}},
                is_text("xyxy.")),
    "json": (TEXT, {"structured_outputs": {"json": {"const": [0] * 60}}},
             lambda a: json.loads(text(a)) == [0] * 60),
    "structural tag": (TEXT, {"structured_outputs": {"structural_tag": json.dumps(TAG)}},
                       is_text("ab" * 60)),
    "json schema": (
        CHAT,
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PAID}},
         "structured_outputs": {"json": PAID, "disable_any_whitespace": True}},
        lambda a: json.loads(text(a)) == {"paid": True, "amounts": [0] * 40},
    ),
    "json object": (
        CHAT, {"response_format": {"type": "json_object"}, "max_tokens": 30, "min_tokens": 30},
        lambda a: text(a).lstrip().startswith("{")),
    "allowed tokens": (TEXT, {"allowed_token_ids": [300], "max_tokens": 100}, only_ids(300)),
    "allowed tokens, rule": (
        TEXT,
        {"allowed_token_ids": [300], "vllm_xargs": {"ngram_size": 2}, "max_tokens": 20},
        only_ids(300),
    ),
    "bad words": (TEXT, {"bad_words": ["gu"], "max_tokens": 20}, lambda a: "gu" not in text(a)),
    "beam search": (TEXT, {"use_beam_search": True, "n": 2, "max_tokens": 5}, has_choices(2)),
    "beam search, chat": (CHAT, {"use_beam_search": True, "n": 2, "max_tokens": 5}, has_choices(2)),
    "n": (TEXT, {"n": 3, "temperature": 0.8, "max_tokens": 4}, has_choices(3)),
    "logprobs": (TEXT, {"logprobs": 2, "max_tokens": 2},
                 lambda a: len(a["choices"][0]["logprobs"]["top_logprobs"]) == 2),
    "logprobs, chat": (
        CHAT, {"logprobs": True, "top_logprobs": 2, "max_tokens": 2},
        lambda a: [len(t["top_logprobs"]) for t in a["choices"][0]["logprobs"]["content"]]
        == [2, 2]),
    "prompt logprobs": (TEXT, {"prompt_logprobs": 1, "max_tokens": 1},
                        lambda a: len(a["choices"][0]["prompt_logprobs"]) == 7),
    "prompt logprobs of a page": (CHAT, page(PAGE, prompt_logprobs=0), has_choices(1)),
    "prompt as ids": (TEXT, {"prompt": [0, 40, 608], "max_tokens": 2}, ends("length", 2)),
    "echo": (TEXT, {"echo": True, "max_tokens": 2, "return_token_ids": False},
             lambda a: text(a).startswith(PROMPT)),
    "stop string": (TEXT, {"stop": ["e"]}, lambda a: a["choices"][0]["stop_reason"] == "e"),
    "min tokens": (TEXT, {"min_tokens": 5, "max_tokens": 5}, ends("length", 5)),
    "penalties": (
        TEXT,
        {"presence_penalty": 1.0, "frequency_penalty": 1.0, "repetition_penalty": 1.2, "top_k": 3,
         "top_p": 0.9, "min_p": 0.1, "seed": 3, "temperature": 0.5, "max_tokens": 6},
        has_choices(1),
    ),
    "priority": (TEXT, {"priority": 3, "max_tokens": 2}, ends("length", 2)),
    "loop": (TEXT, CELL, ends("repetition", 240)),
    "loop, off": (TEXT, {**CELL, "vllm_xargs": {"ngram_size": 0}}, ends("length", 600)),
    "loop, stated": (
        TEXT, {**CELL, "repetition_detection": {"max_pattern_size": 1, "min_count": 5}},
        ends("repetition", 5),
    ),
    "responses": (RESPONSES, {"max_output_tokens": 4}, lambda a: a["status"] == "incomplete"),
    "responses, loop": (RESPONSES, CELL, lambda a: (
        a["status"] == "completed" and a["usage"]["output_tokens"] == 240
        and loop_start(a["output"][-1]["content"][0]["text"]) is not None)),
    "responses, loop, off": (
        RESPONSES, {**CELL, "vllm_xargs": {"ngram_size": 0}},
        lambda a: a["incomplete_details"]["reason"] == "max_output_tokens",
    ),
    "messages": (MESSAGES, {}, lambda a: a["stop_reason"] == "max_tokens"),
    "continued": (
        CHAT,
        {"messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "A "}],
         "continue_final_message": True, "add_generation_prompt": False, "max_tokens": 2},
        has_choices(1),
    ),
}  # fmt: skip

REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "n, greedy by default": (TEXT, {"n": 3}, "n must be 1 when using greedy sampling"),
    "uuid of no image": (CHAT, page(None, "nobody"), "Cache miss"),
    "image token without image": (TEXT, {"prompt": [0, 880]}, "1 <image> tags for 0 images"),
    "image tag of the system": (
        CHAT, {"messages": [{"role": "system", "content": "<image>"},
                            {"role": "user", "content": "x"}]}, "1 <image> tags for 0 images"),
    "local file": (CHAT, page("file:///etc/hostname"), "local files"),
    "address that does not answer": (CHAT, page("http://127.0.0.1:9/x.png"), "cannot be fetched"),
    "rule of a huge token": (
        TEXT, {"vllm_xargs": {"whitelist_token_ids": [10**12]}}, "whitelist_token_ids: a token id"),
    "loops of every size": (
        TEXT, {"repetition_detection": {"max_pattern_size": 10**9, "min_count": 2}},
        "repetition_detection asks for too much"),
    "rule of a large size": (TEXT, {"vllm_xargs": {"ngram_size": 257}}, "256 at most"),
    "rule of a huge size": (TEXT, {"vllm_xargs": {"ngram_size": 1e308}}, "ngram_size must be"),
    "bad grammar": (TEXT, {"structured_outputs": {"regex": "(("}}, "invalid regex|Grammar error"),
    "bad option": (CHAT, page(PAGE, mm_processor_kwargs={"mode": ["base"]}), "mode must be one"),
    "image cut off": (CHAT, page(DOT, truncate_prompt_tokens=10), "split or drop"),
    "named tool": (
        CHAT,
        {"tools": [{"type": "function", "function": {"name": "pay", "parameters": PAID}}],
         "tool_choice": {"type": "function", "function": {"name": "pay"}}},
        "tool-call-parser",
    ),
    "sound": (
        CHAT,
        {"messages": [{"role": "user", "content": [
            {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}]}]},
        "audio",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERED)
def test_a_request_gets_what_it_asks_for(server_url: str, kind: str) -> None:
    route, fields, holds = ANSWERED[kind]
    status, answer = ask(server_url, route, **fields)
    assert status == 200, answer
    assert holds(answer), answer


@pytest.mark.parametrize("kind", REFUSED)
def test_a_request_that_cannot_be_is_refused(server_url: str, kind: str) -> None:
    route, fields, words = REFUSED[kind]
    status, answer = ask(server_url, route, **fields)
    assert (status, bool(re.search(words, answer["error"]["message"]))) == (400, True), answer
    assert ask(server_url, TEXT, max_tokens=1)[0] == 200


def test_an_image_may_be_named_once_it_is_known(server_url: str) -> None:
    first = ask(server_url, CHAT, **page(PAGE, "page-1"))
    assert ask(server_url, CHAT, **page(None, "page-1"))[1]["choices"] == first[1]["choices"]


def test_a_stream_with_usage(server_url: str) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3, "stream": True}
    body["stream_options"] = {"include_usage": True}
    request = urllib.request.Request(
        f"{server_url}{TEXT}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as stream:
        lines = [line[6:] for line in stream.read().decode().splitlines() if line]
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] == 3


def test_messages_have_no_end_for_a_loop() -> None:
    """As docs/serving.md tells clients: no loop can be forced there, so vLLM's table is asked."""
    from vllm.entrypoints.anthropic.serving import _to_anthropic_stop_reason

    assert _to_anthropic_stop_reason("repetition", "repetition_detected", False, False)[0] is None
    assert _to_anthropic_stop_reason("stop", None, False, False)[0] == "end_turn"
