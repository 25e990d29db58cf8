"""Prompts and images become model inputs."""

import json

import pytest
import torch
from PIL import Image

from vllm_dsocr.config import MODES, OptionError
from vllm_dsocr.hf import DeepseekOCRProcessor
from vllm_dsocr.page.prompt import PromptError

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
