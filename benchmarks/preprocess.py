"""Processor time and bytes from an encoded page to what the engine is sent, beside vLLM's own.

    python -m benchmarks.preprocess [--image FILE] [--rounds 9] [--threads 2]

What the API server does with one page: vLLM's loader decodes it, the processor makes the tensors,
vLLM's encoder puts them into the message to the engine. Time is processor time of one thread, which
waiting for a busy machine does not lengthen; the two sides take turns, and the median counts.
Bytes are those of the buffers beside the message, which are the pixels: uint8 from ours, from
vLLM's the dtype of the model, bf16, which its processor made from fp32. Prints a table, how pages
per second grow with threads, and as the last line one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.machine import headline, machine
from benchmarks.peer import SIDES, Side, answer_questions, register

MODEL = Path(__file__).parent.parent / "tests/data/tiny-random"
A4 = (1654, 2339)  # px at 200 dpi
MAX_CROPS = 6  # vLLM's own; so both cut any page alike
VARIANTS = {  # label: side and options
    "ours": ("ours", {"max_crops": MAX_CROPS}),
    "peer": ("peer", {}),
    "pillow": ("ours", {"max_crops": MAX_CROPS, "resampler": "pillow"}),
}
Options = dict[str, Any]


def text_page(seed: int = 0, size: tuple[int, int] = A4) -> bytes:
    """A page of black words on white, as JPEG."""
    rng, (width, height) = random.Random(seed), size
    page = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(width / 60)
    letters = "aaabcdeeefghiiklmnnooprrsttuvwyz"
    for top in range(height // 16, height - height // 16, height // 68):
        words = ("".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(13))
        draw.text((width // 10, top), " ".join(words), fill="black", font=font)
    file = io.BytesIO()
    page.save(file, "JPEG", quality=90)
    return file.getvalue()


def pipeline(side: str, model: str, data: bytes) -> Callable[[Options], tuple[float, int, int]]:
    """A function of a request's options that prepares the page in this process.

    It returns the time at which the page was decoded, bytes for the engine and image tokens.
    """
    register(side)
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.media import ImageMediaIO
    from vllm.v1.serial_utils import MsgpackEncoder

    from vllm_dsocr.config import IMAGE_TOKEN

    config = ModelConfig(model, max_model_len=4096, dtype="bfloat16")
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    image_token = processor.info.get_tokenizer().get_vocab()[IMAGE_TOKEN]
    prompt = [processor.info.get_tokenizer().bos_token_id, image_token]

    def prepare(options: Options) -> tuple[float, int, int]:
        image = ImageMediaIO().load_bytes(data)
        decoded = time.process_time()
        items = processor.info.parse_mm_data({"image": [image]})
        inputs = processor(list(prompt), items, hf_processor_mm_kwargs=options)
        _, *pixels = MsgpackEncoder().encode(inputs["mm_kwargs"])
        tokens = inputs["prompt_token_ids"].count(image_token)
        return decoded, sum(memoryview(buffer).nbytes for buffer in pixels), tokens

    return prepare


def measure(
    prepare: Callable[[Options], tuple[float, int, int]], options: Options
) -> dict[str, float]:
    """One page: milliseconds in all and for decoding, bytes, image tokens."""
    start = time.process_time()
    decoded, size, tokens = prepare(options)
    ms, decode_ms = ((end - start) * 1e3 for end in (time.process_time(), decoded))
    return {"ms": ms, "decode_ms": decode_ms, "bytes": size, "tokens": tokens}


def pages_per_second(
    prepare: Callable[[Options], Any], options: Options, threads: int, pages: int = 16
) -> dict[str, float]:
    """Of wall time, with so many pages under way at once."""
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(prepare, [options] * pages))
    return {"pages_per_s": pages / (time.perf_counter() - start)}


def answers(side: str, model: str, image: Path) -> Callable[..., dict[str, float]]:
    """What this process answers: one page measured, or a rate where `threads` is asked for."""
    import torch

    torch.set_num_threads(1)
    prepare = pipeline(side, model, image.read_bytes())

    def answer(threads: int = 0, **options: Any) -> dict[str, float]:
        if threads:
            return pages_per_second(prepare, options, threads)
        return measure(prepare, options)

    return answer


def compare(sides: dict[str, Side], rounds: int) -> dict[str, dict[str, float]]:
    """Medians of every variant; who goes first changes from round to round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for number in range(-1, rounds):  # the first round only warms up
        for name in sorted(VARIANTS, reverse=bool(number % 2)):
            side, options = VARIANTS[name]
            answer = sides[side].ask(**options)
            if number >= 0:
                found[name].append(answer)
    return {
        name: {key: statistics.median(a[key] for a in all_answers) for key in all_answers[0]}
        for name, all_answers in found.items()
    }


def report(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The table, printed, and its figures with the ratios ours / peer."""
    print(f"{'':>8} {'CPU ms':>8} {'decoding':>9} {'bytes':>12} {'tokens':>7}")
    for name, cost in found.items():
        ms = f"{cost['ms']:>8.1f} {cost['decode_ms']:>9.1f}"
        print(f"{name:>8} {ms} {cost['bytes']:>12,.0f} {cost['tokens']:>7.0f}")
    ours, peer = found["ours"], found["peer"]
    if ours["tokens"] != peer["tokens"]:
        raise SystemExit("the two sides cut the page differently")
    ratios = {"cpu_ratio": ours["ms"] / peer["ms"], "bytes_ratio": ours["bytes"] / peer["bytes"]}
    print("ours / peer: " + ", ".join(f"{name} {value:.3f}" for name, value in ratios.items()))
    flat = {f"{name}_{key}": value for name, cost in found.items() for key, value in cost.items()}
    return {**ratios, **flat}


def scaling(side: Side, most: int) -> dict[str, float]:
    """Our pages per second with 1, 2, 4, ... threads."""
    counts = [2**power for power in range(most.bit_length())]
    options = VARIANTS["ours"][1]
    rates = {n: side.ask(threads=n, **options)["pages_per_s"] for n in counts}
    print("pages/s with threads: " + ", ".join(f"{n}: {rate:.1f}" for n, rate in rates.items()))
    return {f"pages_per_s_{n}": rate for n, rate in rates.items()}


def run(image: Path, model: str, rounds: int, threads: int) -> dict[str, Any]:
    start = functools.partial(Side, "benchmarks.preprocess", OMP_NUM_THREADS="1")
    arguments = ("--image", str(image), "--model", model)
    with start("ours", *arguments) as ours, start("peer", *arguments) as peer:
        found = report(compare({"ours": ours, "peer": peer}, rounds))
        return {**found, **(scaling(ours, threads) if threads else {})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image", type=Path, help="an image file; without it a page of text")
    parser.add_argument("--model", default=str(MODEL), help="tokenizer and config; no weights")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2, help="up to so many; 0 for none")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        answer_questions(answers(args.side, args.model, args.image))
        return
    print(headline())
    with tempfile.TemporaryDirectory() as folder:
        image = args.image or Path(folder, "page.jpg")
        if args.image is None:
            image.write_bytes(text_page())
        found = run(image, args.model, args.rounds, args.threads)
    print(json.dumps({"rounds": args.rounds, **found, **machine()}))


if __name__ == "__main__":
    main()
