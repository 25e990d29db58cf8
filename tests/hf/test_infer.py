"""`infer()`: the official arguments, prints and files."""

import pytest
from PIL import Image
from transformers import GenerationConfig

from vllm_dsocr.config import OptionError
from vllm_dsocr.hf import infer as infer_module
from vllm_dsocr.page.source import PageError

GROUNDED = (
    "<|ref|>title<|/ref|><|det|>[[102, 33, 900, 85]]<|/det|>\n# Title\n\n"
    "<|ref|>image<|/ref|><|det|>[[77, 450, 930, 980]]<|/det|>\n"
    "<|ref|>x<|/ref|><|det|>[[__import__('os').system('touch PWNED')]]<|/det|>"
)


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "page.png"
    image = Image.new("L", (120, 80), "white")
    image.paste("black", (20, 30, 90, 50))  # the same page in every run
    image.save(path)
    return path


@pytest.fixture(autouse=True)
def short_answers(monkeypatch):
    monkeypatch.setattr(infer_module, "MAX_NEW_TOKENS", 6)


def read(model, processor, prompt, page, **kwargs):
    sizes = {"base_size": 256, "image_size": 256, "crop_mode": False}
    return model.infer(processor.tokenizer, prompt, page, **{**sizes, **kwargs})


def test_text_is_printed_unless_eval_mode(model, processor, page, capsys):
    text = read(model, processor, "<image>\nFree OCR.", page)
    assert text and text in capsys.readouterr().out
    assert read(model, processor, "<image>\nFree OCR.", page, eval_mode=True) == text
    assert capsys.readouterr().out == ""


def test_a_prompt_without_tag_means_the_image_first(model, processor, page):
    with_tag = read(model, processor, "<image>\nFree OCR.", page, eval_mode=True)
    assert read(model, processor, "Free OCR.", page, eval_mode=True) == with_tag


def test_text_only(model, processor):
    assert read(model, processor, "Once upon a time", "", eval_mode=True)


def test_compression_is_printed(model, processor, page, capsys):
    read(model, processor, "<image>", page, test_compress=True)
    out = capsys.readouterr().out
    assert "120 x 80" in out
    assert "valid image tokens: 16" in out  # 4 x 4 tokens of a squeezed view
    assert "text tokens: 6" in out


def test_results_are_written_and_nothing_is_evaluated(
    model, processor, page, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    answer = lambda *args: (GROUNDED, 9)  # noqa: E731 - random weights never ground anything
    monkeypatch.setattr(infer_module, "_generate", answer)
    read(model, processor, "<image>", page, output_path=tmp_path / "out", save_results=True)
    markdown = (tmp_path / "out/result.mmd").read_text()
    assert "# Title" in markdown and "![](images/0.jpg)" in markdown
    assert "__import__" not in markdown  # no box can be read there, so the tag goes
    assert Image.open(tmp_path / "out/images/0.jpg").size == (102, 42)
    assert Image.open(tmp_path / "out/result_with_boxes.jpg").size == (120, 80)
    assert not (tmp_path / "PWNED").exists()


def test_an_unreadable_file_is_one_clear_error(model, processor, tmp_path):
    (tmp_path / "page.png").write_bytes(b"not an image")
    with pytest.raises(PageError, match="not an image"):
        read(model, processor, "<image>", tmp_path / "page.png")


def test_generation_arguments_go_before_the_official_ones(
    model, processor, page, capsys, monkeypatch
):
    generate, written = model.generate, []

    def noting(**kwargs):  # a text of random ids does not give them back
        out = generate(**kwargs)
        written[:] = getattr(out, "sequences", out)[0, kwargs["input_ids"].shape[1] :].tolist()
        return out

    monkeypatch.setattr(model, "generate", noting)

    def ids(**kwargs):
        read(model, processor, "<image>\nFree OCR.", page, eval_mode=True, **kwargs)
        return list(written)

    plain = ids()
    assert ids(max_new_tokens=2) == plain[:2]
    assert ids(do_sample=True, top_k=1) == plain
    config = GenerationConfig(max_new_tokens=3, do_sample=False, pad_token_id=2)
    assert ids(generation_config=config) == plain[:3]
    out = {"return_dict_in_generate": True}
    assert ids(**out) == plain
    text = read(model, processor, "<image>\nFree OCR.", page, num_beams=2)
    assert capsys.readouterr().out.strip() == text
    with pytest.raises(OptionError, match="num_return_sequences"):
        ids(num_return_sequences=2, num_beams=2)
    with pytest.raises(ValueError, match="beems"):
        ids(beems=2)
