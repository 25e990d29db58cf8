"""Servers of other shapes: two API processes, a shared-memory cache, embeddings, batches, engines.

Longer than a minute in all, so out of the fast suite.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("vllm")
pytest.importorskip("openai")

import torch

from examples.demo import served
from tests.server.test_request_kinds import (
    CHAT,
    MESSAGES,
    PAGE,
    RESPONSES,
    TEXT,
    ask,
    page,
    post,
    text,
)
from vllm_dsocr.document.loops import loop_start

pytestmark = pytest.mark.slow

TINY = Path(__file__).parent.parent / "data" / "tiny-random"
COMMON = ("--dtype=float32", "--enforce-eager", "--max-model-len=2048")
FLAGS = (
    *COMMON,
    "--served-model-name=tiny",
    "--api-server-count=2",
    "--mm-processor-cache-type=shm",
    "--enable-prompt-embeds",
    "--trust-request-mm-kwargs",
)
VLLM = Path(sys.executable).with_name("vllm")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # several processes, few cores
        with served(TINY, *FLAGS) as base:
            yield base.removesuffix("/v1")


def test_two_api_servers_and_one_cache_in_shared_memory(url: str) -> None:
    """Whichever process takes a request, and whether the page is cached or not."""
    requests = [{"mm_processor_kwargs": {"mode": mode}} for mode in ("tiny", "gundam")] * 6
    with ThreadPoolExecutor(4) as clients:
        answers = list(
            clients.map(lambda f: post(url, CHAT, {"model": "tiny", **page(PAGE, **f)}), requests)
        )
    assert {status for status, _ in answers} == {200}
    texts = [answer["choices"][0]["message"]["content"] for _, answer in answers]
    assert len(set(texts[::2])) == len(set(texts[1::2])) == 1


@pytest.mark.parametrize(("width", "expected"), [(64, 200), (32, 400)])
def test_prompts_as_embeddings(url: str, width: int, expected: int) -> None:
    file = io.BytesIO()
    torch.save(torch.ones(5, width), file)
    body = {"model": "tiny", "prompt_embeds": base64.b64encode(file.getvalue()).decode()}
    assert post(url, TEXT, {**body, "max_tokens": 2})[0] == expected
    assert post(url, TEXT, {"model": "tiny", "prompt": "x", "max_tokens": 1})[0] == 200


def test_vllms_own_benchmark(url: str) -> None:
    command = [VLLM, "bench", "serve", "--base-url", url, "--model", "tiny"]
    command += ["--tokenizer", TINY, "--dataset-name", "random", "--num-prompts", "4"]
    command += ["--random-input-len", "8", "--random-output-len", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Successful requests:" in done.stdout
    (line,) = (line for line in done.stdout.splitlines() if "Successful requests:" in line)
    assert line.split()[-1] == "4"


def test_a_batch_in_a_file(tmp_path: Path) -> None:
    bodies = [{"model": "tiny", **page(PAGE)}, {"model": "tiny", **page("data:image/png;base64,")}]
    lines = [
        json.dumps({"custom_id": str(number), "method": "POST", "url": CHAT, "body": body})
        for number, body in enumerate(bodies)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    command = [VLLM, "run-batch", "-i", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl"]
    command += ["--model", TINY, "--served-model-name", "tiny", *COMMON]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    codes = [(a.get("response") or {}).get("status_code") for a in answers]
    assert codes[0] == 200
    assert answers[1]["error"] or codes[1] == 400


def events(url: str, route: str, **fields: object) -> list[dict]:
    """What a stream says, one object after the other."""
    body = {"model": "tiny", "stream": True, **fields}
    request = urllib.request.Request(
        f"{url}{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=300) as stream:
        lines = [line[6:] for line in stream.read().decode().splitlines() if line[:5] == "data:"]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def test_what_each_route_says_of_an_answer_that_went_in_circles() -> None:
    """The table of docs/serving.md; without the guard a model of random numbers is soon there."""
    flags = {"dsocr": {"guard": False, "loop_detection": True}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        with served(
            TINY, *COMMON, "--served-model-name=tiny", f"--additional-config={json.dumps(flags)}"
        ) as base:
            url = base.removesuffix("/v1")
            chat = {"messages": [{"role": "user", "content": "Free OCR."}], "max_tokens": 1500}
            answers = {
                route: ask(url, route, **fields)[1]
                for route, fields in (
                    (TEXT, {"max_tokens": 1500}), (CHAT, chat), (MESSAGES, chat),
                    (RESPONSES, {"max_output_tokens": 1500}),
                )
            }  # fmt: skip
            streams = {route: events(url, route, **chat) for route in (CHAT, MESSAGES)}
            streams[RESPONSES] = events(url, RESPONSES, input="Free OCR.", max_output_tokens=1500)
    for route in (TEXT, CHAT):
        (choice,) = answers[route]["choices"]
        assert choice["finish_reason"] == "repetition"
        assert choice["stop_reason"] == "repetition_detected"
    assert answers[MESSAGES].get("stop_reason") is None
    response = answers[RESPONSES]
    assert (response["status"], response["incomplete_details"]) == ("completed", None)
    assert loop_start(response["output"][-1]["content"][0]["text"]) is not None
    ends = [e["choices"][0].get("finish_reason") for e in streams[CHAT] if e["choices"]]
    assert ends[-1] == "repetition"
    (delta,) = [e["delta"] for e in streams[MESSAGES] if e["type"] == "message_delta"]
    assert delta.get("stop_reason") is None
    assert streams[RESPONSES][-1]["type"] == "response.completed"


def test_data_parallel_engines_share_requests_and_answer_alike() -> None:
    """In lock-step, since the model has experts (tests/plugin/setup/test_defaults.py)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        flags = (*COMMON, "--served-model-name=tiny", "--data-parallel-size=2")
        with served(TINY, *flags) as base:
            url = base.removesuffix("/v1")
            body = {"model": "tiny", **page(PAGE), "max_tokens": 40}
            with ThreadPoolExecutor(8) as clients:
                answers = list(clients.map(lambda _: post(url, CHAT, body), range(8)))
            alone = post(url, CHAT, body)  # the other engine keeps step with nothing to do
            with urllib.request.urlopen(f"{url}/metrics", timeout=30) as metrics:
                lines = metrics.read().decode().splitlines()
    assert {status for status, _ in (*answers, alone)} == {200}
    assert len({text(answer) for _, answer in (*answers, alone)}) == 1
    done = [line for line in lines if line.startswith("vllm:request_success_total")]
    served_by = {
        engine: sum(float(line.split()[-1]) for line in done if f'engine="{engine}"' in line)
        for engine in "01"
    }
    assert all(served_by.values()) and sum(served_by.values()) == 9
