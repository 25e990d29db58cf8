"""The chat template that transformers' processor saves changes no prompt that vLLM serves."""

from pathlib import Path

import pytest
import vllm.transformers_utils.chat_templates as templates
from vllm.renderers import hf

from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.processing.chat import CHAT_TEMPLATE

TINY = Path(__file__).parents[2] / "data" / "tiny-random"
SERVED = (Path(templates.__file__).parent / "template_deepseek_ocr.jinja").read_text()


@pytest.fixture(scope="module")
def tokenizer():
    return DeepseekOCRProcessor.from_pretrained(TINY).tokenizer


def rendered(tokenizer, messages, template):
    return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)


@pytest.mark.parametrize(
    "contents", [["<image>\nFree OCR."], ["<image>\na", "b", "c"], ["a", "b"]], ids=str
)
@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]], ids=len)
def test_strings_become_the_same_prompt(tokenizer, contents, system):
    roles = ("user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents)]  # noqa: B905
    ours, served = (
        rendered(tokenizer, system + messages, template) for template in (CHAT_TEMPLATE, SERVED)
    )
    assert ours == served


def test_parts_become_the_string_that_vllm_makes_of_them(tokenizer):
    """vLLM hands parts on to a template that reads parts; of others it makes strings itself."""
    assert hf._detect_content_format(CHAT_TEMPLATE, default="string") == "openai"
    parts = [{"type": "text", "text": "Free OCR."}, {"type": "image"}]
    text = "<image>\nFree OCR."
    of_parts = rendered(tokenizer, [{"role": "user", "content": parts}], CHAT_TEMPLATE)
    assert of_parts == rendered(tokenizer, [{"role": "user", "content": text}], SERVED)
