"""Prompts and images become model inputs."""

import base64
import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ProcessorMixin

from vllm_dsocr.config import MODES, OptionError
from vllm_dsocr.hf import DeepseekOCRProcessor
from vllm_dsocr.page.prompt import PromptError
from vllm_dsocr.page.source import PageError

PAGE = Image.new("RGB", (800, 1000), "white")


def test_ids_begin_with_one_bos_and_the_prompt_is_stripped(processor):
    plain = processor("<image>\nFree OCR. ", PAGE)["input_ids"]
    with_bos = processor("<｜begin▁of▁sentence｜><image>\nFree OCR.", PAGE)["input_ids"]
    assert torch.equal(plain, with_bos)
    assert plain[0, 0] == processor.bos_token_id
    assert (plain == processor.image_token_id).sum() == 73


def test_images_go_to_prompts_in_order(processor):
    batch = processor(["<image>a", "b", "<image>c<image>"], [PAGE, PAGE, PAGE])
    assert batch["images_seq_mask"].sum(1).tolist() == [73, 0, 146]
    assert len(batch["images"]) == 3


@pytest.mark.parametrize(
    ("prompts", "count"), [(["<image>"], 2), (["<image><image>"], 1), (["a", "b"], 1)]
)
def test_tags_and_images_must_agree(processor, prompts, count):
    with pytest.raises(PromptError, match="tags for"):
        processor(prompts, [PAGE] * count)


def test_options_of_a_call_win_over_the_checkpoints(processor):
    inputs = processor("<image>", PAGE, mode="gundam")
    (tiles, view), crop = inputs["images"][0], inputs["images_spatial_crop"].tolist()
    assert tiles.shape == (crop[0][0] * crop[0][1], 3, 640, 640)
    assert view.shape == (1, 3, 1024, 1024)
    assert tiles.dtype == torch.uint8
    with pytest.raises(OptionError, match="'dpi'"):
        processor("<image>", PAGE, dpi=300)


def test_saved_defaults_come_back(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = DeepseekOCRProcessor.from_pretrained(tmp_path)
    assert again.options == processor.options
    text = "Ärger 中文 <td>"
    assert again.tokenizer.encode(text) == processor.tokenizer.encode(text)


def test_a_mode_named_by_the_checkpoint_is_its_default(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text(json.dumps({"mode": "small", "other": 1}))
    assert DeepseekOCRProcessor.from_pretrained(tmp_path).options.resolution == MODES["small"]
    (tmp_path / "processor_config.json").unlink()
    assert DeepseekOCRProcessor.from_pretrained(tmp_path).options.resolution == MODES["gundam"]


def test_it_is_a_processor_of_transformers(processor):
    assert isinstance(processor, ProcessorMixin)
    ids = processor("<image>a", PAGE)["input_ids"]
    assert processor.batch_decode(ids) == [processor.decode(ids[0])]
    assert processor.tokenizer.decode(ids[0]) == processor.decode(ids[0])


def test_images_in_every_form_are_one_image(processor, tmp_path):
    page = Image.effect_noise((90, 60), 60).convert("RGB")
    file = tmp_path / "page.png"
    page.save(file)
    pixels = np.asarray(page)
    encoded = base64.b64encode(file.read_bytes()).decode()
    forms = [
        page, str(file), file, file.read_bytes(), pixels, pixels.transpose(2, 0, 1), encoded,
        pixels / 255, torch.from_numpy(pixels.copy()), f"data:image/png;base64,{encoded}",
    ]  # fmt: skip
    expected = processor("<image>", page)["images"][0][1]
    for form in forms:
        assert torch.equal(processor("<image>", images=form)["images"][0][1], expected)
        assert torch.equal(processor("<image>", images=[[form]])["images"][0][1], expected)
    many = processor(["<image>"] * 2, images=np.stack([pixels, pixels]))
    assert torch.equal(many["images"][1][1], expected)


def test_arrays_that_are_no_pictures_are_refused(processor):
    for pixels in (np.full((4, 4, 3), 300), np.full((4, 4, 3), 1.5), np.zeros((4, 4, 3, 2, 2))):
        with pytest.raises(PageError):
            processor("<image>", images=pixels)
    with pytest.raises(PageError, match="nowhere.png"):
        processor("<image>", images="nowhere.png")
    with pytest.raises(PageError, match="base64"):
        processor("<image>", images="data:image/png;base64,@@")


def test_urls_are_fetched_by_permission_only(processor, tmp_path):
    page = Image.effect_noise((90, 60), 60).convert("RGB")
    page.save(tmp_path / "page.png")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/page.png"
        with pytest.raises(PageError, match="127.0.0.1"):
            processor("<image>", images=url)
        message = [{"role": "user", "content": [{"type": "image", "url": url}]}]
        with pytest.raises(PageError, match="127.0.0.1"):
            processor.apply_chat_template(message, tokenize=True)
        inputs = processor("<image>", images=url, allowed_hosts=["127.0.0.1"])
        server.shutdown()
    assert torch.equal(inputs["images"][0][1], processor("<image>", page)["images"][0][1])


def test_images_first_as_most_processors_have_it(processor):
    expected = processor("<image>a", PAGE)["input_ids"]
    assert torch.equal(processor(PAGE, "<image>a")["input_ids"], expected)
    assert torch.equal(processor([PAGE], ["<image>a"])["input_ids"], expected)
    assert torch.equal(processor([[PAGE]], ["<image>a"])["input_ids"], expected)


def test_images_nested_by_prompt_stay_with_their_prompt(processor):
    batch = processor(["<image><image>", "<image>"], [[PAGE, PAGE], [PAGE]])
    assert batch["images_seq_mask"].sum(1).tolist() == [146, 73]
    with pytest.raises(PromptError, match="2 <image> tags for 1 images"):
        processor(["<image><image>", "<image>"], [[PAGE], [PAGE, PAGE]])


def test_padding_as_in_a_tokenizer(processor):
    prompts = ["a b c", "a"]
    left = processor(prompts)
    assert left["attention_mask"][1].tolist()[-1] == 1
    right = processor(prompts, padding_side="right")
    assert right["attention_mask"][1].tolist()[0] == 1
    assert right["attention_mask"][1].tolist()[-1] == 0
    assert processor(prompts, padding="max_length", max_length=40)["input_ids"].shape == (2, 40)
    assert processor(prompts, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    lists = processor(prompts, padding=False, return_tensors=None)["input_ids"]
    assert isinstance(lists, list) and len(lists[0]) > len(lists[1])
    assert isinstance(processor(prompts, return_tensors="np")["input_ids"], np.ndarray)
    with pytest.raises(PromptError, match="padding=True"):
        processor(prompts, padding=False)
    for wrong in ({"padding": "most"}, {"padding_side": "up"}, {"return_tensors": "tf"}):
        with pytest.raises(OptionError, match=next(iter(wrong))):
            processor(prompts, **wrong)


def test_a_text_is_cut_and_an_image_is_not(processor):
    whole = processor("<image>a b c d e f g h", PAGE)["input_ids"]
    cut = processor("<image>a b c d e f g h", PAGE, truncation=True, max_length=76)
    assert torch.equal(cut["input_ids"], whole[:, :76])
    assert processor("<image>a", PAGE, max_length=10)["input_ids"].shape[1] > 70  # no truncation
    with pytest.raises(PromptError, match="would cut an image"):
        processor("<image>a", PAGE, truncation=True, max_length=50)


def test_options_in_the_groups_of_transformers(processor):
    grouped = processor(
        text=["<image>a"], images=[PAGE], text_kwargs={"padding": "max_length", "max_length": 400},
        images_kwargs={"mode": "base"}, common_kwargs={"return_tensors": "np"},
    )  # fmt: skip
    assert grouped["input_ids"].shape == (1, 400)
    assert grouped["images_seq_mask"].sum() == 273


def test_what_cannot_be_read_is_named(processor):
    for wrong in ({"videos": [PAGE]}, {"audio": [1.0]}):
        with pytest.raises(PromptError, match=f"no {next(iter(wrong))}"):
            processor("a", **wrong)
    for wrong in (None, [], [1], 5):
        with pytest.raises(PromptError):
            processor(wrong, PAGE)


CHATS = {
    "image, then text": ([{"type": "image", "image": PAGE}, {"type": "text", "text": "Read."}],
                         "<image>\nRead."),
    "text, then image": ([{"type": "text", "text": "Read."}, {"type": "image", "image": PAGE}],
                         "<image>\nRead."),
    "tag in the text": ([{"type": "image", "image": PAGE}, {"type": "text", "text": "a<image>b"}],
                        "a<image>b"),
    "several texts": ([{"type": "image", "image": PAGE}, {"type": "text", "text": "a"},
                       {"type": "text", "text": "b"}], "<image>\na\nb"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHATS)
def test_a_chat_is_the_prompt_that_serving_makes(processor, name):
    content, prompt = CHATS[name]
    messages = [{"role": "user", "content": content}]
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    expected = processor(prompt, PAGE)
    assert torch.equal(inputs["input_ids"], expected["input_ids"])
    assert torch.equal(inputs["images"][0][1], expected["images"][0][1])
    assert processor.apply_chat_template(messages).count("<image>") == 1
    batch = processor.apply_chat_template([messages, messages], tokenize=True, return_dict=True)
    assert torch.equal(batch["input_ids"][1], expected["input_ids"][0])


def test_files_come_from_where_the_caller_says(processor, tmp_path):
    processor.save_pretrained(tmp_path / "deep" / "er")
    again = DeepseekOCRProcessor.from_pretrained(
        tmp_path, subfolder="deep/er", revision="main", cache_dir=tmp_path, token=False,
        local_files_only=True,
    )  # fmt: skip
    assert again.options == processor.options
    assert again.chat_template == processor.chat_template
    own = DeepseekOCRProcessor.from_pretrained(tmp_path / "deep/er", chat_template="{{ 1 }}")
    own.save_pretrained(tmp_path / "own")
    assert DeepseekOCRProcessor.from_pretrained(tmp_path / "own").chat_template == "{{ 1 }}"
    assert json.loads((tmp_path / "own/processor_config.json").read_text())["processor_class"]
