"""A served checkpoint asked with the openai client: what works, and what is refused and how."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("vllm")
pytest.importorskip("openai")

import openai

from vllm_dsocr.config import MODES
from vllm_dsocr.page.geometry import plan_tiles

DATA = Path(__file__).parent.parent / "data"
PROMPT = "Free OCR."
PROMPT_TOKENS = 1 + 1 + 6  # BOS, the line end after the image, the text
MAX_TOKENS = 5


@pytest.fixture(scope="module")
def client(server_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)


def page(name: str = "v3_small.png") -> Image.Image:
    return Image.open(DATA / "images" / name)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def data_url(data: bytes, kind: str = "PNG") -> str:
    return f"data:image/{kind.lower()};base64,{base64.b64encode(data).decode()}"


SMALL = data_url(encoded(page()))


def ask(
    client: openai.OpenAI, *urls: str, text: str = PROMPT, stream: bool = False, **options: Any
) -> Any:
    """One chat request; `options` choose the page mode."""
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": [*images, {"type": "text", "text": text}]}],
        max_tokens=MAX_TOKENS,
        temperature=0,
        stream=stream,
        extra_body={"mm_processor_kwargs": options} if options else None,
    )


def text_of(answer: Any) -> str:
    return answer.choices[0].message.content


def recorded(case: str) -> str:
    """What the official code continues the prompt with."""
    cases = json.loads((DATA / "golden" / "lm.json").read_text(encoding="utf-8"))["cases"]
    (found,) = (entry for entry in cases if entry["case"] == case)
    return found["generate"][0]["text"]


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_by_request(client: openai.OpenAI, mode: str) -> None:
    answer = ask(client, SMALL, mode=mode)
    plan = plan_tiles(*page().size, MODES[mode])
    assert answer.usage.prompt_tokens == PROMPT_TOKENS + plan.num_image_tokens
    assert answer.usage.completion_tokens == MAX_TOKENS


@pytest.mark.parametrize("case", ["v3_small/gundam", "v5_rgba/base"])
def test_answer_is_the_official_one(client: openai.OpenAI, case: str) -> None:
    name, mode = case.split("/")
    file = DATA / "images" / f"{name}.png"  # the second with an alpha channel
    answer = ask(client, data_url(file.read_bytes()), mode=mode)
    assert recorded(case).startswith(text_of(answer))
    assert text_of(answer)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_file_formats(client: openai.OpenAI, kind: str) -> None:
    answer = ask(client, data_url(encoded(page(), kind), kind), mode="tiny")
    assert answer.usage.prompt_tokens == PROMPT_TOKENS + 73


def test_photo_lying_on_its_side(client: openai.OpenAI) -> None:
    photo = data_url((DATA / "images" / "v7_exif6.jpg").read_bytes(), "JPEG")
    width, height = page("v7_exif6.jpg").size
    upright = plan_tiles(height, width, MODES["gundam"])
    assert ask(client, photo).usage.prompt_tokens == PROMPT_TOKENS + upright.num_image_tokens


def test_two_images(client: openai.OpenAI) -> None:
    wide = data_url(encoded(page("v2_wide.png")))
    plans = [plan_tiles(*page(n).size, MODES["gundam"]) for n in ("v3_small.png", "v2_wide.png")]
    images = sum(plan.num_image_tokens for plan in plans) + 1  # a line end between them
    assert ask(client, SMALL, wide).usage.prompt_tokens == PROMPT_TOKENS + images


def test_text_only(client: openai.OpenAI) -> None:
    assert ask(client).usage.prompt_tokens == PROMPT_TOKENS - 1
    completion = client.completions.create(model="tiny", prompt=f" {PROMPT} ", max_tokens=1)
    assert completion.usage.prompt_tokens == PROMPT_TOKENS - 1


def test_streaming(client: openai.OpenAI) -> None:
    parts = [c.choices[0].delta.content for c in ask(client, SMALL, stream=True) if c.choices]
    assert "".join(filter(None, parts)) == text_of(ask(client, SMALL))
    assert len(parts) > 1


def test_page_that_sums_to_zero(client: openai.OpenAI) -> None:
    halves = Image.new("RGB", (1280, 640))
    halves.paste((255, 255, 255), (640, 0, 1280, 640))
    answer = ask(client, data_url(encoded(halves)))
    plan = plan_tiles(1280, 640, MODES["gundam"])
    assert answer.usage.prompt_tokens == PROMPT_TOKENS + plan.num_image_tokens


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "huge"}, "mode must be one of tiny, small, base, large, gundam, gundam-m"),
        ({"quality": 1}, "unknown option 'quality'"),
        ({"base_size": "big"}, "base_size must be an integer"),
        ({"resampler": "nearest"}, "resampler must be one of"),
    ],
)
@pytest.mark.parametrize("urls", [(SMALL,), ()], ids=["image", "text"])
def test_bad_options(
    client: openai.OpenAI, urls: tuple[str, ...], options: dict[str, Any], words: str
) -> None:
    refused(client, *urls, words=words, **options)


@pytest.mark.parametrize("text", ["<image><image>\nTwo tags", "<image>\n<image>\n<image>"])
def test_more_tags_than_images(client: openai.OpenAI, text: str) -> None:
    refused(client, SMALL, text=text, words="more '<image>' placeholders")


def test_tag_without_image(client: openai.OpenAI) -> None:
    refused(client, text="<image>\nFree OCR.", words="1 <image> tags for 0 images")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "cannot identify image"),
        (b"no image at all", "cannot identify image"),
        (encoded(page())[:2000], "truncated"),
        (encoded(page())[:20], "cannot identify image|[Tt]runcated"),
    ],
    ids=["empty", "text", "cut", "header"],
)
def test_broken_images(client: openai.OpenAI, data: bytes, words: str) -> None:
    refused(client, data_url(data), words=words)


def test_pages_too_large_for_the_context(client: openai.OpenAI) -> None:
    column = data_url(encoded(Image.new("RGB", (144, 1296))))
    options = {"base_size": 1280, "image_size": 1280, "crop_mode": True}
    refused(client, column, words="maximum context length", **options)


def refused(client: openai.OpenAI, *urls: str, words: str, **request: Any) -> None:
    """HTTP 400 with one line that says so, from a server that goes on."""
    with pytest.raises(openai.BadRequestError, match=words) as caught:
        ask(client, *urls, **request)
    assert "\n" not in caught.value.body["message"]
    assert ask(client, SMALL, mode="tiny").usage.prompt_tokens == PROMPT_TOKENS + 73
