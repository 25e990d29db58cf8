"""Adapters of the servers behind a gateway: who names one is answered by a server that has it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from tests.fake_server import Answer, FakeServer, Trouble, fake_server
from tests.fleet.test_gateway_chat import gateway
from tests.service.conftest import serve
from tests.service.documents import data_url, png
from tests.service.test_docling import source, wait_for
from vllm_dsocr.fleet import replicas as fleet
from vllm_dsocr.fleet.routing import BalancedEngine
from vllm_dsocr.server.gateway import create_gateway
from vllm_dsocr.server.run import replica
from vllm_dsocr.server.settings import Settings

BASE = {"id": "fake-reader", "root": "/models/reader", "parent": None}


@contextlib.contextmanager
def lora_server(*adapters: str) -> Iterator[FakeServer]:
    """Lists its model and adapters as vLLM does; says which of them read, and 404 to others."""

    def respond(body: dict[str, Any], image: Image.Image | None) -> Answer | Trouble:
        if body["model"] in [card["id"] for card in server.cards if not card.get("gone")]:
            return Answer(f"read by {body['model']}")
        return Trouble(404, f"The model `{body['model']}` does not exist.")

    with fake_server(respond) as server:
        server.cards = [BASE, {**BASE, "id": "second-name"}, *map(adapter, adapters)]
        yield server


def adapter(name: str, root: str = "") -> dict[str, str]:
    return {"id": name, "root": root or f"/adapters/{name}", "parent": "fake-reader"}


def ask(url: str, model: str | None, text: str = "page") -> httpx.Response:
    chunk = {"type": "image_url", "image_url": data_url(png(text=text))}
    return httpx.post(f"{url}/v1/ocr", json={"model": model, "document": chunk}, timeout=60)


def text_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["pages"][0]["markdown"].strip()


def test_pages_and_chat_go_to_servers_that_have_the_adapter(tmp_path: Path) -> None:
    with (
        lora_server() as plain,
        lora_server("invoices") as tuned,
        gateway(tmp_path, plain.url, tuned.url) as url,
    ):
        assert text_of(ask(url, None)) == "read by fake-reader"
        for number in range(3):
            answer = ask(url, "invoices", f"page {number}")
            assert text_of(answer) == "read by invoices"
            assert answer.json()["model"] == "invoices"
        assert text_of(ask(url, "second-name")) == "read by fake-reader"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        hello = [{"role": "user", "content": "Hello"}]
        for _ in range(3):
            said = client.chat.completions.create(model="invoices", messages=hello)
            assert said.choices[0].message.content == "read by invoices"
        assert "invoices" not in [body["model"] for body in plain.bodies]


def test_an_adapter_comes_is_replaced_and_goes(tmp_path: Path) -> None:
    with lora_server("a", "b") as server, gateway(tmp_path, server.url) as url:
        texts = [text_of(ask(url, name)) for name in ("a", "b", "fake-reader", "a", "b")]
        assert texts == [f"read by {name}" for name in ("a", "b", "fake-reader", "a", "b")]
        assert len(server.bodies) == 3  # the same page by another adapter is another page

        refusal = ask(url, "late")
        assert refusal.status_code == 404 and "late" in refusal.json()["message"]
        server.cards.append(adapter("late"))
        assert text_of(ask(url, "late")) == "read by late"
        server.cards[-1] = adapter("late", "/adapters/another")
        assert text_of(ask(url, "late")) == "read by late"
        assert len(server.bodies) == 5  # another adapter of that name reads for itself
        del server.cards[-1]
        assert ask(url, "late").status_code == 404
        assert text_of(ask(url, None)) == "read by fake-reader"


def test_every_protocol_takes_an_adapter(tmp_path: Path) -> None:
    with lora_server("tuned") as server, gateway(tmp_path, server.url) as url:
        name, page = "tuned", png(text="protocols")
        loaded = httpx.put(f"{url}/process", params={"model": name}, content=page, timeout=60)
        assert loaded.json()[0]["page_content"].strip() == "read by tuned"
        assert loaded.json()[0]["metadata"]["model"] == name

        body = {"sources": [source(page)], "options": {"model": name}}
        done = httpx.post(f"{url}/v1/convert/source", json=body, timeout=60).json()
        assert done["document"]["md_content"].strip() == "read by tuned"
        form = {"files": ("a.png", page, "image/png")}
        task = httpx.post(f"{url}/v1/convert/file/async", files=form, data={"model": name}).json()
        assert wait_for(type("Running", (), {"url": url}), task)["task_status"] == "success"
        done = httpx.get(f"{url}/v1/result/{task['task_id']}").json()
        assert done["document"]["md_content"].strip() == "read by tuned"

        chunk = {"type": "image_url", "image_url": data_url(page)}
        job = {"model": name, "document": chunk}
        job = httpx.post(f"{url}/v1/ocr/jobs", json=job).json()
        httpx.get(f"{url}/v1/ocr/jobs/{job['id']}", params={"wait": 30}, timeout=60)
        read = httpx.get(f"{url}/v1/ocr/jobs/{job['id']}/result").json()
        assert read["model"] == name and read["pages"][0]["markdown"].strip() == "read by tuned"
        assert len(server.bodies) == 1  # one page, whoever asks

        unknown = [
            httpx.put(f"{url}/process", params={"model": "x"}, content=page),
            httpx.post(f"{url}/v1/convert/file", files=form, data={"model": "x"}),
            httpx.post(f"{url}/v1/ocr/jobs", json={"model": "x", "document": chunk}),
        ]
        assert [answer.status_code for answer in unknown] == [404, 404, 404]
        assert httpx.get(f"{url}/v1/files").json()["total"] == 0


def test_a_server_without_the_adapter_any_more_is_no_server_at_fault(tmp_path: Path) -> None:
    """It went between the look and the page: the page goes to the other, nobody is blamed."""
    with (
        lora_server("tuned") as first,
        lora_server("tuned") as second,
        gateway(tmp_path, first.url, second.url) as url,
    ):
        assert text_of(ask(url, "tuned", "before")) == "read by tuned"
        forgetful = first if first.bodies else second
        forgetful.cards[-1] = {**adapter("tuned"), "gone": True}
        for text in ("after", "and again", "and once more"):
            assert text_of(ask(url, "tuned", text)) == "read by tuned"
        assert len(forgetful.bodies) == 4
        metrics = httpx.get(f"{url}/metrics/").text
        assert metrics.count("dsocr_replica_failures_total{") == 2
        for line in metrics.splitlines():
            if line.startswith(("dsocr_replica_failures_total{", "dsocr_replica_ready{")):
                assert line.endswith(" 0.0" if "failures" in line else " 1.0")


def test_while_its_only_server_is_away_the_adapter_is_unavailable_not_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "PROBE_SECONDS", 0.05)
    with lora_server() as plain, contextlib.ExitStack() as stack:
        tuned = stack.enter_context(lora_server("tuned"))
        with gateway(tmp_path, plain.url, tuned.url) as url:
            assert text_of(ask(url, "tuned")) == "read by tuned"
            stack.close()
            away = ask(url, "tuned", "while it is away")
            assert away.status_code == 503 and away.headers["retry-after"]
            assert text_of(ask(url, None, "by the other")) == "read by fake-reader"


def test_a_job_waits_for_servers_that_have_not_answered_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway that starts first takes jobs; under which name they are kept is known later."""
    monkeypatch.setattr(fleet, "PROBE_SECONDS", 0.05)
    monkeypatch.setattr("vllm_dsocr.server.work.jobs._ENGINE_PAUSE_SECONDS", 0.05)
    up = False
    with lora_server("tuned") as server:
        late = replica(server.url, None, None)
        connect = late.connect

        async def when_up() -> Any:
            if not up:
                raise fleet.EngineLost("not yet")
            return await connect()

        late.connect = when_up
        settings = Settings(data=tmp_path / "data", draw_processes=1)
        app = create_gateway(BalancedEngine([late]), settings, CollectorRegistry())
        with serve(app) as url:
            chunk = {"type": "image_url", "image_url": data_url(png())}
            job = httpx.post(f"{url}/v1/ocr/jobs", json={"model": "tuned", "document": chunk})
            assert job.status_code == 202
            assert ask(url, "tuned").status_code == 503
            up = True
            at = f"{url}/v1/ocr/jobs/{job.json()['id']}"
            assert httpx.get(at, params={"wait": 30}, timeout=60).json()["status"] == "success"
            pages = httpx.get(f"{at}/pages", params={"numbers": 1}).json()["data"]
            assert "read by tuned" in pages[0]["html"]
