"""The bundled reader reads, and reads the same through every host and door."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

pytest.importorskip("matplotlib", reason="the pages use its DejaVu fonts")

from examples.reader_training.pages import Page, held_out_pages
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.prompt import TASKS
from vllm_dsocr.reader import Reader

NUM_PAGES = 20
MAX_CER = 0.03
TEXT = "A sentence without a page"


@pytest.fixture(scope="module")
def pages() -> list[Page]:
    return held_out_pages(NUM_PAGES, seed=5000)


@pytest.fixture(scope="module")
def files(pages: list[Page], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = [folder / f"{number}.png" for number in range(len(pages))]
    for page, path in zip(pages, paths, strict=True):
        page.image.save(path)
    return paths


@pytest.fixture(scope="module")
def model(reader: Path) -> DeepseekOCRForCausalLM:
    return DeepseekOCRForCausalLM.from_pretrained(reader, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(reader: Path) -> DeepseekOCRProcessor:
    return DeepseekOCRProcessor.from_pretrained(reader)


@pytest.fixture(scope="module")
def infer_texts(
    model: DeepseekOCRForCausalLM, processor: DeepseekOCRProcessor, files: list[Path]
) -> list[str]:
    """What `infer()` reads on each page."""
    sizes = {"base_size": 640, "image_size": 640, "crop_mode": False, "eval_mode": True}
    return [model.infer(processor.tokenizer, TASKS["free"], file, **sizes) for file in files]


def test_the_reader_reads(reader: Path, infer_texts: list[str], pages: list[Page]) -> None:
    assert json.loads((reader / "evaluation.json").read_text())["cer"] <= MAX_CER
    wrong = sum(edit_distance(t, p.text) for t, p in zip(infer_texts, pages, strict=True))
    assert wrong <= MAX_CER * sum(len(page.text) for page in pages)


def test_default_mode_is_the_checkpoints(processor: DeepseekOCRProcessor) -> None:
    assert processor(TASKS["free"], Image.new("L", (900, 700)))["images_seq_mask"].sum() == 111


def test_a_bare_chat_request_reads_what_infer_reads(
    reader_url: str, files: list[Path], infer_texts: list[str]
) -> None:
    openai = pytest.importorskip("openai")
    client = openai.AsyncOpenAI(base_url=f"{reader_url}/v1", api_key="none")

    async def ask(file: Path) -> str:
        url = f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
        content: list[Any] = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "Free OCR."},
        ]
        messages = [{"role": "user", "content": content}]
        answer = await client.chat.completions.create(model=served_model, messages=messages)
        return answer.choices[0].message.content

    async def ask_all() -> list[str]:
        return await asyncio.gather(*map(ask, files))

    served_model = openai.OpenAI(base_url=f"{reader_url}/v1", api_key="none").models.list()
    served_model = served_model.data[0].id
    assert [text.strip() for text in asyncio.run(ask_all())] == infer_texts


def test_evaluation_reads_through_a_server_as_in_this_process(
    reader_url: str, pages: list[Page], infer_texts: list[str]
) -> None:
    pytest.importorskip("openai")
    from examples.reader_training.scores.served import read_served

    images = [page.image for page in pages[:4]]
    texts = read_served(f"{reader_url}/v1", images, TASKS["free"], max_new_tokens=400)
    assert [text.strip() for text in texts] == infer_texts[:4]


def test_a_bare_completion_continues_text_as_transformers_does(
    reader_url: str, model: DeepseekOCRForCausalLM, processor: DeepseekOCRProcessor
) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{reader_url}/v1", api_key="none")
    name = client.models.list().data[0].id
    served = client.completions.create(model=name, prompt=TEXT, max_tokens=24).choices[0].text
    inputs = processor(TEXT)
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=24, pad_token_id=2)
    new = ids[0, inputs["input_ids"].shape[1] :]
    assert served == processor.tokenizer.decode(new, skip_special_tokens=True)


def test_offline_reads_what_infer_reads(
    reader: Path, files: list[Path], infer_texts: list[str]
) -> None:
    pytest.importorskip("vllm")
    from tests.plugin.engines import start

    llm = start(reader, mm_processor_kwargs={}, max_model_len=1024, max_num_seqs=NUM_PAGES)
    images = [Image.open(io.BytesIO(file.read_bytes())) for file in files]
    requests = [{"prompt": TASKS["free"], "multi_modal_data": {"image": i}} for i in images]
    params = llm.get_default_sampling_params()
    assert params.temperature == 0
    params.max_tokens = 800
    generated = llm.generate(requests, params, use_tqdm=False)
    assert [output.outputs[0].text.strip() for output in generated] == infer_texts

    content = [
        {"type": "image_pil", "image_pil": images[0]},
        {"type": "text", "text": "Free OCR."},
    ]
    (chat,) = llm.chat([{"role": "user", "content": content}], params, use_tqdm=False)
    assert chat.outputs[0].text.strip() == infer_texts[0]


def test_hosts_are_equally_sure_of_every_word(
    reader: Path, reader_url: str, files: list[Path]
) -> None:
    pytest.importorskip("openai")
    options = {"task": "free", "confidence": True, "retries": 0}
    with (
        Reader(server=reader_url, **options) as served,
        Reader(engine="hf", model=str(reader), **options) as alone,
    ):
        for file in files[:2]:
            one, other = served.read(file), alone.read(file)
            said, again = (page.blocks[0].confidence.words for page in (one, other))
            assert [(w.text, w.start) for w in said] == [(w.text, w.start) for w in again]
            assert "".join(word.text for word in said) == "".join(one.text.split())
            sure = [word.confidence for word in again]
            assert [word.confidence for word in said] == pytest.approx(sure, abs=1e-3)
            assert one.confidence.minimum == pytest.approx(other.confidence.minimum, abs=1e-3)
            assert 0.5 < one.confidence.mean <= 1


def test_convert_writes_confidence_only_where_it_is_asked_for(
    reader_url: str, files: list[Path], tmp_path: Path
) -> None:
    from vllm_dsocr.cli import main

    def converted(*more: str) -> dict[str, Any]:
        place = ["-o", str(tmp_path), "--server", reader_url, "--task", "free"]
        assert main(["convert", str(files[0]), *place, "--format", "json", *more]) == 0
        (written,) = tmp_path.glob("*/document.json")
        return json.loads(written.read_text())

    plain, scored = converted(), converted("--confidence")
    assert "confidence" not in json.dumps(plain)
    (page,), (before,) = scored["pages"], plain["pages"]
    assert page["text"] == before["text"] and scored["settings"]["confidence"] is True
    words = page["blocks"][0]["confidence"]["words"]
    assert "".join(word["text"] for word in words) == "".join(page["text"].split())
    assert page["confidence"]["minimum"] <= min(word["confidence"] for word in words) + 1e-6
