from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.config import ModelConfig, VllmConfig
from vllm.renderers import ChatParams
from vllm.renderers.hf import HfRenderer
from vllm.renderers.registry import renderer_from_config

from tests.plugin.engines import register
from vllm_dsocr.config import BOS_TOKEN, OptionError
from vllm_dsocr.page.prompt import PromptError
from vllm_dsocr.page.source import PageError
from vllm_dsocr.plugin import TOKENIZER_MODE
from vllm_dsocr.plugin.inputs.loading import IMAGE_MODES, check_loading
from vllm_dsocr.plugin.inputs.renderer import DeepseekOCRRenderer

FREE_OCR = [40, 608, 379, 37, 52, 16]
DOT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9"
    "awAAAABJRU5ErkJggg=="
)
CHAT = ChatParams(chat_template_kwargs={"tokenize": False})  # as both doors of vLLM say it


@pytest.fixture(scope="module")
def renderer(checkpoint: Path) -> Iterator[DeepseekOCRRenderer]:
    register()
    model_config = ModelConfig(str(checkpoint), tokenizer_mode=TOKENIZER_MODE)
    renderer = renderer_from_config(VllmConfig(model_config=model_config))
    yield renderer
    renderer.shutdown()


def ids(renderer: DeepseekOCRRenderer, **prompt: Any) -> list[int]:
    (rendered,) = renderer.render_cmpl([prompt])
    return rendered["prompt_token_ids"]


@pytest.mark.parametrize("before", ["", " ", BOS_TOKEN, f"{BOS_TOKEN}{BOS_TOKEN} "])
def test_text_is_stripped_behind_one_bos(renderer: DeepseekOCRRenderer, before: str) -> None:
    assert ids(renderer, prompt=f"{before}Free OCR. \n") == [0, *FREE_OCR]


def test_half_a_surrogate_pair_is_refused(renderer: DeepseekOCRRenderer) -> None:
    with pytest.raises(PromptError, match="no valid Unicode"):
        ids(renderer, prompt="Free \ud800")


def test_token_ids_are_taken_as_they_are(renderer: DeepseekOCRRenderer) -> None:
    assert ids(renderer, prompt_token_ids=[5, 6]) == [5, 6]


def test_chat_of_text_alone(renderer: DeepseekOCRRenderer) -> None:
    messages = [{"role": "user", "content": "Free OCR. "}]
    _, (rendered,) = renderer.render_chat([messages], CHAT)
    assert rendered["prompt_token_ids"] == [0, *FREE_OCR]


@pytest.mark.parametrize("tail", ["", " ", "\n\n"])
def test_a_continued_message_keeps_its_end(renderer: DeepseekOCRRenderer, tail: str) -> None:
    """`continue_final_message`: what follows depends on the blank that the client left."""
    messages = [
        {"role": "user", "content": "Free OCR."},
        {"role": "assistant", "content": f"The first line{tail}"},
    ]
    kwargs = {"continue_final_message": True, "add_generation_prompt": False}
    params = ChatParams(chat_template_kwargs={"tokenize": False, **kwargs})
    _, (rendered,) = renderer.render_chat([messages], params)
    _, (whole,) = renderer.render_chat([messages], CHAT)
    text = renderer.tokenizer.decode(rendered["prompt_token_ids"])
    assert text.endswith(f"The first line{tail}")
    assert rendered["prompt_token_ids"][0] == 0
    assert not renderer.tokenizer.decode(whole["prompt_token_ids"]).endswith((" ", "\n"))


@pytest.mark.parametrize("prompt", [{"prompt": "a<image>"}, {"prompt_token_ids": [880]}])
def test_tags_without_images_are_refused(
    renderer: DeepseekOCRRenderer, prompt: dict[str, Any]
) -> None:
    with pytest.raises(PromptError, match="1 <image> tags for 0 images"):
        renderer.render_cmpl([prompt])
    with pytest.raises(PromptError):
        asyncio.run(renderer.render_cmpl_async([prompt]))


def test_options_of_text_are_checked(renderer: DeepseekOCRRenderer) -> None:
    with pytest.raises(OptionError, match="unknown option 'foo'"):
        ids(renderer, prompt="text", mm_processor_kwargs={"foo": 1})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_mode": 5}, "image_mode must be null or one of RGB, .*, got 5"),
        ({"image_mode": ["RGB"]}, "image_mode must be .*, got a list"),
        ({"image_mode": {"mode": "RGB"}}, "image_mode must be .*, got an object"),
        ({"image_mode": "X" * 10**6}, "image_mode must be .*, got 'X{59}[.]{3}$"),
        ({"image_mode": True}, "image_mode must be"),
        ({"image_mode": "LAB"}, "image_mode must be"),  # Pillow has no way from it to RGB
        ({"rgba_background_color": [0, 0, 10**9]}, "three integers of 0 to 255, got a list"),
        ({"rgba_background_color": None}, "three integers"),
        ({"rgba_background_color": [True, False, True]}, "three integers"),
        ({"self": 1}, "unknown setting 'self' of images"),
        ({"": {"deep": [[[]]]}}, "unknown setting ''"),
        ([], "image must be an object"),
    ],
)
def test_settings_of_the_image_loader_are_checked(
    renderer: DeepseekOCRRenderer, settings: Any, words: str
) -> None:
    params = replace(CHAT, media_io_kwargs={"image": settings})
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DOT}}]}]
    with pytest.raises(OptionError, match=words):
        renderer.render_chat([messages], params)
    with pytest.raises(OptionError, match=words):
        asyncio.run(renderer.render_chat_async([messages], params))


@pytest.mark.parametrize("mode", [None, *IMAGE_MODES])
def test_every_mode_that_is_let_through_becomes_a_page(
    renderer: DeepseekOCRRenderer, mode: str | None
) -> None:
    settings = {"image_mode": mode, "rgba_background_color": [0, 0, 0]}
    params = replace(CHAT, media_io_kwargs={"image": settings})
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": DOT}}]}]
    _, (rendered,) = renderer.render_chat([messages], params)
    assert rendered["mm_placeholders"]["image"]


def test_a_server_may_name_settings_of_a_loader_of_its_own() -> None:
    check_loading({"image": {"dpi": 300}}, served={"image": {"dpi": 200}})
    check_loading({"video": {"num_frames": 4}})
    check_loading(None)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, kind: int, rows: bytes) -> str:
    """A data URL; kind: PNG's colour type, of 8 bits."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))
    pixels, end = chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + header + pixels + end)
    return f"data:image/png;base64,{data.decode()}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (png(100_000, 100_000, 2, b""), "cannot be read: .*exceeds"),
        (png(4, 1, 3, b"\0\1\2\3\4"), "damaged or truncated: its parts"),  # no palette
        ("data:image/png,abc", "cannot be fetched: .*base64"),
        ("file:///etc/hostname", "cannot be fetched: .*local files"),
    ],
)
def test_what_vllm_would_blame_itself_for_is_refused(
    renderer: DeepseekOCRRenderer, url: str, words: str
) -> None:
    content = [{"type": "image_url", "image_url": {"url": url}}]
    with pytest.raises(PageError, match=words):
        renderer.render_chat([[{"role": "user", "content": content}]], CHAT)


def test_faults_of_our_own_are_not_blamed_on_the_image(
    renderer: DeepseekOCRRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise KeyError("ours")

    monkeypatch.setattr(HfRenderer, "render_messages", broken)
    content = [{"type": "image_url", "image_url": {"url": DOT}}]
    with pytest.raises(KeyError, match="ours"):
        renderer.render_chat([[{"role": "user", "content": content}]], CHAT)
