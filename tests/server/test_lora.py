"""An adapter that `dsocr train` wrote, loaded into a running server over HTTP, asked and unloaded.

The decoder has experts; on the CPU its adapters are for attention, dense and shared feed-forward.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("vllm")
pytest.importorskip("openai")

import httpx
import openai

from examples.demo import served
from vllm_dsocr.cli import main
from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.parts import page_parts
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.training.lora import LoraSettings, add_lora, load_with_adapter
from vllm_dsocr.reader import Reader
from vllm_dsocr.render.finished import RenderOptions
from vllm_dsocr.render.markdown import parts_markdown

DATA = Path(__file__).parent.parent / "data"
TINY, PAGE = DATA / "tiny-random", DATA / "images" / "v3_small.png"
PAGE_OPTIONS = {"mode": "tiny"}
MAX_TOKENS = 16
FLAGS = (
    "--served-model-name=tiny",
    "--dtype=float32",
    "--enforce-eager",
    "--max-model-len=512",
    "--enable-lora",
    "--mm-processor-kwargs=" + json.dumps(PAGE_OPTIONS),
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on one page at a rate that moves every answer."""
    folder = tmp_path_factory.mktemp("tuned")
    Image.open(PAGE).save(folder / "page.png")
    (folder / "page.txt").write_text("tuned")
    trainer = {"max_steps": 2, "learning_rate": 0.05, "use_cpu": True, "save_strategy": "no"}
    settings = {"model": str(TINY), "data": str(folder), "output": str(folder / "adapter")}
    settings |= {"page": PAGE_OPTIONS, "lora": {"rank": 4}, "trainer": trainer}
    (folder / "config.yaml").write_text(json.dumps(settings))  # JSON is YAML
    assert main(["train", str(folder / "config.yaml")]) == 0
    return folder / "adapter"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """Of a server that lets adapters come and go, with the routes of the OCR service."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_PLUGINS", "dsocr,dsocr_api")
        patch.setenv("DSOCR_DATA", str(tmp_path_factory.mktemp("service")))
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
        with served(TINY, *FLAGS) as url:
            yield openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def data_url() -> str:
    return f"data:image/png;base64,{base64.b64encode(PAGE.read_bytes()).decode()}"


def ask(client: openai.OpenAI, model: str) -> list[int]:
    """The token ids of a chat answer."""
    image = {"type": "image_url", "image_url": {"url": data_url()}}
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": [image, {"type": "text", "text": "Free OCR."}]}],
        max_tokens=MAX_TOKENS,
        extra_body={"return_token_ids": True, "ignore_eos": True},
    )
    return answer.choices[0].model_extra["token_ids"]


def change(client: openai.OpenAI, verb: str, **body: Any) -> None:
    client.post(f"/{verb}_lora_adapter", cast_to=str, body=body)


def greedy(model: torch.nn.Module) -> list[int]:
    """What transformers answers, in fp32."""
    processor = DeepseekOCRProcessor.from_pretrained(TINY, **PAGE_OPTIONS)
    inputs = processor("<image>\nFree OCR.", Image.open(PAGE))
    length = inputs["input_ids"].shape[1]
    model = model.float().eval()
    ids = model.generate(**inputs, max_new_tokens=MAX_TOKENS, eos_token_id=-1, pad_token_id=2)
    return ids[0, length:].tolist()


def test_an_adapter_comes_answers_and_goes(client: openai.OpenAI, adapter: Path) -> None:
    base = greedy(DeepseekOCRForCausalLM.from_pretrained(TINY, dtype=torch.float32))
    tuned = greedy(load_with_adapter(adapter))
    assert tuned != base
    assert ask(client, "tiny") == base

    change(client, "load", lora_name="tuned", lora_path=str(adapter))
    assert [model.id for model in client.models.list()] == ["tiny", "tuned"]
    names = ["tuned", "tiny", "tuned", "tiny"]
    with ThreadPoolExecutor(len(names)) as clients:  # one batch holds both
        answers = list(clients.map(lambda name: ask(client, name), names))
    assert answers == [tuned, base, tuned, base]

    change(client, "unload", lora_name="tuned")
    with pytest.raises(openai.NotFoundError):
        ask(client, "tuned")
    assert ask(client, "tiny") == base


def test_an_adapter_of_the_vision_part_is_refused(client: openai.OpenAI, tmp_path: Path) -> None:
    model = DeepseekOCRForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    add_lora(model, LoraSettings(parts=("projector",))).save_pretrained(tmp_path)
    with pytest.raises(openai.APIStatusError, match="expected target modules"):
        change(client, "load", lora_name="vision", lora_path=str(tmp_path))
    assert "vision" not in [model.id for model in client.models.list()]
    assert len(ask(client, "tiny")) == MAX_TOKENS


def test_an_adapter_reads_documents_by_its_name(client: openai.OpenAI, adapter: Path) -> None:
    server = str(client.base_url).rstrip("/")
    document = {"type": "image_url", "image_url": data_url()}
    body = {"document": document, "task": "free", "max_tokens": MAX_TOKENS}

    def read(name: str) -> httpx.Response:
        return httpx.post(f"{server}/ocr", json={"model": name, **body}, timeout=100)

    def read_by_chat(name: str) -> str:
        with Reader(server=server, model=name, task="free", max_tokens=MAX_TOKENS) as reader:
            return reader.read(PAGE).text

    assert read("tuned").status_code == 404
    change(client, "load", lora_name="tuned", lora_path=str(adapter))
    texts = {}
    for name in ("tiny", "tuned"):
        answer = read(name).json()
        assert answer["model"] == name
        assert answer["pages"][0]["markdown"].strip() == markdown(read_by_chat(name))
        texts[name] = answer["pages"][0]["markdown"]
    assert texts["tiny"] != texts["tuned"]
    change(client, "unload", lora_name="tuned")
    refusal = read("tuned")
    assert refusal.status_code == 404 and "tuned" in refusal.json()["message"]


def markdown(text: str) -> str:
    """What the service makes of a text."""
    page = Page(1, "ok", 1, 1, text=text, blocks=parse_blocks(text))
    return parts_markdown(page_parts(page), str, RenderOptions()).strip()
