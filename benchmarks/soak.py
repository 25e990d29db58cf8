"""Hostile and good requests, mixed, against one `vllm serve`: it answers each and outlives them.

    python -m benchmarks.soak --requests 200 [--model PATH]

Good requests must be answered with 200, bad ones with 400 and a sentence;
afterwards the server must still read a page. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
from PIL import Image

from examples.demo import served
from vllm_dsocr.config import MODES

MODEL = Path(__file__).parent.parent / "tests/data/tiny-random"
FLAGS = ("--max-model-len", "4096", "--trust-request-mm-kwargs", "--enforce-eager")
CLIENTS = 16
Options = dict[str, Any]


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def halves() -> Image.Image:
    """Normalised, its pixels sum to exactly 0."""
    image = Image.new("RGB", (1280, 640))
    image.paste((255, 255, 255), (640, 0, 1280, 640))
    return image


def noise(rng: random.Random) -> Image.Image:
    size = rng.choice([(1, 1), (1, 900), (900, 1), (64, 64), (641, 640), (300, 1200)])
    return Image.frombytes("L", size, rng.randbytes(size[0] * size[1]))


def good(rng: random.Random) -> tuple[list[bytes], str, Options]:
    image = rng.choice([halves(), noise(rng), Image.new("RGBA", (50, 50))])
    return [png(image)], "Free OCR.", {"mode": rng.choice(list(MODES))}


def two_pages(rng: random.Random) -> tuple[list[bytes], str, Options]:
    return [png(noise(rng)), png(noise(rng))], "Free OCR.", {"mode": "tiny"}


def text_only(rng: random.Random) -> tuple[list[bytes], str, Options]:
    return [], rng.choice(["Hello", "\0", "<|ref|>", "中文 " * 50]), {}


def broken_image(rng: random.Random) -> tuple[list[bytes], str, Options]:
    data = png(noise(rng))
    cut = rng.choice([b"", rng.randbytes(200), data[: len(data) // 2], b"%PDF-1.7", b"GIF89a"])
    return [cut], "Free OCR.", {}


def bad_option(rng: random.Random) -> tuple[list[bytes], str, Options]:
    bad: list[Options] = [
        {"mode": "huge"},
        {"base_size": -1},
        {"image_size": "640"},
        {"max_crops": 10**9},
        {"resampler": None, "dpi": 3},
        {"crop_mode": [True]},
    ]
    return [png(noise(rng))], "Free OCR.", rng.choice(bad)


def surplus_tags(rng: random.Random) -> tuple[list[bytes], str, Options]:
    return [png(noise(rng))], "<image>" * rng.randint(2, 9), {}


GOOD: list[Callable] = [good, two_pages, text_only]
BAD: list[Callable] = [broken_image, bad_option, surplus_tags]


async def ask(client: openai.AsyncOpenAI, model: str, case: tuple) -> tuple[int, str]:
    """HTTP status and the answer or the reason."""
    images, text, options = case
    urls = [f"data:image/png;base64,{base64.b64encode(data).decode()}" for data in images]
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    content.append({"type": "text", "text": text})
    try:
        answer = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            max_tokens=4,
            extra_body={"mm_processor_kwargs": options} if options else None,
        )
    except openai.APIStatusError as error:
        return error.status_code, error.message
    except openai.APIConnectionError as error:
        return 0, str(error)
    return 200, answer.choices[0].message.content or ""


async def soak(url: str, requests: int, seed: int) -> Counter[str]:
    """How many requests ended how; whatever is not as it must be counts as `wrong`."""
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=600)
    model = (await client.models.list()).data[0].id
    slots, counts = asyncio.Semaphore(CLIENTS), Counter[str]()

    async def one(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        kind = rng.choice(GOOD + BAD)
        async with slots:
            status, text = await ask(client, model, kind(rng))
        wanted = 200 if kind in GOOD else 400
        counts["answered" if status == 200 else "refused"] += 1
        if status != wanted or (wanted == 400 and not text):
            counts["wrong"] += 1
            print(f"request {number} ({kind.__name__}): {status} {text[:200]}", file=sys.stderr)
        if number and number % 100 == 0:
            print(f"{number} requests, {dict(counts)}", flush=True)

    await asyncio.gather(*(one(number) for number in range(requests)))
    status, _ = await ask(client, model, good(random.Random(seed)))
    counts["alive"] = int(status == 200)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    begin = time.monotonic()
    with served(args.model, *FLAGS) as url:
        counts = asyncio.run(soak(url, args.requests, args.seed))
    report = {key: counts[key] for key in ("answered", "refused", "wrong", "alive")}
    seconds = round(time.monotonic() - begin, 1)
    print(json.dumps({"requests": args.requests, **report, "seconds": seconds}))
    return int(report["wrong"] > 0 or not report["alive"])


if __name__ == "__main__":
    sys.exit(main())
