"""`dsocr convert` with a real model, loaded as a person would load it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.page.pdfs import image_pdf
from vllm_dsocr.cli import main

pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

DATA = Path(__file__).parents[1] / "data"
OPTIONS = ["--engine", "hf", "--model", str(DATA / "tiny-random"), "--mode", "tiny"]
SHORT = ["--max-tokens", "12", "--retries", "1"]


def _convert(out: Path, *paths: Path) -> int:
    return main(["convert", *map(str, paths), "-o", str(out), *OPTIONS, *SHORT, "--task", "free"])


def test_images_and_pdfs_are_read_with_transformers(tmp_path: Path, capsys) -> None:
    pdf = image_pdf(tmp_path / "a.pdf", 2)
    assert _convert(tmp_path / "out", DATA / "images" / "v3_small.png", pdf) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["all", "3", "0", "3", "0", "0", "0"]
    document = json.loads((tmp_path / "out" / "v3_small.png" / "document.json").read_text("utf-8"))
    (page,) = document["pages"]
    assert (page["status"], page["mode"], page["num_vision_tokens"]) == ("truncated", "tiny", 73)
    assert [attempt["rung"] for attempt in page["attempts"]] == ["first", "guard"]
    assert "transformers" in document["versions"]
    assert page["text"]


def test_the_text_is_that_of_the_model(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
    from vllm_dsocr.page.prompt import TASKS
    from vllm_dsocr.page.source import open_image

    image = DATA / "images" / "v3_small.png"
    assert _convert(tmp_path / "out", image) == 0
    document = json.loads((tmp_path / "out" / "v3_small.png" / "document.json").read_text("utf-8"))
    model = DeepseekOCRForCausalLM.from_pretrained(DATA / "tiny-random", dtype=torch.float32)
    processor = DeepseekOCRProcessor.from_pretrained(DATA / "tiny-random", mode="tiny")
    inputs = processor(TASKS["free"], open_image(image))
    ids = model.eval().generate(**inputs, do_sample=False, max_new_tokens=12, pad_token_id=0)
    text = processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :])
    assert document["pages"][0]["text"] == text


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path, capsys) -> None:
    image = DATA / "images" / "v3_small.png"
    arguments = ["convert", str(image), "-o", str(tmp_path / "out"), "--engine", "hf"]
    assert main([*arguments, "--model", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert "dsocr convert: cannot load" in error
    assert "Traceback" not in error
