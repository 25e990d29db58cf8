"""What nobody should send: answered rightly or refused with a sentence, and the server lives.

Against the server of the other files here, so a request that ends it fails them too.
"""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("vllm")

from tests.server.test_request_kinds import CHAT, DOT, MESSAGES, RESPONSES, TEXT, ask, page, text

DEEP: Any = 1
for _ in range(150):
    DEEP = [DEEP]
TINY = {"mm_processor_kwargs": {"mode": "tiny"}, "max_tokens": 1}


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, kind: int, rows: bytes, *others: bytes) -> bytes:
    """kind: PNG's colour type; others: chunks before the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    pixels, end = chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(others) + pixels + end


def data_url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


RGB = Image.radial_gradient("L").resize((50, 40)).convert("RGB")
TURNED = [RGB.rotate(90)] * 3
WHOLE = encoded(RGB, "PNG")
READ = {
    "one pixel": encoded(Image.new("RGB", (1, 1)), "PNG"),
    "a line": encoded(Image.new("L", (1, 9000)), "PNG"),
    "16 bits": png(4, 1, 16, 2, b"\0" + b"\x12\x34" * 12),
    "16 bits, alpha": png(4, 1, 16, 6, b"\0" + b"\x12\x34" * 16),
    "16 bits of grey, one of them clear": png(
        4, 1, 16, 0, b"\0" + b"\x12\x34" * 4, chunk(b"tRNS", b"\x12\x34")
    ),
    "short palette": png(4, 1, 8, 3, b"\0\1\2\3\xff", chunk(b"PLTE", b"\1\2\3")),
    "palette with alpha": encoded(RGB.convert("P"), "PNG", transparency=bytes(range(256))),
    "CMYK": encoded(RGB.convert("CMYK"), "JPEG"),
    "LAB": encoded(Image.new("LAB", (9, 9)), "TIFF"),
    "floats": encoded(Image.new("F", (9, 9), float("nan")), "TIFF"),
    "below zero": encoded(Image.new("I", (9, 9), -5), "TIFF"),
    "GIF that moves": encoded(RGB, "GIF", save_all=True, append_images=TURNED),
    "PNG that moves": encoded(RGB, "PNG", save_all=True, append_images=TURNED),
    "TIFF of pages": encoded(RGB, "TIFF", save_all=True, append_images=TURNED),
    "odd EXIF": encoded(RGB, "JPEG", exif=b"Exif\0\0MM\0*" + b"\xff" * 40),
    "odd ICC": encoded(RGB, "PNG", icc_profile=b"x" * 1000),
}
NO_IMAGES = {
    "nothing": b"",
    "text": b"hello",
    "SVG": b"<svg/>",
    "PDF": b"%PDF-1.7",
    "PostScript": encoded(RGB, "EPS"),
    "no palette": png(4, 1, 8, 3, b"\0\1\2\3\4"),
    "no pixels": png(0, 4, 8, 2, b"\0"),
    "400 million pixels": png(20_000, 20_000, 8, 0, b""),
    "text that unpacks to 2 MB": png(
        1, 1, 8, 0, b"\0\0", chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 2_000_000))
    ),
    **{f"{size} bytes of it": WHOLE[:size] for size in (8, 20, 40, len(WHOLE) // 2)},
}
LOADED = {"media_io_kwargs": {"image": {"image_mode": "L", "rgba_background_color": [0, 0, 0]}}}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    **{name: (CHAT, page(data_url(data)), "") for name, data in NO_IMAGES.items()},
    "data not in base64": (CHAT, page("data:image/png,abc"), "cannot be fetched: .*base64"),
    "mode that is nested": (
        CHAT, page(DOT, mm_processor_kwargs={"mode": DEEP}), "mode must be one of"),
    "size without end": (
        CHAT, page(DOT, mm_processor_kwargs={"base_size": 10**300}), "between 64 and 1280"),
    "processor's own arguments": (
        CHAT, page(DOT, mm_processor_kwargs={"return_tensors": "np"}), "unknown option"),
    "loader, number": (
        CHAT, page(DOT, media_io_kwargs={"image": {"image_mode": 5}}), "image_mode must be"),
    "loader, list": (
        CHAT, page(DOT, media_io_kwargs={"image": {"image_mode": [DEEP]}}), "image_mode must be"),
    "loader, long": (
        CHAT, page(DOT, media_io_kwargs={"image": {"image_mode": "x" * 10**6}}), "'x+[.]{3}$"),
    "loader, nothing": (CHAT, page(DOT, media_io_kwargs={"image": None}), "dict"),
    "loader, no setting": (
        CHAT, page(DOT, media_io_kwargs={"image": {"a": DEEP}}), "unknown setting 'a'"),
    "loader, colour": (
        CHAT, page(DOT, media_io_kwargs={"image": {"rgba_background_color": [1e9, 0, 0]}}),
        "three integers"),
    "loader, responses": (
        RESPONSES, {"media_io_kwargs": {"image": {"image_mode": 5}}}, "image_mode must be"),
    "half a surrogate pair": (TEXT, {"prompt": "a\ud800"}, ""),
    "rule of text": (TEXT, {"vllm_xargs": {"ngram_size": "30"}}, "ngram_size"),
    "rule of lists": (TEXT, {"vllm_xargs": {"whitelist_token_ids": [[1]]}}, ""),
    "rule, far too long": (
        TEXT, {"vllm_xargs": {"whitelist_token_ids": list(range(100_000))}}, "128"),
    "n without end": (TEXT, {"n": 10**9, "temperature": 1}, ""),
    "beams without end": (TEXT, {"use_beam_search": True, "n": 10**9}, ""),
    "logprobs without end": (TEXT, {"logprobs": 10**9}, ""),
    "tokens that do not exist": (TEXT, {"allowed_token_ids": [10**9]}, ""),
    "bias of tokens that do not exist": (TEXT, {"logit_bias": {"-5": 1, "99999999": 1}}, ""),
    "prompt of tokens that do not exist": (TEXT, {"prompt": [10**9]}, ""),
    "prompt of nothing": (TEXT, {"prompt": []}, ""),
    "tokens below zero": (TEXT, {"max_tokens": -1}, ""),
    "temperature below zero": (TEXT, {"temperature": -1}, ""),
    "choice of nothing": (TEXT, {"structured_outputs": {"choice": []}}, ""),
    "two grammars": (TEXT, {"structured_outputs": {"regex": "a", "json": {}}}, ""),
    "embedding for an image": (
        CHAT, {"messages": [{"role": "user", "content": [
            {"type": "image_embeds", "image_embeds": "aGk="}]}]}, ""),
    "image of a message that is none": (
        MESSAGES, {"messages": [{"role": "user", "content": [
            {"type": "image", "source": {
                "type": "base64", "media_type": "image/png", "data": "aGk="}}]}]}, ""),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def alive(server_url: str) -> Iterator[None]:
    """Whatever was sent, the server answers at the end."""
    yield
    assert ask(server_url, TEXT, max_tokens=1)[0] == 200


@pytest.mark.parametrize("kind", READ)
def test_odd_images_are_read(server_url: str, kind: str) -> None:
    status, answer = ask(server_url, CHAT, **page(data_url(READ[kind]), **TINY))
    assert status == 200, answer


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_a_sentence(server_url: str, kind: str) -> None:
    route, fields, words = REFUSED[kind]
    status, answer = ask(server_url, route, **fields)
    assert 400 <= status < 500, answer
    assert re.search(words, answer["error"]["message"]) and answer["error"]["message"], answer


def test_a_name_is_not_an_image_in_another_mode_or_loading(server_url: str) -> None:
    """A uuid is the client's word; what else is asked of the image still tells answers apart."""
    images = {"name": data_url(WHOLE), "other": data_url(READ["CMYK"])}
    first = ask(server_url, CHAT, **page(images["name"], "it", **TINY))
    assert ask(server_url, CHAT, **page(None, "it", **TINY))[1]["choices"] == first[1]["choices"]
    for fields in ({**TINY, "mm_processor_kwargs": {"mode": "small"}}, {**TINY, **LOADED}):
        status, answer = ask(server_url, CHAT, **page(None, "it", **fields))
        assert status == 400 and "Cache miss" in answer["error"]["message"], answer
    for name in ("", "x" * 100_000, "../../etc/passwd", "\0"):
        assert ask(server_url, CHAT, **page(images["other"], name, **TINY))[0] in (200, 400)


def test_clients_that_hang_up_take_nothing_along(server_url: str) -> None:
    """In the middle of a header, of a body, of a page and of a stream, beside one that stays."""
    address = urlsplit(server_url)
    fields = {"model": "tiny", "ignore_eos": True, "stream": True}
    body = json.dumps({**fields, **page(data_url(WHOLE), **TINY), "max_tokens": 900}).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    whole = head + body

    def hang_up(sent: bytes, answer: int) -> None:
        with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
            connection.sendall(sent)
            if answer:
                connection.recv(answer)

    with ThreadPoolExecutor(9) as clients:
        stays = clients.submit(ask, server_url, TEXT, max_tokens=200)
        cut = [(head[:20], 0), (whole[: len(head) + 9], 0), (whole, 0), (whole, 1)] * 2
        for future in [clients.submit(hang_up, *case) for case in cut]:
            future.result()
        status, answer = stays.result()
    assert status == 200
    assert text(answer) == text(ask(server_url, TEXT, max_tokens=200)[1])
