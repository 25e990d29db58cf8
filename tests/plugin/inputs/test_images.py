"""What of vLLM's decoding is kept, and what is read again from the bytes."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from PIL import Image

pytest.importorskip("vllm")

from vllm.multimodal.media import ImageMediaIO, MediaWithBytes

from vllm_dsocr.plugin.inputs import images
from vllm_dsocr.plugin.inputs.images import PageDataParser


def _sent(image: Image.Image, format: str) -> MediaWithBytes[Image.Image]:
    """As the API server has it: decoded by vLLM, with its bytes."""
    file = io.BytesIO()
    image.save(file, format)
    return ImageMediaIO().load_bytes(file.getvalue())


def _parsed(item: MediaWithBytes[Image.Image]) -> MediaWithBytes[Image.Image]:
    return PageDataParser().parse_mm_data({"image": [item]})["image"].data[0]


@pytest.mark.parametrize(("mode", "format"), [("RGB", "JPEG"), ("L", "JPEG"), ("1", "PNG")])
def test_a_page_is_decoded_once(mode: str, format: str) -> None:
    sent = _sent(Image.new(mode, (70, 50)), format)
    assert _parsed(sent).media is sent.media


def test_transparency_stays_until_the_request_says_what_becomes_of_it() -> None:
    """vLLM puts white behind it at once."""
    sent = _sent(Image.new("RGBA", (70, 50), (9, 8, 7, 0)), "PNG")
    assert sent.media.getpixel((0, 0)) == (255, 255, 255)
    assert _parsed(sent).media.getpixel((0, 0)) == (9, 8, 7, 0)


def test_settings_of_a_later_vllm_are_told_and_its_decoding_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent = _sent(Image.new("RGBA", (70, 50), (9, 8, 7, 0)), "PNG")
    told: list[str] = []
    monkeypatch.setattr(images.logger, "warning_once", lambda text, *names: told.append(names[0]))
    later = replace(sent, io_config={**sent.io_config, "tone_mapping": "hdr"})
    assert _parsed(later).media.getpixel((0, 0)) == (255, 255, 255)
    assert told == ["tone_mapping"]
