"""`/v1/ocr` and `/v1/files` as a client of Mistral's uses them."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
from PIL import Image

from tests.fake_engine import FakeEngine
from tests.service.documents import data_url, pdf, png
from vllm_dsocr.engine import Completion, EngineError, EngineLost, Token


def image_chunk(data: bytes | None = None) -> dict:
    return {"type": "image_url", "image_url": data_url(data or png())}


def ask(running, **body) -> httpx.Response:
    body = {"model": "deepseek-ocr", "document": image_chunk(), **body}
    return httpx.post(f"{running.url}/v1/ocr", json=body, timeout=60)


def test_a_page_comes_back_with_text_figures_and_size(service):
    answer = ask(service, include_image_base64=True, include_blocks=True)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (page,) = body["pages"]
    assert page["index"] == 0 and page["markdown"].startswith("# Page ")
    assert page["dimensions"] == {"dpi": 144, "width": 300, "height": 400}
    (image,) = page["images"]
    assert f"]({image['id']})" in page["markdown"]
    crop = Image.open(io.BytesIO(base64.b64decode(image["image_base64"].partition(",")[2])))
    assert crop.size == (image["bottom_right_x"], image["bottom_right_y"]) == (149, 199)
    assert [block["type"] for block in page["blocks"]] == ["title", "image"]
    assert page["blocks"][1]["image_id"] == image["id"]
    assert body["usage_info"]["pages_processed"] == 1
    assert body["document_annotation"] is None


def test_pages_are_chosen_from_zero(service):
    url = data_url(pdf(5), "application/pdf")
    document = {"type": "document_url", "document_url": url}
    for pages, indices in [([0, 3], [0, 3]), ("0,2-3", [0, 2, 3]), (None, [0, 1, 2, 3, 4])]:
        answer = ask(service, document=document, pages=pages).json()
        assert [page["index"] for page in answer["pages"]] == indices
    assert ask(service, document=document, pages=[17]).status_code == 422
    assert ask(service, document=document, pages="3-1").status_code == 400
    assert ask(service, document=document, pages=[-1]).status_code == 400


def test_upload_url_ocr_delete_in_the_order_of_products(service):
    with httpx.Client(base_url=f"{service.url}/v1", timeout=60) as client:
        sent = client.post(
            "/files", data={"purpose": "ocr"}, files={"file": ("a page.png", png(text="upload"))}
        ).json()
        assert sent["object"] == "file" and sent["filename"] == "a page.png"
        url = client.get(f"/files/{sent['id']}/url", params={"expiry": 24}).json()["url"]
        assert client.get(url).content == png(text="upload")
        chunk = {"type": "document_url", "document_url": url}
        by_url = client.post("/ocr", json={"model": "fake", "document": chunk})
        chunk = {"type": "file", "file_id": sent["id"]}
        by_id = client.post("/ocr", json={"model": "fake", "document": chunk})
        assert by_url.json()["pages"] == by_id.json()["pages"] != []
        assert sent["id"] in [file["id"] for file in client.get("/files").json()["data"]]
        gone = client.delete(f"/files/{sent['id']}").json()
        assert gone == {"id": sent["id"], "object": "file", "deleted": True}
        assert client.get(f"/files/{sent['id']}").status_code == 404
        assert client.post("/ocr", json={"model": "fake", "document": chunk}).status_code == 404


def test_a_page_is_read_once_however_often_it_is_asked_for(service):
    document = image_chunk(png(text="once"))
    first = ask(service, document=document).json()
    asked = len(service.engine.requests)
    assert ask(service, document=document).json()["pages"] == first["pages"]
    assert len(service.engine.requests) == asked
    ask(service, document=document, mode="tiny")
    assert len(service.engine.requests) > asked


def inline(text: str) -> list[httpx.Request]:
    """A picture sent inline by every route that waits for it."""
    url, data = "http://service", png(text=text)
    encoded = base64.b64encode(data).decode()
    source = {"kind": "file", "base64_string": encoded, "filename": "a.png"}
    body = {"document": image_chunk(data)}
    return [
        httpx.Request("POST", f"{url}/v1/ocr", json=body),
        httpx.Request("POST", f"{url}/v1/ocr", json={**body, "stream": True}),
        httpx.Request("PUT", f"{url}/process", content=data),
        httpx.Request("POST", f"{url}/v1/convert/source", json={"sources": [source]}),
        httpx.Request("POST", f"{url}/v1/convert/file", files={"files": ("a.png", data)}),
    ]


def test_what_was_sent_inline_is_not_kept_and_costs_no_quota(start):
    running = start(quota_bytes=3 * len(png()))
    service, blobs = running.app.state.dsocr_service, running.app.state.dsocr_service.blobs
    for number in range(3):
        with httpx.Client(timeout=60) as client:
            for request in inline(f"inline {number}"):
                request.url = httpx.URL(running.url + request.url.path)
                request.headers["host"] = request.url.netloc.decode()
                answer = client.send(request)
                assert answer.status_code == 200, (request.url, answer.text)
    assert httpx.get(f"{running.url}/v1/files").json()["total"] == 0
    assert service.database.stored_bytes("") == 0
    assert not list(service.settings.data.rglob("blobs/files/*/*"))
    assert len(running.engine.requests) == 3  # and is known all the same
    body = {"document": image_chunk(png(text="job"))}
    job = httpx.post(f"{running.url}/v1/ocr/jobs", json=body).json()["id"]
    httpx.get(f"{running.url}/v1/ocr/jobs/{job}", params={"wait": 20}, timeout=60)
    assert service.database.stored_bytes("") > 0  # the web page shows it
    assert httpx.get(f"{running.url}/v1/files").json()["data"] == []
    assert httpx.delete(f"{running.url}/v1/ocr/jobs/{job}").status_code == 200
    assert service.database.stored_bytes("") == 0 and blobs.is_local


def test_the_same_document_of_many_at_once(start):
    running = start(FakeEngine(max_in_flight=8))
    with ThreadPoolExecutor(16) as pool:
        answers = [pool.submit(ask, running, document=image_chunk()) for _ in range(48)]
        assert {answer.result().status_code for answer in answers} == {200}
    assert not list(running.app.state.dsocr_service.settings.data.rglob("blobs/files/*/*"))


def broken(text: str) -> str:
    return "\r\n ".join(text[i : i + 76] for i in range(0, len(text), 76))


@pytest.mark.parametrize(
    "written",
    [
        broken,
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: quote(text, safe=""),
        lambda text: f" {text}\n",
    ],
)
def test_base64_is_read_however_clients_write_it(service, written):
    data = png(text="a")
    data += b"\0" * (1 if len(data) % 3 == 0 else 0)  # so that there is padding
    encoded = base64.b64encode(data).decode()
    assert "+" in encoded and "/" in encoded
    url = f"DATA:image/png;name=a.png;base64,{written(encoded)}"
    for chunk in ({"url": url}, url):
        answer = ask(service, document={"type": "image_url", "image_url": chunk})
        assert answer.status_code == 200 and answer.json()["pages"][0]["status"] == "ok"


def test_pages_with_spaces_and_no_pages_at_all(service):
    document = {"type": "document_url", "document_url": data_url(pdf(4), "application/pdf")}
    for pages, indices in [(" 0 , 2 - 3 ", [0, 2, 3]), ("", [0, 1, 2, 3]), ([], [0, 1, 2, 3])]:
        answer = ask(service, document=document, pages=pages).json()
        assert [page["index"] for page in answer["pages"]] == indices


def test_streamed_pages_come_as_events(service):
    url = data_url(pdf(3, size=(310, 420)), "application/pdf")
    body = {
        "model": "fake",
        "document": {"type": "document_url", "document_url": url},
        "stream": True,
    }
    events = []
    with httpx.stream("POST", f"{service.url}/v1/ocr", json=body, timeout=60) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name == "data":
                events.append(json.loads(value))
    assert sorted(event["page"]["index"] for event in events[:-1]) == [0, 1, 2]
    assert events[-1]["usage_info"]["pages_processed"] == 3


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"document_annotation_format": {"type": "json_schema"}}, 400, "annotation"),
        ({"bbox_annotation_format": {"type": "json_schema"}}, 400, "annotation"),
        ({"document": {"type": "file", "file_id": "../../etc/passwd"}}, 404, "file"),
        ({"document": {"type": "document_url", "document_url": "file:///etc/passwd"}}, 400, "http"),
        ({"document": {"type": "document_url", "document_url": "http://localhost/x"}}, 400, "host"),
        ({"document": {"type": "document_url", "document_url": "data:x"}}, 400, "data URL"),
        ({"document": {"type": "document_url", "document_url": "http://[::1/"}}, 400, "malformed"),
        ({"document": image_chunk(b"no picture")}, 422, "image"),
        ({"document": {"type": "image_url", "image_url": "data:image/png;base64,"}}, 422, "empty"),
        ({"document": {"type": "image_url", "image_url": "data:;base64,@@@"}}, 422, "base64"),
        ({"document": {"type": "audio"}}, 422, "document"),
        ({"mode": "enormous"}, 422, "mode"),
        ({"task": "dance"}, 400, "task"),
        ({"table_format": "latex"}, 422, "table_format"),
    ],
)
def test_bad_requests_get_one_sentence_and_an_id(service, body, status, word):
    answer = ask(service, **body)
    assert answer.status_code == status, answer.text
    said = answer.json()
    assert word in said["message"] and "\n" not in said["message"]
    assert said["request_id"] == answer.headers["x-request-id"]
    assert "/" + "work" not in answer.text and "Traceback" not in answer.text
    assert isinstance(said["detail"], list) == (status == 422)


def test_a_failed_page_is_there_with_its_reason(start):
    def answer(request):
        raise EngineError("the model does not like this page")

    body = ask(start(FakeEngine(answer))).json()
    assert body["pages"][0]["status"] == "failed"
    assert "does not like" in body["pages"][0]["reason"]
    assert body["pages"][0]["markdown"] == ""


def test_tables_and_running_heads_are_taken_out_on_request(start):
    def answer(request):
        return Completion(
            "<|ref|>header<|/ref|><|det|>[[0, 0, 999, 30]]<|/det|>\nRunning head\n\n"
            "<|ref|>text<|/ref|><|det|>[[0, 40, 999, 300]]<|/det|>\nBody\n\n"
            "<|ref|>table<|/ref|><|det|>[[0, 300, 999, 600]]<|/det|>\n"
            "<table><tr><td>a</td><td>b</td></tr></table>\n\n"
            "<|ref|>footer<|/ref|><|det|>[[0, 950, 999, 999]]<|/det|>\n7\n",
            "stop",
            30,
        )

    running = start(FakeEngine(answer))
    whole = ask(running).json()["pages"][0]
    assert "Running head" in whole["markdown"] and "<table>" in whole["markdown"]
    split = ask(running, table_format="markdown", extract_header=True, extract_footer=True)
    page = split.json()["pages"][0]
    assert page["header"] == "Running head" and page["footer"] == "7"
    assert "Running head" not in page["markdown"]
    (table,) = page["tables"]
    assert table["content"].startswith("| a | b |") and table["format"] == "markdown"
    assert f"[{table['id']}]({table['id']})" in page["markdown"]


TABLE = (
    "<|ref|>text<|/ref|><|det|>[[0, 40, 999, 300]]<|/det|>\nIt costs $5 or so\n\n"
    "<|ref|>table<|/ref|><|det|>[[0, 300, 999, 600]]<|/det|>\n"
    "<table><tr><td>first</td><td>b</td></tr></table>\n"
)


def sure(request):
    """A page whose every token has probability 1/2, but for "first": 1/4."""
    pieces = re.findall(r"<\|[^>]*\|>|\s*\S+?(?=[\s<]|$)|[^<]+|<", TABLE)
    assert "".join(pieces) == TABLE
    logprobs = [math.log(0.25 if "first" in piece else 0.5) for piece in pieces]
    tokens = tuple(map(Token, pieces, logprobs)) if request.logprobs else ()
    return Completion(TABLE, "stop", 30, tokens=tokens)


def test_confidence_comes_in_the_grain_that_was_asked_for(start):
    running = start(FakeEngine(sure))
    assert "confidence_scores" not in ask(running).json()["pages"][0]

    def page(granularity, **more):
        more = {"include_blocks": True, "confidence_scores_granularity": granularity, **more}
        return ask(running, **more).json()["pages"][0]

    whole = page("page")["confidence_scores"]
    assert whole["minimum_page_confidence_score"] == pytest.approx(0.25, abs=1e-5)
    assert 0.25 < whole["average_page_confidence_score"] < 0.5
    assert whole["word_confidence_scores"] is None
    text, table = (block["confidence_scores"] for block in page("block")["blocks"])
    assert text["average_content_confidence_score"] == pytest.approx(0.5, abs=1e-5)
    assert table["minimum_content_confidence_score"] == pytest.approx(0.25, abs=1e-5)
    assert text["block_type_confidence_score"] == pytest.approx(0.5, abs=1e-5)
    inline = page("word")
    words = inline["confidence_scores"]["word_confidence_scores"]
    assert [word["text"] for word in words] == ["It", "costs", "\\$5", "or", "so", "first", "b"]
    for word in words:
        shown = inline["markdown"][word["start_index"] :]
        assert shown.startswith(word["text"])
        assert word["confidence"] == pytest.approx(
            0.25 if word["text"] == "first" else 0.5, abs=1e-5
        )
    assert "confidence_scores" not in inline["blocks"][0]
    split = page("word", table_format="markdown")
    assert len(split["confidence_scores"]["word_confidence_scores"]) == 5
    cells = split["tables"][0]["word_confidence_scores"]
    assert [cell["text"] for cell in cells] == ["first", "b"]
    assert split["tables"][0]["content"][cells[0]["start_index"] :].startswith("first")


def test_confidence_is_null_where_the_engine_has_none(service):
    answer = ask(service, confidence_scores_granularity="word", include_blocks=True)
    assert answer.json()["pages"][0]["confidence_scores"] is None
    blocks = ask(service, confidence_scores_granularity="block", include_blocks=True)
    assert blocks.json()["pages"][0]["blocks"][0]["confidence_scores"] is None


class Adapted(FakeEngine):
    """Has an adapter, which can be exchanged; answers say which one read."""

    def __init__(self) -> None:
        super().__init__(lambda request: Completion(f"read by {request.adapter}", "stop", 3))
        self.adapters = {"invoices": "/adapters/invoices 1", "my-deepseek-ocr": "/adapters/my 1"}


def test_a_model_is_the_served_one_or_an_adapter_or_not_there(start):
    running = start(Adapted(), model_name="served", model_aliases=("mistral-ocr*", "*DeepSeek-OCR"))
    names = {None: None, "": None, "served": None, "fake": None, "mistral-ocr-2512": None}
    names |= {"deepseek-ai/DeepSeek-OCR": None, "invoices": "invoices"}
    names |= {"my-deepseek-ocr": "my-deepseek-ocr"}
    for name, adapter in names.items():
        answer = ask(running, model=name)
        assert answer.json()["pages"][0]["markdown"].strip() == f"read by {adapter}", name
        assert answer.json()["model"] == (adapter or "served")
    asked = len(running.engine.requests)
    for name in ("gpt-4o", "invoice", "x" * 10_000):
        answer = ask(running, model=name)
        assert answer.status_code == 404 and "there is no model" in answer.json()["message"]
        assert len(answer.json()["message"]) <= 300
    job = {"document": image_chunk(), "model": "gpt-4o"}
    assert httpx.post(f"{running.url}/v1/ocr/jobs", json=job).status_code == 404
    assert len(running.engine.requests) == asked
    ask(running, model="invoices")  # known
    assert len(running.engine.requests) == asked
    running.engine.adapters["invoices"] = "/adapters/invoices 2"  # another one of that name
    ask(running, model="invoices")
    assert len(running.engine.requests) == asked + 1


def test_an_engine_that_is_gone_is_a_503(start):
    def answer(request):
        raise EngineLost("the engine at 10.0.0.1 has died")

    response = ask(start(FakeEngine(answer)))
    assert response.status_code == 503 and "10.0.0.1" not in response.text
    assert response.headers["retry-after"]


def test_without_the_key_everything_but_health_is_refused(start):
    running = start(api_keys=("secret", "other"))
    assert ask(running).status_code == 401
    assert httpx.get(f"{running.url}/livez").status_code == 200
    for headers in ({"Authorization": "Bearer secret"}, {"X-Api-Key": "other"}):
        answer = httpx.get(f"{running.url}/v1/files", headers=headers)
        assert answer.status_code == 200
    paths = running.app.openapi()["paths"]
    open_to_all = {"/livez", "/readyz", "/health", "/version"}
    for path, methods in paths.items():
        for method in methods:
            answer = httpx.request(
                method.upper(), running.url + path.replace("{", "").replace("}", "")
            )
            assert (answer.status_code == 401) == (path not in open_to_all), (method, path)


def test_what_one_key_uploads_another_does_not_see(start):
    running = start(api_keys=("one", "two"))
    mine, yours = ({"Authorization": f"Bearer {key}"} for key in ("one", "two"))
    sent = httpx.post(f"{running.url}/v1/files", files={"file": ("a.png", png())}, headers=mine)
    path = f"{running.url}/v1/files/{sent.json()['id']}"
    assert httpx.get(path, headers=mine).status_code == 200
    for method in ("GET", "DELETE"):
        assert httpx.request(method, path, headers=yours).status_code == 404
    assert httpx.get(f"{path}/content", headers=yours).status_code == 404


def test_large_bodies_are_refused_before_they_are_taken_in(start):
    running = start(max_file_bytes=10_000)
    assert ask(running, document=image_chunk(b"x" * 2_000_000)).status_code == 413
    assert ask(running, document=image_chunk(b"x" * 20_000)).status_code == 413
    upload = httpx.post(f"{running.url}/v1/files", files={"file": ("a", b"x" * 20_000)})
    assert upload.status_code == 413
